"""What a built-in problem is: options that can be listed without torch, and an optimizee for every seed."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trajectory_tools.errors import BadArgument
from trajectory_tools.options import Options
from trajectory_tools.symmetry.groups import SymmetryGroup

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["SEED_LIMIT", "Optimizee", "Problem", "streams"]

SEED_LIMIT = 2**32
"""Runs are recorded with seeds below this; learning rates are tuned with seeds from here on, so none is seen twice."""


@dataclass(frozen=True)
class Optimizee:
    """Something to train: a model with its initial weights, its stream of mini-batches, and its loss.

    ``batches`` never ends. ``loss(batch)`` is the 0-d loss of ``model`` as it then is. ``symmetries`` are the exact
    ones of the architecture, with their units; ``data`` says what it is trained on. ``draw(n)`` is a batch of n samples
    of the training set (None: as many as a mini-batch has), drawn uniformly without replacement, independently of all
    other draws, from a stream of its own, which ``batches`` does not miss; ``None`` where there is no such stream.
    ``batch_size`` is how many samples a mini-batch has; ``None`` where it has none, or does not say.
    """

    model: nn.Module
    batches: Iterator[Any]
    loss: Callable[[Any], Tensor]
    symmetries: tuple[SymmetryGroup, ...]
    data: str
    draw: Callable[[int | None], Any] | None = None
    batch_size: int | None = None


@dataclass(frozen=True, kw_only=True)
class Problem(Options, ABC):
    """A family of optimizees: its fields are the options, a seed picks one member."""

    @abstractmethod
    def start(self, seed: int) -> Optimizee:
        """The optimizee of this seed, at its first step.

        Another seed gives other initial weights and other mini-batches; the same seed gives the same bits. Neither
        making nor iterating it touches torch's global generators.
        """


def streams(seed: int, count: int) -> list[int]:
    """``count`` seeds for ``torch.Generator``, whose streams are independent of each other and of other seeds'.

    Raises ``BadArgument`` for a seed that is no whole number from 0 on.
    """
    try:
        children = np.random.SeedSequence(operator.index(seed)).spawn(count)
    except (TypeError, ValueError) as error:
        raise BadArgument(f"the seed is {seed!r}; give a whole number from 0 on") from error
    return [int(child.generate_state(1, np.uint64)[0]) for child in children]
