"""Comparisons: several optimizers on several problems, each tuned, over several seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trajectory_tools.experiments.recording import Experiment
from trajectory_tools.optimizers import optimizer_options
from trajectory_tools.problems import make_problem

__all__ = ["DEMO", "Entry", "record_comparison"]


@dataclass(frozen=True)
class Entry:
    """One curve of a comparison: where its runs go, what it is called, what is trained with what."""

    folder: str
    label: str
    problem: str
    problem_options: Mapping[str, Any]
    optimizer: str
    options: Mapping[str, Any] = field(default_factory=dict)


_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "leaky-relu": {"activation": "leaky_relu"},
    "batch-norm": {"activation": "relu", "batch_norm": True},
}
_OPTIMIZERS: Sequence[tuple[str, str, str, Mapping[str, Any]]] = (
    ("sgd", "SGD", "sgd", {}),
    ("momentum", "SGD, momentum 0.9", "sgd", {"momentum": 0.9}),
    ("adam", "Adam", "adam", {}),
    ("lion", "Lion", "lion", {}),
    ("l2o", "L2O", "l2o", {}),  # with the weights that ship for each setting
)
DEMO = tuple(
    Entry(f"{setting}/{folder}", label, "digits-mlp", problem_options, optimizer, options)
    for setting, problem_options in _SETTINGS.items()
    for folder, label, optimizer, options in _OPTIMIZERS
)
"""Plain SGD, which keeps every symmetry, beside four optimizers that do not, in the two settings of the study.

Batch normalization comes with ReLU, as in Sobotka et al. 2023 (arXiv 2312.07174): it is what figure 4 shows.
"""


def record_comparison(
    entries: Sequence[Entry],
    output: Path,
    *,
    seeds: int,
    steps: int,
    replace: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[Path]:
    """Record each entry, with its learning rate tuned, for seeds 0, 1, ..., yielding each run's folder."""
    for entry in entries:
        problem = make_problem(entry.problem, **entry.problem_options)
        experiment = Experiment(problem, entry.optimizer, entry.options)
        if any(option.name == "lr" for option in optimizer_options(entry.optimizer)):
            experiment = Experiment.tuned(problem, entry.optimizer, entry.options)
            say(f"{entry.folder}: tuned lr = {experiment.options['lr']:g}")
        for seed in range(seeds):
            folder = output / entry.folder / f"seed-{seed}"
            experiment.record(
                folder, seed=seed, steps=steps, label=entry.label, if_exists="replace" if replace else "error"
            )
            yield folder
