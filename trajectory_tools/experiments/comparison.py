"""Comparisons: several optimizers on several problems, each tuned, over several seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trajectory_tools.experiments.recording import Experiment
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
)
DEMO = tuple(
    Entry(f"{setting}/{folder}", label, "digits-mlp", problem_options, optimizer, options)
    for setting, problem_options in _SETTINGS.items()
    for folder, label, optimizer, options in _OPTIMIZERS
)
"""Plain SGD, which keeps every symmetry, beside three optimizers that do not."""


def record_comparison(
    entries: Sequence[Entry],
    output: Path,
    *,
    seeds: int,
    steps: int,
    replace: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[Path]:
    """Tune each entry's learning rate, record it for seeds 0, 1, ..., and yield the run folders as they are done."""
    for entry in entries:
        problem = make_problem(entry.problem, **entry.problem_options)
        experiment = Experiment.tuned(problem, entry.optimizer, entry.options)
        say(f"{entry.folder}: tuned lr = {experiment.options['lr']:g}")
        for seed in range(seeds):
            folder = output / entry.folder / f"seed-{seed}"
            experiment.record(
                folder, seed=seed, steps=steps, label=entry.label, if_exists="replace" if replace else "error"
            )
            yield folder
