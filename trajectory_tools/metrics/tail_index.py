"""How heavy the tails of the gradients' and updates' noise are, beside what Gaussian noise gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trajectory_tools.errors import BadArgument
from trajectory_tools.estimators.estimate import Estimator, fault_of, tail_index
from trajectory_tools.estimators.likelihood import compare_tails
from trajectory_tools.estimators.null import PART
from trajectory_tools.metrics.base import Metric
from trajectory_tools.metrics.probe_rows import ProbeRow, probe_frame, require_probes
from trajectory_tools.run import Run
from trajectory_tools.store.probe_set import ProbeSet

__all__ = ["TailIndexMetric"]

Floats = NDArray[np.float64]
Cells = tuple[float, float, float, int, str]
"""Value, low, high, n, note."""

VIEWS: tuple[tuple[str, Estimator, str], ...] = (
    ("pooled_block", "pooled-block", "all"),
    ("ecf_coordinates", "ecf", "coordinates"),
    ("mcculloch_coordinates", "mcculloch", "coordinates"),
    ("ecf_projections", "ecf", "projections"),
    ("mcculloch_projections", "mcculloch", "projections"),
)
"""(Quantity, estimator, of what)."""


@dataclass(frozen=True)
class TailIndexMetric(Metric[None, list[ProbeRow]]):
    """How heavy the tails of the noise are: the tail index α, 2 for Gaussian noise, less for heavier tails.

    For gradients and updates, each estimate with its 95 % bootstrap interval over mini-batches, ``n`` mini-batches:

    - ``pooled_block``: Mohammadi 2014, Corollary 2.4, on all coordinates in one row, as Sobotka et al. 2023 plot it
      (``trajectory_tools.estimators.block``). Where coordinates differ in scale it is far below 2 for Gaussian noise
      too;
    - ``ecf_coordinates``, ``mcculloch_coordinates``: Koutrouvelis 1980 and McCulloch 1986, coordinate by coordinate
      across the mini-batches, the median over coordinates;
    - ``ecf_projections``, ``mcculloch_projections``: the same of the samples' projections on random directions, the
      median over directions.

    With the suffix ``_null`` what the same estimator says of Gaussian noise of the same sample covariance: value is the
    median, low and high the 5 and 95 % points of ``n`` draws. With ``_surrogate`` (updates only, where surrogates were
    recorded) what it says of the updates that the optimizer makes from Gaussian *gradients* of the same covariance,
    with the bootstrap interval of that. With ``_spread`` the quartiles over the ``n`` coordinates or
    directions.

    - ``student_gain``, ``stable_gain``: how many nats per sample Student's t and the α-stable law are more likely than
      a Gaussian on the projections, less the price of the shape (``compare_tails``); above 0 they are preferred;
      ``student_dof`` and ``stable_alpha`` are the fitted shapes;
    - ``zeros``: the share of exact zeros among all centred values.

    Where there is no number, it is NaN and ``note`` says why; a probe of fewer than 50 mini-batches has
    ``pooled_block`` alone. In a sketch "all" coordinates are those that it holds.

    Args:
        coordinates: how many coordinates are looked at one by one, chosen at random among those that vary.
        directions: how many random directions.
        null_draws, resamples: of each null and each interval.
        pooled_values: above so many values (mini-batches × coordinates) ``pooled_block`` is taken of a random choice of
            the coordinates, in their order.
        seed: of all of these; with it, the step and the batch size the numbers are always the same.
    """

    coordinates: int = 300
    directions: int = 64
    null_draws: int = 40
    resamples: int = 100
    pooled_values: int = 4_000_000
    seed: int = 0

    name: ClassVar[str] = "tail_index"
    table: ClassVar[str] = "probes"

    def __post_init__(self) -> None:
        for option in ("coordinates", "directions", "null_draws", "resamples", "pooled_values"):
            if getattr(self, option) < 1:
                raise BadArgument(f"{option} is 1 or more, found {getattr(self, option)}")

    def prepare(self, run: Run) -> None:
        require_probes(run)

    def update(self, context: None, chunk: ProbeSet) -> list[ProbeRow]:
        rows = []
        for kind, samples, surrogate in (("grad", chunk.grad, None), ("update", chunk.update, chunk.surrogate_update)):
            for quantity, found in self._of(np.asarray(samples, np.float64), surrogate, chunk):
                rows.append(ProbeRow(chunk.step, kind, quantity, chunk.batch_size or 0, *found))
        return rows

    def combine(self, left: list[ProbeRow], right: list[ProbeRow]) -> list[ProbeRow]:
        left.extend(right)
        return left

    def finish(self, context: None, state: list[ProbeRow]) -> pd.DataFrame:
        return probe_frame(state)

    def _of(
        self, samples: Floats, surrogate: NDArray[np.floating] | None, probes: ProbeSet
    ) -> Iterator[tuple[str, Cells]]:
        n = len(samples)
        if fault := fault_of(samples):
            for quantity, _, _ in VIEWS:
                yield quantity, (math.nan, math.nan, math.nan, n, fault)
            return
        rng = np.random.default_rng([self.seed, probes.step, probes.batch_size or 0])
        looks = self._looks(samples, rng)
        likeness = None if surrogate is None else np.asarray(surrogate, np.float64)[:n]
        for quantity, estimator, of in VIEWS:
            yield from self._estimates(quantity, looks[of](samples), estimator, rng)
            if likeness is not None:
                yield f"{quantity}_surrogate", self._surrogate(looks[of](likeness), estimator, rng, n)
        found = compare_tails(looks["projections"](samples), resamples=self.resamples, seed=rng)
        yield "student_gain", (found.student, *found.student_interval, n, found.note)
        yield "stable_gain", (found.stable, *found.stable_interval, n, found.note)
        yield "student_dof", (found.dof, math.nan, math.nan, n, found.note)
        yield "stable_alpha", (found.alpha, math.nan, math.nan, n, found.note)
        yield "zeros", (float(np.mean(samples == samples.mean(axis=0))), math.nan, math.nan, samples.size, "")

    def _looks(self, samples: Floats, rng: np.random.Generator) -> dict[str, Callable[[Floats], Floats]]:
        """What each view takes of (samples, coordinates): all or some of the coordinates, or projections."""
        n, d = samples.shape
        varying = np.flatnonzero((samples != samples[0]).any(axis=0))
        some = np.sort(rng.choice(varying, min(self.coordinates, len(varying)), replace=False))
        pooled = np.arange(d)
        if n * d > self.pooled_values:
            pooled = np.sort(rng.choice(d, max(self.pooled_values // n, 1), replace=False))
        directions = rng.standard_normal((d, self.directions))
        return {
            "all": lambda x: x[:, pooled] if len(pooled) < d else x,
            "coordinates": lambda x: x[:, some],
            "projections": lambda x: x @ directions,
        }

    def _estimates(
        self, quantity: str, samples: Floats, estimator: Estimator, rng: np.random.Generator
    ) -> Iterator[tuple[str, Cells]]:
        found = tail_index(samples, estimator=estimator, resamples=self.resamples, null_draws=self.null_draws, seed=rng)
        yield quantity, (found.estimate, found.low, found.high, found.n_samples, found.note)
        if found.null is not None:
            yield f"{quantity}_null", (found.null.median, found.null.low, found.null.high, found.null.draws, "")
        if math.isfinite(found.spread[0]):
            yield f"{quantity}_spread", (found.estimate, *found.spread, found.n_coordinates, "")

    def _surrogate(self, samples: Floats, estimator: Estimator, rng: np.random.Generator, n: int) -> Cells:
        found = tail_index(samples, estimator=estimator, resamples=self.resamples, confidence=PART, seed=rng)
        fewer = f"of {len(samples)} surrogates, where the estimate is of {n} samples" if len(samples) < n else ""
        return found.estimate, found.low, found.high, found.n_samples, found.note or fewer
