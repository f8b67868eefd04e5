"""Which weights a learned optimizer works with: a file's, a network's, or those that ship and fit the problem."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trajectory_tools.errors import BadArgument, MissingData
from trajectory_tools.l2o.network import CoordinatewiseLSTM
from trajectory_tools.l2o.weights import load_weights, network_from, sha256

if TYPE_CHECKING:
    from trajectory_tools.problems.base import Problem

__all__ = ["SHIPPED", "Weights", "choose_weights", "fitting_weights", "shipped_weights"]

SHIPPED = Path(__file__).with_name("shipped")
"""A file that lies here is shipped, and its name, without the suffix, is that of the weights."""
DATA = ("mnist-mlp", "digits-mlp")
NETWORKS = ("sigmoid", "leaky_relu", "relu-batch_norm")


@dataclass(frozen=True, eq=False)
class Weights:
    """A network, what to call it, and its card (see ``save_weights``)."""

    name: str
    network: CoordinatewiseLSTM
    card: dict[str, Any]

    @cached_property
    def sha256(self) -> str:
        """Of the network's numbers and settings."""
        return sha256(self.network)

    def to_json(self) -> dict[str, Any]:
        """For run.json."""
        return {"name": self.name, "sha256": self.sha256, "card": self.card}


def choose_weights(weights: str | Path | CoordinatewiseLSTM | None = None) -> Weights:
    """Those in a file, the shipped ones of this name, or a network's as they are now; ``None``: ``fitting_weights()``.

    A text that is the name of shipped weights means those, and ``./name`` the file. Raises ``MissingData`` where none
    are shipped, and what ``load_weights`` raises.
    """
    if isinstance(weights, CoordinatewiseLSTM):
        network = network_from(weights.state_dict(), output_scale=weights.output_scale, where="the network")
        return Weights("in memory", network, {})
    shipped = shipped_weights()
    name = fitting_weights() if weights is None else os.fspath(weights)
    if isinstance(weights, str) and name not in shipped and not Path(name).exists():
        near = difflib.get_close_matches(name, shipped, n=3, cutoff=0.5) or list(shipped)
        raise BadArgument(f"no weights {name!r}: there is no such file, and shipped are {', '.join(near) or 'none'}")
    return Weights(name, *load_weights(name if isinstance(weights, Path) else shipped.get(name, Path(name))))


def shipped_weights() -> dict[str, Path]:
    """Name → file of the weights that come with this package."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.safetensors"))}


def fitting_weights(problem: Problem | None = None) -> str:
    """The name of the shipped weights that are nearest to a problem: digits-mlp-sigmoid, mnist-mlp-relu-batch_norm, ...

    Weights are named as the problem they were meta-trained on, its activation, and its batch normalization. Where those
    of the problem are not shipped, the network counts before the data. Nearest is, to batch normalization, ReLU with
    it; to ReLU, leaky ReLU; to any other network, and to a problem that has none, sigmoid. Of the data sets, MNIST
    comes before the digits. Names with anything more, such as of regularized weights, have to be asked for.

    Raises ``MissingData`` where none of these are shipped.
    """
    activation, batch_norm = getattr(problem, "activation", None), getattr(problem, "batch_norm", False)
    own = f"{activation}{'-batch_norm' if batch_norm else ''}"
    nearest = NETWORKS[2] if batch_norm else NETWORKS[1] if activation in ("relu", "leaky_relu") else NETWORKS[0]
    data = DATA if problem is None else (problem.name, *DATA)
    names = [f"{first}-{rest}" for rest in (own, nearest, *NETWORKS) for first in data]
    shipped = shipped_weights()
    for name in names if problem is None else (problem.name, *names):
        if name in shipped:
            return name
    raise MissingData(
        "no weights are shipped with this version; make some with `traj meta-train digits-mlp -o weights.safetensors`"
        " and give that file as weights (--weights)"
    )
