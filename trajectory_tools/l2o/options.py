"""The options of meta-training, listed and checked without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trajectory_tools.options import NON_NEGATIVE, POSITIVE, Options, option

__all__ = ["FORMS", "REGULARIZERS", "MetaTrainingOptions"]

REGULARIZERS = ("none", "rescale", "scale", "translation", "mean", "norm")
FORMS = ("signed", "unit")


@dataclass(frozen=True, kw_only=True)
class MetaTrainingOptions(Options):
    """How a learned optimizer is meta-trained.

    Raises ``BadArgument`` for a value that cannot be used, and for a horizon shorter than the unroll.
    """

    name: ClassVar[str] = "meta-training"

    seed: int = option(0, "of the network's first weights and of every run", valid=NON_NEGATIVE)
    epochs: int = option(20, "epochs; after each the network is tried on held-out seeds", valid=POSITIVE)
    runs: int = option(20, "training runs in an epoch, each of a new optimizee", valid=POSITIVE)
    horizon: tuple[int, ...] = option(
        (50, 200), "steps of a run: one number, or two that it is drawn log-uniformly between", valid=POSITIVE
    )
    unroll: int = option(20, "steps of a truncation, after each of which the network takes a step", valid=POSITIVE)
    lr: float = option(3e-3, "meta learning rate (Adam's)", valid=POSITIVE)
    decay: str = option("cosine", "of the meta learning rate, down to 0", choices=("cosine", "none"))
    clip: float = option(1.0, "greatest norm of a meta-gradient; 0: any", valid=NON_NEGATIVE)
    loss: str = option(
        "log", "of a truncation: the sum of its losses, or the logarithm of that", choices=("sum", "log")
    )
    loss_cap: float = option(0.0, "what a loss counts at most, and has no gradient beyond; 0: any", valid=NON_NEGATIVE)
    scaling: float = option(
        0.0, "scale coordinate i by exp(x_i), x_i uniform between ± this, new for every run", valid=NON_NEGATIVE
    )
    regularizer: str = option("none", "kind of symmetry breaking (or norm) that is added", choices=REGULARIZERS)
    regularizer_form: str = option("signed", "one signed sum of all units, or each unit's size", choices=FORMS)
    beta: float = option(1.0, "β, the factor of the regularizer", valid=NON_NEGATIVE)
    selection_seeds: int = option(4, "held-out seeds that the best weights are chosen on", valid=POSITIVE)
    selection_steps: int = option(100, "steps of a run on a held-out seed", valid=POSITIVE)
    init: str = option("", "weights to start from: a file, or the name of shipped ones; fresh ones where empty")
    preprocess: bool = option(True, "give the network log|g| and sign g rather than g")
    units: int = option(20, "hidden units of each of the two cells", valid=POSITIVE)
    output_scale: float = option(0.1, "factor of the network's output", valid=POSITIVE)
    keep: str = option(
        "auto",
        "of a truncation: all (23 kB a parameter), the inputs (1 kB, computed twice), or all up to 1 GB",
        choices=("auto", "all", "inputs"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.horizon) not in (1, 2) or self.horizon[0] > self.horizon[-1]:
            self.refuse("horizon", self.horizon, "give one number of steps, or the least and the greatest")
        if self.horizon[0] < self.unroll:
            self.refuse("horizon", self.horizon, f"it is shorter than the unroll of {self.unroll}; give at least that")
