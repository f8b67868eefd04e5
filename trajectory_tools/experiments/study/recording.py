"""The runs of a curve: those that are recorded already with the same settings, and the others, recorded now."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trajectory_tools.errors import OutputExists
from trajectory_tools.experiments.recording import IN_NO_TITLE, Experiment
from trajectory_tools.experiments.study.design import Curve, StudyFigure
from trajectory_tools.experiments.tune import Trial, Tuning, tune_lr
from trajectory_tools.optimizers import OPTIMIZERS
from trajectory_tools.problems import Problem
from trajectory_tools.problems.mlp import MLP
from trajectory_tools.run import Run
from trajectory_tools.store.metadata import RUN_FILE

__all__ = ["CurveRuns"]


@dataclass(frozen=True)
class CurveRuns:
    """One curve of a figure, on a problem, and the folder of its runs.

    ``weights``: as ``l2o`` is told them. ``data``: the description of the data set, for a problem that has one.
    """

    figure: StudyFigure
    curve: Curve
    problem: Problem
    folder: Path
    weights: str | None = None
    data: str = ""

    def take(
        self,
        seeds: Sequence[int],
        *,
        replace: bool = False,
        say: Callable[[str], object] = lambda text: None,
        on_run: Callable[[], object] = lambda: None,
    ) -> list[Run]:
        """The run of each seed, in their order.

        One that is there is taken as it is, or recorded anew where it was not finished; a learning rate that was tuned
        for it is not tuned again. Raises ``OutputExists`` for a run of other settings, without ``replace``.
        """
        kept: dict[int, Run] = {}
        tuning: Tuning | None = None
        for seed in seeds:
            if not (self._path(seed) / RUN_FILE).exists():
                continue
            run = Run(self._path(seed))
            of_run = tuning or (_tuning(run) if self.curve.tuned else None)
            difference = self._difference(run, seed, of_run)
            if not difference:
                tuning = of_run
                if run.status == "finished":
                    kept[seed] = run
            elif not replace:
                raise OutputExists(
                    f"{run.path} was recorded with {difference}; choose another folder with -o, or replace it with"
                    " --force"
                )
        experiment: Experiment | None = None
        for seed in seeds:
            if seed not in kept:
                experiment = experiment or self._experiment(tuning, say)
                kept[seed] = self._record(experiment, seed)
            on_run()
        return [kept[seed] for seed in seeds]

    def _experiment(self, tuning: Tuning | None, say: Callable[[str], object]) -> Experiment:
        options = dict(self.curve.options) | ({} if self.weights is None else {"weights": self.weights})
        if not self.curve.tuned:
            return Experiment(self.problem, self.curve.optimizer, options)
        if tuning is None:
            tuning = tune_lr(self.problem, self.curve.optimizer, **options)
            say(f"{self.folder}: tuned lr = {tuning.best:g}")
        return Experiment(self.problem, self.curve.optimizer, {**options, "lr": tuning.best}, tuning)

    def _record(self, experiment: Experiment, seed: int) -> Run:
        from trajectory_tools.recorder.schedule import at

        experiment.record(
            self._path(seed),
            seed=seed,
            steps=self.figure.iterations,
            label=self.curve.label,
            save=self.figure.save,
            schedule=at(i - 1 for i in self.figure.at) if self.figure.at else None,
            probing=self.figure.probing,
            if_exists="replace",
        )
        return Run(self._path(seed))

    def _difference(self, run: Run, seed: int, tuning: Tuning | None) -> str:
        """The first setting in which the run is not what is needed, in words; empty where there is none."""
        problem, optimizer = run.metadata.get("problem", {}), run.metadata.get("optimizer", {})
        options = dict(self.curve.options) | ({} if tuning is None else {"lr": tuning.best})
        of_optimizer = OPTIMIZERS[self.curve.optimizer].make(options).options()
        wanted = {
            "problem": self.problem.name,
            **self.problem.options(),
            "optimizer": self.curve.optimizer,
            **of_optimizer,
            "seed": seed,
            "label": self.curve.label,
            "save": set(self.figure.save),
        }
        found = {
            "problem": problem.get("name"),
            **{name: problem.get("options", {}).get(name) for name in self.problem.options()},
            "optimizer": optimizer.get("name"),
            **{name: optimizer.get("options", {}).get(name) for name in of_optimizer},
            "seed": run.seed,
            "label": run.label,
            "save": set(run.columns),
        }
        if isinstance(self.problem, MLP):
            wanted["data"], found["data"] = self.data, problem.get("data")
        if self.figure.probing is not None:
            wanted["probes"], found["probes"] = self.figure.probing.to_json(), run.metadata.get("probing")
        if self.weights is not None:
            from trajectory_tools.l2o.choice import choose_weights

            wanted["weights"] = choose_weights(self.weights).sha256
            found["weights"] = optimizer.get("weights", {}).get("sha256")
        if run.status == "finished":
            wanted["iterations"], found["iterations"] = self.figure.iterations, run.n_steps
            if self.figure.save:
                wanted["recorded iterations"] = list(self.figure.at or range(1, self.figure.iterations + 1))
                found["recorded iterations"] = [int(step) + 1 for step in run.steps]
        for name, value in wanted.items():
            if name not in IN_NO_TITLE and found[name] != value:
                return f"{name} = {found[name]!r}, {self.figure.name} needs {value!r}"
        return ""

    def _path(self, seed: int) -> Path:
        return self.folder / f"seed-{seed}"


def _tuning(run: Run) -> Tuning | None:
    """What the run's learning rate was chosen from."""
    found: Mapping[str, Any] | None = run.metadata.get("tuning")
    if not found:
        return None
    table = tuple(
        Trial(row["lr"], tuple(map(_infinite, row["losses"])), _infinite(row["mean"])) for row in found["table"]
    )
    return Tuning(found["best"], table, found["steps"], tuple(found["seeds"]))


def _infinite(value: float | None) -> float:
    return math.inf if value is None else value
