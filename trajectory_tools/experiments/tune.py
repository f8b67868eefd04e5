"""Choosing a learning rate, in the same way for every optimizer."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from trajectory_tools.errors import BadArgument
from trajectory_tools.optimizers import make_optimizer
from trajectory_tools.problems.base import SEED_LIMIT, Problem

__all__ = ["LEARNING_RATES", "Trial", "Tuning", "tune_lr"]

LEARNING_RATES = (1e-4, 5e-4, 1e-3, 5e-3, 1e-2, 5e-2, 1e-1, 5e-1, 1.0, 3.0)
STEPS = 50
SEEDS = tuple(range(SEED_LIMIT, SEED_LIMIT + 3))
"""Disjoint from every seed that a run may be recorded with: those are below ``SEED_LIMIT``."""


@dataclass(frozen=True)
class Trial:
    """A learning rate and the training loss summed over the steps: each seed's, and the mean; inf where it diverged."""

    lr: float
    losses: tuple[float, ...]
    mean: float


@dataclass(frozen=True)
class Tuning:
    """The learning rate that was chosen, and everything it was chosen from."""

    best: float
    table: tuple[Trial, ...]
    steps: int
    seeds: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """For run.json; an infinite sum, which JSON cannot say, is null."""
        table = [
            {"lr": t.lr, "losses": [_finite(loss) for loss in t.losses], "mean": _finite(t.mean)} for t in self.table
        ]
        return {**asdict(self), "seeds": list(self.seeds), "table": table}


def tune_lr(problem: Problem, optimizer_name: str, **options: Any) -> Tuning:
    """The learning rate, of ten from 1e-4 to 3, with the lowest training loss summed over 50 steps, mean of 3 seeds.

    ``options`` are the optimizer's others (for lion-sgd, ``lion_lr`` is one and stays as given). A run whose loss is
    NaN or infinite at any step counts as infinite; of equal means the smaller learning rate wins. Raises
    ``BadArgument`` where every learning rate diverges on some seed, or where ``lr`` is given.
    """
    if "lr" in options:
        raise BadArgument(f"lr is {options['lr']!r} and to be tuned as well; leave it out")
    table = []
    for lr in LEARNING_RATES:
        losses = tuple(_summed_loss(problem, seed, optimizer_name, {**options, "lr": lr}) for seed in SEEDS)
        table.append(Trial(lr, losses, math.fsum(losses) / len(losses)))
    best = min(table, key=lambda trial: (trial.mean, trial.lr))
    if math.isinf(best.mean):
        raise BadArgument(
            f"{optimizer_name} diverges on {problem.name} within {STEPS} steps at every learning rate from"
            f" {LEARNING_RATES[0]:g} to {LEARNING_RATES[-1]:g}; give one with --lr"
        )
    return Tuning(best.lr, tuple(table), STEPS, SEEDS)


def _summed_loss(problem: Problem, seed: int, optimizer_name: str, options: dict[str, Any]) -> float:
    from trajectory_tools.experiments.training import train

    optimizee = problem.start(seed)
    optimizer = make_optimizer(optimizer_name, optimizee.model.parameters(), **options)
    losses = train(optimizee, optimizer, STEPS, on_step=lambda loss: not loss.isfinite())
    total = math.fsum(map(float, losses))
    return total if math.isfinite(total) else math.inf


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
