"""How large the elements of updates and gradients are: histograms over one grid of bins that all runs share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trajectory_tools.errors import BadArgument, MissingData
from trajectory_tools.metrics.base import Metric
from trajectory_tools.metrics.frames import Series, tidy
from trajectory_tools.run import Run
from trajectory_tools.store.chunks import Chunk

__all__ = ["EDGES", "WHOLE", "Histogram", "magnitude_counts"]

WHOLE = "(all)"
"""What the whole network is called among the parameters."""

BINS_PER_DECADE = 10
EDGES = np.concatenate(
    [[0.0], 10.0 ** ((np.arange(-15 * BINS_PER_DECADE, 5 * BINS_PER_DECADE + 1) - 0.5) / BINS_PER_DECADE), [np.inf]]
)
"""Edges of the bins of |x|: ten a decade from about 1e-15 to 1e5, and what lies below and above.

Zeros are counted apart. The bins lie around 1, 2, 5 × 10^k: steps of ±lr, recorded with their rounding, fall into one.
"""

DEFAULT_STEPS = (1, 5, 10, 30, 100, 500)


def magnitude_counts(values: NDArray[np.floating]) -> NDArray[np.int64]:
    """Counts of |x|: exact zeros, one count for each bin of ``EDGES``, NaN or infinite: (bins + 2,).

    A bin holds EDGES[i] ≤ |x| < EDGES[i + 1], the first one without 0.

    >>> counts = magnitude_counts(np.array([0.0, 1.0, -1.05, np.inf]))
    >>> int(counts[0]), int(counts[-1]), int(counts[1:-1].max())
    (1, 1, 2)
    """
    size = np.abs(values[np.isfinite(values)])
    nonzero = size[size > 0]
    bins = np.bincount(np.searchsorted(EDGES, nonzero, side="right") - 1, minlength=len(EDGES) - 1)
    return np.concatenate([[size.size - nonzero.size], bins, [values.size - size.size]])


@dataclass
class HistogramState:
    """(step, parameter, kind) → counts and the largest finite magnitude."""

    counts: dict[tuple[int, str, str], NDArray[np.int64]] = field(default_factory=dict)
    largest: dict[tuple[int, str, str], float] = field(default_factory=dict)


@dataclass(frozen=True)
class Histogram(Metric[NDArray[np.int64], HistogramState]):
    """How large the elements of updates and gradients are, per parameter and in the whole network, at chosen steps.

    - ``count``: how many |x| lie in low ≤ |x| < high, on a fixed grid of ten bins a decade (``EDGES``), so that all
      runs share it; low = high = 0 are exact zeros; low = high = NaN are NaN or infinite; ``n`` is the number of
      elements. Empty bins are left out;
    - ``max``: the largest finite |x|.

    Of a run with a subsample both are of the chosen coordinates, and ``n`` is their number; the parameters that
    ``match`` left out count nowhere.

    ``chosen``: the steps; by default those of 1, 5, 10, 30, 100, 500 that were recorded, and where there are none, six
    recorded steps spaced evenly on a log axis.
    """

    chosen: tuple[int, ...] | None = None

    name: ClassVar[str] = "histogram"
    columns: ClassVar[tuple[str, ...]] = ("grad", "update")

    def __post_init__(self) -> None:
        if self.chosen is not None and (not self.chosen or min(self.chosen) < 0):
            raise BadArgument(f"the steps of a histogram are numbers from 0 on, found {list(self.chosen) or 'none'}")

    def prepare(self, run: Run) -> NDArray[np.int64]:
        if not {"grad", "update"} & set(run.columns):
            raise MissingData(f"it needs grad or update, and the run has {', '.join(run.columns) or 'scalars only'}")
        if run.selection.kind == "projection":
            raise MissingData(f"it needs single elements, and the run has {run.selection}, which are sums of many")
        if self.chosen is not None:
            return run.select_steps(self.chosen)
        usual = np.intersect1d(DEFAULT_STEPS, run.steps)
        if usual.size:
            return usual
        if not run.steps.size:
            raise MissingData("no step was recorded")
        spaced = np.geomspace(1, len(run.steps), 6).round().astype(int) - 1
        return run.steps[np.unique(spaced)]

    def steps(self, context: NDArray[np.int64]) -> NDArray[np.int64]:
        return context

    def update(self, context: NDArray[np.int64], chunk: Chunk) -> HistogramState:
        state = HistogramState()
        for row in np.flatnonzero(np.isin(chunk.steps, context)):
            step = int(chunk.steps[row])
            for kind, arrays in (("grad", chunk.grad), ("update", chunk.update)):
                for name, values in arrays.items():
                    counts, largest = magnitude_counts(values[row].ravel()), _largest(values[row])
                    state.counts[step, name, kind] = counts
                    state.largest[step, name, kind] = largest
                    whole = (step, WHOLE, kind)
                    state.counts[whole] = state.counts.get(whole, 0) + counts
                    state.largest[whole] = np.fmax(state.largest.get(whole, np.nan), largest)
        return state

    def combine(self, left: HistogramState, right: HistogramState) -> HistogramState:
        left.counts |= right.counts
        left.largest |= right.largest
        return left

    def finish(self, context: NDArray[np.int64], state: HistogramState) -> pd.DataFrame:
        low = np.concatenate([[0.0], EDGES[:-1], [np.nan]])
        high = np.concatenate([[0.0], EDGES[1:], [np.nan]])
        series = []
        for (step, name, kind), counts in state.counts.items():
            full = np.flatnonzero(counts)
            keys = {"parameter": name, "kind": kind, "quantity": "count"}
            at = np.full(len(full), step)
            series.append(Series(keys, at, counts[full], low[full], high[full], n=counts.sum()))
            largest = state.largest[step, name, kind]
            series.append(Series(keys | {"quantity": "max"}, np.array([step]), largest, n=counts.sum()))
        return tidy(series, ("parameter", "kind", "quantity"))


def _largest(values: NDArray[np.floating]) -> float:
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max()) if finite.size else np.nan
