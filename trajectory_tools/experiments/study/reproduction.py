"""A figure of the study, from nothing to its numbers: planned, recorded, computed, held against the claims."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trajectory_tools.errors import BadArgument, UnknownName
from trajectory_tools.experiments.study.claims import Number, Verdict, judge, summary
from trajectory_tools.experiments.study.design import MetaTrained, Setting, StudyFigure
from trajectory_tools.experiments.study.figures import FIGURES
from trajectory_tools.experiments.study.recording import CurveRuns
from trajectory_tools.experiments.study.weights import find_weights
from trajectory_tools.metrics import compute
from trajectory_tools.problems import Problem
from trajectory_tools.problems.mlp import MLP
from trajectory_tools.run import Run

__all__ = ["DATA", "Plan", "Reproduction", "SettingResult", "measure"]

DATA = ("digits", "mnist")


@dataclass(frozen=True)
class SettingResult:
    """One setting's runs, the metrics' frames, the numbers (seeds,) of its table, and the verdicts on its claims."""

    setting: Setting
    runs: tuple[Run, ...]
    frames: Mapping[str, pd.DataFrame]
    values: Mapping[Number, NDArray[np.float64]]
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True)
class Reproduction:
    """A figure again, on one data set, over some seeds."""

    figure: StudyFigure
    data: str
    seeds: tuple[int, ...]
    settings: tuple[SettingResult, ...]

    @property
    def runs(self) -> list[Run]:
        """Those of all settings."""
        return [run for result in self.settings for run in result.runs]

    @property
    def holds(self) -> bool:
        """Whether every claim does."""
        return all(verdict.holds for result in self.settings for verdict in result.verdicts)

    def to_json(self) -> dict[str, Any]:
        """Every claim and number, seed by seed, with the paper's."""
        return {
            "figure": self.figure.name,
            "source": self.figure.source,
            "data": self.data,
            "seeds": list(self.seeds),
            "settings": [
                {
                    "setting": result.setting.title,
                    "problem": result.runs[0].problem,
                    "claims": [verdict.to_json() for verdict in result.verdicts],
                    "numbers": [
                        {
                            "curve": number.curve,
                            "column": column.name,
                            "of": str(column.reading),
                            "paper": column.paper.get(number.curve),
                            **summary(result.values[number]),
                        }
                        for column in result.setting.columns
                        for number in result.values
                        if number.column == column.name
                    ],
                }
                for result in self.settings
            ],
            "runs": [run.name for run in self.runs],
        }


@dataclass(frozen=True)
class Plan:
    """What is to be reproduced, once it is known that it can be: the seeds, each setting's problem, the weights.

    ``described`` says which data set was found.
    """

    figure: StudyFigure
    data: str
    seeds: tuple[int, ...]
    problems: tuple[Problem, ...]
    weights: Mapping[MetaTrained, str]
    described: str

    @classmethod
    def make(
        cls,
        figure: str | StudyFigure,
        *,
        data: str = "digits",
        data_dir: str | None = None,
        seeds: int | None = None,
        weights: str | Path | None = None,
    ) -> Plan:
        """The plan for a figure; nothing is recorded yet, and no file is touched.

        Args:
            figure: its name in ``FIGURES``, or one of one's own.
            data: ``digits`` or ``mnist``; ``data_dir``: where MNIST is.
            seeds: how many, from 0 on; as many as the figure asks for unless told. No meta-training, selection or
                tuning has met any of them.
            weights: a folder with weights that are called as those that ship, or, where the figure has one learned
                optimizer, a file; the shipped ones unless told.

        Raises ``UnknownName``, ``BadArgument``, and ``MissingData`` where weights or data are missing.
        """
        if isinstance(figure, str):
            if figure not in FIGURES:
                raise UnknownName("figure", figure, FIGURES)
            figure = FIGURES[figure]
        if data not in DATA:
            raise UnknownName("data", data, DATA)
        if data_dir is not None and data != "mnist":
            raise BadArgument(f"the digits come with scikit-learn, found the folder {data_dir}; leave --data-dir out")
        count = figure.seeds if seeds is None else seeds
        if count < 1:
            raise BadArgument(f"the number of seeds is {count}; give {figure.seeds} or more, 1 at the least")
        problems = tuple(setting.make(data, data_dir) for setting in figure.settings)
        found = find_weights(figure, data, None if weights is None else Path(weights))
        described = next((problem.images().description for problem in problems if isinstance(problem, MLP)), "")
        return cls(figure, data, tuple(range(count)), problems, found, described)

    @property
    def n_runs(self) -> int:
        """How many runs it takes."""
        return sum(len(setting.curves) for setting in self.figure.settings) * len(self.seeds)

    def carry_out(
        self,
        folder: str | Path,
        *,
        replace: bool = False,
        say: Callable[[str], object] = lambda text: None,
        on_run: Callable[[], object] = lambda: None,
    ) -> Reproduction:
        """Record what is needed below ``folder``, or take what is there, and hold the numbers against the claims.

        Args:
            folder: the runs go to ``folder/setting/curve/seed-N``; those that are there with the same settings are
                taken as they are.
            replace: record anew what is there with other settings; ``OutputExists`` without.
            say: called with what a person may want to know.
            on_run: called after each run.
        """
        results = []
        for setting, problem in zip(self.figure.settings, self.problems, strict=True):
            runs: list[Run] = []
            for curve in setting.curves:
                weights = None if curve.weights is None else self.weights[curve.weights]
                place = Path(folder) / setting.key / _slug(curve.label)
                here = CurveRuns(self.figure, curve, problem, place, weights, self.described)
                runs += here.take(self.seeds, replace=replace, say=say, on_run=on_run)
            results.append(measure(self.figure, setting, runs))
        return Reproduction(self.figure, self.data, self.seeds, tuple(results))


def measure(figure: StudyFigure, setting: Setting, runs: list[Run]) -> SettingResult:
    """The numbers of one setting's runs, all of the same seeds, computed by the metrics, and the verdicts."""
    needed = {column.reading.metric for column in setting.columns}
    options: dict[str, dict[str, Any]] = {
        "symmetry": {"units": "none"},
        "histogram": {"chosen": tuple(i - 1 for i in figure.at)},
        # What is shown is the estimator on all coordinates; the others are those of a report.
        "tail_index": {"coordinates": 50, "directions": 16, "null_draws": 20, "resamples": 20},
        "covariance": {"resamples": 20},
    }
    frames = {metric: compute(runs, metric, **options.get(metric, {})) for metric in sorted({*needed, "loss"})}
    values: dict[Number, NDArray[np.float64]] = {}
    for column in setting.columns:
        read = column.reading.of(frames[column.reading.metric])
        for curve in setting.curves:
            if curve.label in read.index.get_level_values("label"):
                values[Number(curve.label, column.name)] = read[curve.label].sort_index().to_numpy(np.float64)
    n_seeds = len({run.seed for run in runs})
    judged = partial(judge, values=values, n_seeds=n_seeds)
    return SettingResult(setting, tuple(runs), frames, values, tuple(map(judged, setting.claims)))


def _slug(label: str) -> str:
    """A folder's name: ``λ = 0.5`` gives ``lambda-0.5``."""
    text = label.replace("λ", "lambda").replace("β", "beta").replace("=", " ").replace(",", " ")
    return "-".join(text.lower().split())
