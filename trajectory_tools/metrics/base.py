"""What a metric is: pure functions on arrays that stream over a run and merge."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trajectory_tools.run import Run

__all__ = ["Metric"]

Context = TypeVar("Context")
State = TypeVar("State")


class Metric(ABC, Generic[Context, State]):
    """One family of numbers computed from a run.

    ``prepare`` looks at the run once and returns what the pure functions need beside the data; ``update`` turns one
    chunk into a state; ``combine`` joins the states of consecutive spans of steps; ``finish`` turns the state of the
    whole run into a tidy frame. So a run is ``finish(reduce(combine, map(update, chunks)))``, on one thread or many
    machines. Contexts and states can be pickled. Options are the fields, each with a default, of the (frozen) dataclass
    that a metric is. One that raises is left out for that run, with the reason, and stops no other.
    """

    name: ClassVar[str]
    """What the registry, ``traj analyze --metric`` and ``analysis/<name>.parquet`` call it."""
    version: ClassVar[int] = 1
    """Raised when the numbers change, so that saved ones are computed again."""
    columns: ClassVar[tuple[str, ...]] = ()
    """Which of param, grad, update it reads; the chunks lack those that the run did not save."""

    table: ClassVar[str] = "tensors"
    """Or ``scalars``: then it gets one chunk, with ``scalars`` alone; or ``probes``: then a chunk is a ``ProbeSet``."""

    @abstractmethod
    def prepare(self, run: Run) -> Context:
        """What ``update`` and ``finish`` need to know of the run; ``MissingData`` where the run cannot be measured."""

    def steps(self, context: Context) -> NDArray[np.int64] | None:
        """The recorded (or probed) steps that it needs, sorted, or None for all.

        Chunks hold at least these, and others too where metrics that need more are computed in the same pass:
        ``update`` picks its own.
        """
        return None

    @abstractmethod
    def update(self, context: Context, chunk: Any) -> State:
        """The state of one chunk alone.

        A ``Chunk`` of consecutive steps, its arrays float64; or, for the table ``probes``, one ``ProbeSet``: the noise
        samples of one step and one batch size, as they were recorded.
        """

    def nothing(self, context: Context) -> State | None:
        """The state of a run without any tensors, for a metric that ``prepare`` has enough for; else None."""
        return None

    @abstractmethod
    def combine(self, left: State, right: State) -> State:
        """The state of both spans, ``left`` the earlier; may reuse either."""

    @abstractmethod
    def finish(self, context: Context, state: State) -> pd.DataFrame:
        """The numbers, as a tidy frame."""
