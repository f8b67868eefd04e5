"""The training loss, the learning rate, and whatever else was logged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd

from trajectory_tools.errors import MissingData
from trajectory_tools.metrics.base import Metric
from trajectory_tools.metrics.frames import Series, tidy
from trajectory_tools.run import Run
from trajectory_tools.store.chunks import Chunk

__all__ = ["Loss"]

MEASURED = ("wall_time", "record_seconds", "skipped", "n_evals")


@dataclass(frozen=True)
class Loss(Metric[None, list[Chunk]]):
    """The training loss, the learning rate, and every other scalar that was logged, at every step.

    ``quantity`` is the name under which it was logged; steps at which it was not logged are left out, a loss of NaN or
    ±Inf stays.
    """

    name: ClassVar[str] = "loss"
    table: ClassVar[str] = "scalars"

    def prepare(self, run: Run) -> None:
        if not run.parts("scalars"):
            raise MissingData("nothing that was logged reached the disk" if run.n_steps else "no step was recorded")

    def update(self, context: None, chunk: Chunk) -> list[Chunk]:
        return [chunk]

    def combine(self, left: list[Chunk], right: list[Chunk]) -> list[Chunk]:
        left.extend(right)
        return left

    def finish(self, context: None, state: list[Chunk]) -> pd.DataFrame:
        series = []
        for chunk in state:
            for name, values in chunk.scalars.items():
                logged = ~np.ma.getmaskarray(values)
                if name not in MEASURED and logged.any():
                    series.append(Series({"quantity": name}, chunk.steps[logged], values[logged]))
        return tidy(series, ("quantity",))
