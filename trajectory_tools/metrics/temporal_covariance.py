"""How gradients and updates vary from step to step: what the logged steps alone can say of their covariance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trajectory_tools.errors import BadArgument, MissingData
from trajectory_tools.estimators.estimate import fault_of
from trajectory_tools.estimators.spectrum import gram_spectrum, leading_directions, subspace_overlap
from trajectory_tools.metrics.base import Metric
from trajectory_tools.metrics.covariance import spectrum_numbers
from trajectory_tools.metrics.frames import Series, tidy
from trajectory_tools.run import Run
from trajectory_tools.store.chunks import Chunk

__all__ = ["TemporalCovariance"]

Floats = NDArray[np.float64]

MAX_VALUES = 2**27
"""Of one kind in memory at a time, 1 GB; of a larger network fewer steps of each window are looked at."""

LEAST_STEPS = 4
"""Of a window."""


@dataclass(frozen=True)
class TemporalContext:
    """The windows: for each its chosen steps; the parameters' sizes, and the kinds that were saved."""

    windows: tuple[NDArray[np.int64], ...]
    sizes: Mapping[str, int]
    kinds: tuple[str, ...]


@dataclass
class Window:
    """What is known of one window: by kind the vectors of its chosen steps; once it is complete, its numbers alone."""

    first: int
    expected: int
    rows: dict[str, list[Floats]]
    numbers: list[Series] = field(default_factory=list)
    directions: dict[str, Floats] = field(default_factory=dict)

    def joined(self, later: Window, k: int) -> Window:
        """With the steps of a later part of the same window."""
        for kind, rows in later.rows.items():
            self.rows[kind].extend(rows)
        return self.completed(k)

    def completed(self, k: int, *, anyway: bool = False) -> Window:
        """The same, measured and its vectors dropped, if all of its steps are there."""
        seen = max(map(len, self.rows.values()), default=0)
        if not self.rows or (seen < self.expected and not anyway):
            return self
        for kind, rows in self.rows.items():
            samples = np.stack(rows)
            if len(samples) < LEAST_STEPS or fault_of(samples):
                continue
            samples -= samples.mean(axis=0)
            spectrum = gram_spectrum(samples @ samples.T, k)
            numbers = {"trace": (spectrum.trace, np.nan, np.nan, "")} | dict(spectrum_numbers(spectrum, len(samples)))
            for quantity, (value, *_) in numbers.items():
                keys = {"kind": kind, "quantity": f"temporal_{quantity}"}
                self.numbers.append(Series(keys, np.array([self.first]), value, n=len(samples)))
            self.directions[kind] = leading_directions(spectrum, samples)
        self.rows = {}
        return self


@dataclass(frozen=True)
class TemporalCovariance(Metric[TemporalContext, dict[int, Window]]):
    """How gradients and updates vary from step to step, in consecutive windows of the run: *temporal* covariance.

    No probes are needed, and it is another quantity than ``covariance``: θ and the optimizer's state move between the
    steps, so that what changes on the way counts as variance, and neighbouring updates of an optimizer with momentum
    are not independent. The run is cut into ``windows`` windows of equally many recorded steps, and of each up to
    ``steps_per_window`` evenly spaced ones are looked at (fewer, where a window would not fit into 1 GB); the rows
    stand at the window's first step, with ``n`` steps. For gradients and updates, Σ around the window's own mean:

    - ``temporal_trace``, ``temporal_eigenvalue_1``, ..., ``temporal_participation_ratio``, ``temporal_effective_rank``:
      as in ``covariance``;
    - ``temporal_overlap``: of the leading eigenvectors' span with that of the window before, the mean squared cosine.

    A window that holds NaN or infinite values, or does not vary, is left out. A gradient that was None counts as zero.
    """

    windows: int = 10
    steps_per_window: int = 64
    k: int = 5

    name: ClassVar[str] = "temporal_covariance"
    columns: ClassVar[tuple[str, ...]] = ("grad", "update")

    def __post_init__(self) -> None:
        if self.windows < 1 or self.k < 1 or self.steps_per_window < LEAST_STEPS:
            raise BadArgument(f"windows and k are 1 or more, steps_per_window {LEAST_STEPS} or more, found {self}")

    def prepare(self, run: Run) -> TemporalContext:
        kinds = tuple(kind for kind in ("grad", "update") if kind in run.columns)
        if not kinds:
            raise MissingData(f"it needs grad or update, and the run has {', '.join(run.columns) or 'scalars only'}")
        if len(run.steps) < LEAST_STEPS:
            raise MissingData(f"it needs {LEAST_STEPS} recorded steps, and the run has {len(run.steps)}")
        count = max(min(self.windows, len(run.steps) // LEAST_STEPS), 1)
        most = max(min(self.steps_per_window, MAX_VALUES // max(run.n_values, 1)), LEAST_STEPS)
        windows = []
        for window in np.array_split(run.steps, count):
            windows.append(window[np.linspace(0, len(window) - 1, min(most, len(window))).round().astype(int)])
        return TemporalContext(tuple(windows), {n: int(np.prod(s)) for n, s in run.shapes.items()}, kinds)

    def steps(self, context: TemporalContext) -> NDArray[np.int64]:
        return np.concatenate(context.windows)

    def update(self, context: TemporalContext, chunk: Chunk) -> dict[int, Window]:
        state: dict[int, Window] = {}
        for index, steps in enumerate(context.windows):
            chosen = np.flatnonzero(np.isin(chunk.steps, steps))
            if len(chosen):
                rows = {kind: [_vector(context, chunk, kind, row) for row in chosen.tolist()] for kind in context.kinds}
                state[index] = Window(int(steps[0]), len(steps), rows).completed(self.k)
        return state

    def combine(self, left: dict[int, Window], right: dict[int, Window]) -> dict[int, Window]:
        for index, window in right.items():
            left[index] = left[index].joined(window, self.k) if index in left else window
        return left

    def finish(self, context: TemporalContext, state: dict[int, Window]) -> pd.DataFrame:
        series: list[Series] = []
        before: dict[str, Floats] = {}
        for index in sorted(state):
            window = state[index].completed(self.k, anyway=True)
            series.extend(window.numbers)
            for kind in window.directions.keys() & before.keys():
                overlap = subspace_overlap(before[kind], window.directions[kind])
                keys = {"kind": kind, "quantity": "temporal_overlap"}
                series.append(Series(keys, np.array([window.first]), overlap, n=len(window.directions[kind])))
            before = window.directions
        if not series:
            raise MissingData("the gradients and updates are NaN, infinite, or the same at every step")
        return tidy(series, ("kind", "quantity"))


def _vector(context: TemporalContext, chunk: Chunk, kind: str, row: int) -> Floats:
    """All parameters of one step in one row; 0 where a parameter has none."""
    values = chunk.values(kind)
    parts = [values[name][row].ravel() if name in values else np.zeros(size) for name, size in context.sizes.items()]
    return np.concatenate(parts)
