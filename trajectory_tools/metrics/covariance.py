"""How gradients and updates vary over mini-batches: their covariance, its leading directions, the noise scale."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trajectory_tools.errors import BadArgument
from trajectory_tools.estimators.bootstrap import percentile_interval, resample_counts
from trajectory_tools.estimators.estimate import fault_of
from trajectory_tools.estimators.noise_scale import noise_scale
from trajectory_tools.estimators.spectrum import (
    Spectrum,
    centred_gram,
    column_blocks,
    effective_rank,
    gram_spectrum,
    halves_overlap,
    leading_directions,
    participation_ratio,
    power_iteration,
    randomized_spectrum,
    subspace_overlap,
)
from trajectory_tools.metrics.base import Metric
from trajectory_tools.metrics.probe_rows import ProbeRow, probe_frame, require_probes
from trajectory_tools.run import Run
from trajectory_tools.store.probe_set import ProbeSet

__all__ = ["Covariance", "spectrum_numbers"]

Floats = NDArray[np.float64]
Number = tuple[float, float, float, str]
"""Value, low, high, note."""

KINDS = ("grad", "update")


@dataclass
class CovarianceState:
    """The rows so far, and the leading directions of the first and the last probe of each (kind, batch size)."""

    rows: list[ProbeRow] = field(default_factory=list)
    first: dict[tuple[str, int], tuple[int, Floats]] = field(default_factory=dict)
    last: dict[tuple[str, int], tuple[int, Floats]] = field(default_factory=dict)


@dataclass(frozen=True)
class Covariance(Metric[None, CovarianceState]):
    """How gradients and updates vary over the mini-batches of each probed step: Σ = Σ_k (x_k − x̄)(x_k − x̄)ᵀ / (K − 1).

    For gradients and updates, ``n`` mini-batches of ``batch_size`` training samples; low and high are 95 % intervals:

    - ``trace``: Σ's trace, the mean squared distance from the mean (bootstrap over mini-batches);
    - ``eigenvalue_1``, ``eigenvalue_2``, ...: the largest eigenvalues; the interval (delta method) is that of the
      sample covariance's mean, which few samples in many dimensions raise above the true eigenvalue;
    - ``participation_ratio``: (Σλ)² / Σλ², and ``effective_rank``: exp of the entropy of λ / Σλ: over how many
      directions the variance is spread; of K samples at most K − 1;
    - ``overlap``: of the span of the leading eigenvectors with that at the probed step before, the mean squared cosine;
      beside it ``overlap_chance``, what random subspaces have (k / d), and ``overlap_halves``, what two halves of this
      step's own samples have: noise of estimation alone keeps an overlap below 1;
    - ``cosine`` (update): between the mean update and the negative mean gradient (jackknife);
    - ``noise_scale`` (grad): tr(Σ₁) / |G|² in training samples, Σ₁ the covariance of single samples' gradients
      (McCandlish et al. 2018, unbiased as in appendix A.1; jackknife); ``gradient_square`` is |G|²,
      ``trace_per_sample`` tr(Σ₁) = batch size × trace;
    - ``paper_trace``: Σ_k ‖x_k − m‖² / K with m the update of the mean gradient (of gradients their mean), and
      ``paper_eigenvalue``: the largest eigenvalue of the same by power iteration, as in Sobotka et al. 2023.

    Numbers of different batch sizes are never mixed. Where there is no number, ``note`` says why. A sketch gives the
    same numbers from its exact inner products, but ``overlap``.

    Args:
        k: how many leading eigenvalues.
        exact: up to so many samples through all their inner products; above it the leading eigenvalues by a randomised
            method (the trace stays exact, the effective rank is left out).
        power_rounds: of the power iteration.
        resamples: of each bootstrap.
        seed: of everything random.
    """

    k: int = 5
    exact: int = 4000
    power_rounds: int = 100
    resamples: int = 200
    seed: int = 0

    name: ClassVar[str] = "covariance"
    table: ClassVar[str] = "probes"

    def __post_init__(self) -> None:
        for option in ("k", "exact", "power_rounds", "resamples"):
            if getattr(self, option) < 1:
                raise BadArgument(f"{option} is 1 or more, found {getattr(self, option)}")

    def prepare(self, run: Run) -> None:
        require_probes(run)

    def update(self, context: None, chunk: ProbeSet) -> CovarianceState:
        state = CovarianceState()
        batch_size = chunk.batch_size or 0
        for kind in KINDS:
            n = len(getattr(chunk, kind))
            for quantity, (value, low, high, note) in self._numbers(chunk, kind, state):
                state.rows.append(ProbeRow(chunk.step, kind, quantity, batch_size, value, low, high, n, note))
        return state

    def combine(self, left: CovarianceState, right: CovarianceState) -> CovarianceState:
        for key, (step, directions) in right.first.items():
            if key in left.last:
                kind, batch_size = key
                overlap = subspace_overlap(left.last[key][1], directions)
                n = min(len(left.last[key][1]), len(directions))
                right.rows.append(ProbeRow(step, kind, "overlap", batch_size, overlap, n=n))
        left.rows.extend(right.rows)
        return CovarianceState(left.rows, right.first | left.first, left.last | right.last)

    def finish(self, context: None, state: CovarianceState) -> pd.DataFrame:
        return probe_frame(sorted(state.rows, key=lambda row: row.step))

    def _numbers(self, probes: ProbeSet, kind: str, state: CovarianceState) -> Iterator[tuple[str, Number]]:
        samples: NDArray[np.floating] = getattr(probes, kind)
        n, d = samples.shape
        fault = fault_of(samples)
        if not fault and d < probes.n_values and f"{kind}·{kind}" not in probes.products:
            fault = f"the probe holds {d} of {probes.n_values} coordinates, and no inner products over all of them"
        if fault:
            yield "trace", _alone(math.nan, fault)
            return
        rng = np.random.default_rng([self.seed, probes.step, probes.batch_size or 0, KINDS.index(kind)])
        moments = Moments.of(probes, kind, exact=self.exact)
        spectrum = moments.spectrum(self.k, rng)
        counts = resample_counts(n, self.resamples, rng)
        yield "trace", (spectrum.trace, *percentile_interval(moments.resampled_traces(counts)), "")
        yield from spectrum_numbers(spectrum, n)
        if moments.gram is not None:
            yield "overlap_halves", _alone(halves_overlap(moments.gram, self.k), "a half has too few samples")
        if moments.samples is None:
            yield "overlap", _alone(math.nan, "a sketch does not hold the directions")
        else:
            directions = leading_directions(spectrum, moments.samples)
            key = kind, probes.batch_size or 0
            state.first[key] = state.last[key] = probes.step, directions
            yield "overlap_chance", _alone(len(directions) / d)
        yield from self._paper(probes, kind, moments, rng)
        if kind == "grad":
            yield from _noise_scale(moments, probes.batch_size)
        else:
            yield "cosine", _cosine(probes)

    def _paper(
        self, probes: ProbeSet, kind: str, moments: Moments, rng: np.random.Generator
    ) -> Iterator[tuple[str, Number]]:
        """Around m: ⟨x_i − m, x_j − m⟩ = ⟨c_i, c_j⟩ + a_i + a_j + ‖x̄ − m‖² with c_i = x_i − x̄, a_i = ⟨c_i, x̄ − m⟩."""
        why = ""
        if moments.gram is None:
            why = "there are more samples than inner products are taken of"
        elif kind == "update" and probes.mean_update is None and "mean_update·update" not in probes.products:
            why = "the update of the mean gradient was not recorded"
        if why or moments.gram is None:
            yield "paper_trace", _alone(math.nan, why)
            yield "paper_eigenvalue", _alone(math.nan, why)
            return
        along, square = np.zeros(len(moments.gram)), 0.0
        if kind == "update":
            along, square = moments.from_mean_update(probes)
        around = moments.gram + along[:, None] + along[None, :] + square
        yield "paper_trace", _alone(float(around.trace()) / len(around))
        yield "paper_eigenvalue", _alone(power_iteration(around, rounds=self.power_rounds, rng=rng))


@dataclass(frozen=True)
class Moments:
    """First and second moments of K samples: what all numbers are made of.

    ``samples`` (K, d) and their ``mean`` (d,) are None for a sketch, ``gram`` (K, K), the centred inner products, where
    there are too many samples for it. ``squares`` (K,) is ‖x_k‖², ``row_sums`` (K,) Σ_j ⟨x_k, x_j⟩, not centred.
    """

    samples: NDArray[np.floating] | None
    mean: Floats | None
    gram: Floats | None
    squares: Floats
    row_sums: Floats

    @classmethod
    def of(cls, probes: ProbeSet, kind: str, *, exact: int) -> Moments:
        """From the samples, or from the inner products of a sketch."""
        samples: NDArray[np.floating] = getattr(probes, kind)
        n, d = samples.shape
        if d < probes.n_values:
            products = np.asarray(probes.products[f"{kind}·{kind}"], np.float64)
            return cls(None, None, centred_gram(products), products.diagonal(), products.sum(axis=1))
        mean, squares, row_sums = np.empty(d), np.zeros(n), np.zeros(n)
        gram = np.zeros((n, n)) if n <= exact else None
        for columns, (values,) in column_blocks(samples):
            mean[columns] = values.mean(axis=0)
            squares += np.einsum("kd,kd->k", values, values)
            row_sums += n * (values @ mean[columns])
            if gram is not None:
                centred = values - mean[columns]
                gram += centred @ centred.T
        return cls(samples, mean, gram, squares, row_sums)

    def centred(self) -> Floats:
        """The centred samples (K, d), all at a time."""
        assert self.samples is not None
        assert self.mean is not None
        return self.samples.astype(np.float64) - self.mean

    def spectrum(self, k: int, rng: np.random.Generator) -> Spectrum:
        """Exact, or randomised where there is no Gram matrix."""
        return randomized_spectrum(self.centred(), k, rng) if self.gram is None else gram_spectrum(self.gram, k)

    def resampled_traces(self, counts: Floats) -> Floats:
        """The trace of each bootstrap resample, times n / (n − 1): resamples vary by so much less."""
        n = counts.shape[1]
        if self.gram is not None:
            distances = self.gram.diagonal()
            shifts = np.einsum("bk,bk->b", counts @ self.gram, counts) / n
        else:
            centred = self.centred()
            distances = np.einsum("kd,kd->k", centred, centred)
            shifts = np.square(counts @ centred).sum(axis=1) / n
        return (counts @ distances - shifts) * n / (n - 1) ** 2

    def from_mean_update(self, probes: ProbeSet) -> tuple[Floats, float]:
        """(a, ‖x̄ − m‖²) of the updates, m the update of the mean gradient."""
        if self.samples is not None and self.mean is not None and probes.mean_update is not None:
            shift = self.mean - probes.mean_update
            along = sum(values @ shift[columns] for columns, (values,) in column_blocks(self.samples))
            return along - self.mean @ shift, float(shift @ shift)
        inner = probes.products["mean_update·update"]
        rows = self.row_sums / len(self.row_sums)
        square = rows.mean() - 2 * inner.mean() + probes.products["mean_update·mean_update"]
        return (rows - rows.mean()) - (inner - inner.mean()), float(square)


def spectrum_numbers(spectrum: Spectrum, n: int) -> Iterator[tuple[str, Number]]:
    """The leading eigenvalues with their intervals, the participation ratio and the effective rank.

    An eigenvalue is Σ_k s_k² / (n − 1) with s_k the samples' coordinates along its eigenvector, and its standard error
    that of this sum: √n sd(s²) / (n − 1), for Gaussian samples λ √(2/n) (Anderson 1963), taken of log λ.
    """
    for i, value in enumerate(spectrum.leading):
        squares = spectrum.vectors[:, i] ** 2 * (n - 1)
        error = math.sqrt(n) * float(squares.std(ddof=1)) / (n - 1)
        yield f"eigenvalue_{i + 1}", (float(value), value * math.exp(-1.96 * error), value * math.exp(1.96 * error), "")
    yield "participation_ratio", _alone(participation_ratio(spectrum))
    why = "not all eigenvalues are known where there are so many samples" if spectrum.eigenvalues is None else ""
    yield "effective_rank", _alone(effective_rank(spectrum), why)


def _noise_scale(moments: Moments, batch_size: int | None) -> Iterator[tuple[str, Number]]:
    if batch_size is None:
        yield "noise_scale", _alone(math.nan, "the batch size is not known; pass batch_size= to rec.probe")
        return
    found = noise_scale(moments.squares, moments.row_sums, batch_size=batch_size)
    note = "" if found.value > 0 else "the mean gradient cannot be told from 0, so there is no upper end"
    yield "noise_scale", (found.value, *found.interval, note)
    yield "gradient_square", (found.gradient_square, *found.gradient_square_interval, "")
    yield "trace_per_sample", (found.trace, *found.trace_interval, "")


def _cosine(probes: ProbeSet) -> Number:
    """cos(ū, −ḡ) ± 1.96 standard errors of the jackknife, which leaves out one mini-batch at a time.

    Without sample k the sums of the others have ⟨U − u_k, G − g_k⟩ = ⟨U, G⟩ − ⟨U, g_k⟩ − ⟨u_k, G⟩ + ⟨u_k, g_k⟩.
    """
    n = len(probes.grad)
    if not np.isfinite(probes.grad).all():
        return _alone(math.nan, fault_of(probes.grad))
    if "update·grad" in probes.products:
        p = probes.products
        pairs = [p["update·update"], p["grad·grad"], p["update·grad"]]
        forms = [(m.sum(), m.sum(axis=0), m.sum(axis=1), m.diagonal()) for m in pairs]
    elif probes.update.shape[1] < probes.n_values:
        return _alone(math.nan, "the sketch has no inner products of updates with gradients")
    else:
        sums = np.zeros((3, 3, n))  # ⟨x_k, Y⟩, ⟨X, y_k⟩ and ⟨x_k, y_k⟩ of each pair
        for _, (u, g) in column_blocks(probes.update, probes.grad):
            whole_u, whole_g = u.sum(axis=0), g.sum(axis=0)
            for i, (x, y, whole_x, whole_y) in enumerate(
                ((u, u, whole_u, whole_u), (g, g, whole_g, whole_g), (u, g, whole_u, whole_g))
            ):
                sums[i] += x @ whole_y, y @ whole_x, np.einsum("kd,kd->k", x, y)
        forms = [(left.sum(), left, right, own) for left, right, own in sums]
    whole = np.array([total for total, *_ in forms])
    without = np.stack([total - left - right + own for total, left, right, own in forms])
    uu, gg, ug = np.column_stack([whole, without])
    size = np.sqrt(np.maximum(uu * gg, 0.0))
    cosines = np.divide(-ug, size, out=np.full(len(size), math.nan), where=size > 0)
    error = math.sqrt((n - 1) / n * float(np.square(cosines[1:] - cosines[1:].mean()).sum()))
    value = float(cosines[0])
    return value, max(value - 1.96 * error, -1.0), min(value + 1.96 * error, 1.0), ""


def _alone(value: float, why: str = "") -> Number:
    """A number without an interval; ``why`` says why it is NaN, where it is."""
    return float(value), math.nan, math.nan, why if math.isnan(value) else ""
