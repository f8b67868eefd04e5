"""What a figure of the study is made of: curves in settings, columns of numbers, claims about them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trajectory_tools.experiments.probing import Probing
from trajectory_tools.experiments.study.claims import Claim
from trajectory_tools.experiments.study.reading import Reading
from trajectory_tools.problems import Problem, make_problem

__all__ = ["Column", "Curve", "MetaTrained", "Setting", "StudyFigure"]


@dataclass(frozen=True)
class MetaTrained:
    """What a learned optimizer was meta-trained on: from that follow the name of its weights, and how to make them."""

    activation: str = "sigmoid"
    batch_norm: bool = False
    regularizer: str = "none"
    beta: float = 0.0

    def name(self, data: str) -> str:
        """``digits-mlp-leaky_relu-rescale-beta0.5``: as weights that ship are called, without the suffix."""
        network = f"{data}-mlp-{self.activation}{'-batch_norm' * self.batch_norm}"
        return f"{network}-{self.regularizer}-beta{self.beta:g}" if self.beta else network

    def command(self, data: str) -> str:
        """The command that meta-trains them, into the working folder."""
        words = ["traj", "meta-train", f"{data}-mlp", "--activation", self.activation]
        words += ["--batch-norm"] * self.batch_norm
        words += ["--regularizer", self.regularizer, "--beta", f"{self.beta:g}"] if self.beta else []
        words += ["--data-dir", "DIR"] if data == "mnist" else []
        return shlex.join([*words, "-o", f"{self.name(data)}.safetensors"])


@dataclass(frozen=True)
class Curve:
    """An optimizer with its options; its learning rate is tuned on the problem it is shown on, unless it is given.

    ``weights``: those of a learned optimizer, which has no learning rate.
    """

    label: str
    optimizer: str
    options: Mapping[str, Any] = field(default_factory=dict)
    weights: MetaTrained | None = None

    @property
    def tuned(self) -> bool:
        """Whether its learning rate is tuned."""
        return "lr" not in self.options and self.weights is None


@dataclass(frozen=True)
class Column:
    """A number that is tabulated for each curve, and, curve → text, what was read off the paper's plot."""

    name: str
    reading: Reading
    paper: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Setting:
    """A problem, the curves on it, and what is claimed of them.

    ``problem`` and ``options`` are those of ``make_problem``; ``mlp`` means that of the data set. ``symmetry`` is the
    kind whose deviation and share are shown.
    """

    key: str
    title: str
    options: Mapping[str, Any]
    curves: tuple[Curve, ...]
    columns: tuple[Column, ...]
    claims: tuple[Claim, ...] = ()
    problem: str = "mlp"
    symmetry: str = ""

    def make(self, data: str, data_dir: str | None) -> Problem:
        """The problem on this data set."""
        if self.problem != "mlp":
            return make_problem(self.problem, **self.options)
        given = {} if data_dir is None else {"data_dir": data_dir}
        return make_problem(f"{data}-mlp", **self.options, **given)


@dataclass(frozen=True)
class StudyFigure:
    """One figure: how its runs are recorded, what it shows, and where it comes from.

    ``iterations``: the length of a run; ``at``: the iterations whose tensors are recorded (none named: all), and
    ``save`` which of them. ``shows``: the panels of each setting (deviation, share, loss), or ``histogram``, or
    ``noise``, which needs ``probing``: at which steps the noise is probed, and with what.
    """

    name: str
    title: str
    source: str
    about: str
    settings: tuple[Setting, ...]
    iterations: int
    shows: tuple[str, ...]
    save: tuple[str, ...] = ("param", "grad", "update")
    at: tuple[int, ...] = ()
    seeds: int = 3
    probing: Probing | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """The curves of all settings, each once."""
        return tuple(dict.fromkeys(curve.label for setting in self.settings for curve in setting.curves))

    def weights(self) -> tuple[MetaTrained, ...]:
        """Those that its learned optimizers work with, each once."""
        found = (curve.weights for setting in self.settings for curve in setting.curves)
        return tuple(dict.fromkeys(weights for weights in found if weights is not None))
