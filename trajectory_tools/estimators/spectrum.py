"""The covariance of few samples in many dimensions, through their n × n inner products; never a d × d matrix."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Spectrum",
    "centred_gram",
    "column_blocks",
    "effective_rank",
    "gram_spectrum",
    "halves_overlap",
    "leading_directions",
    "participation_ratio",
    "power_iteration",
    "randomized_spectrum",
    "subspace_overlap",
]

Floats = NDArray[np.float64]

BLOCK = 2**12
"""Columns that are converted to float64 at a time."""

OVERSAMPLING = 10
SWEEPS = 4
"""Of subspace iteration."""

TEST_VECTORS = 40
"""For the sum of squared eigenvalues where there are too many to find them all."""


@dataclass(frozen=True)
class Spectrum:
    """What is known of the sample covariance Σ = XᵀX / (n − 1) of centred samples X (n, d).

    Attributes:
        trace: Σ's trace.
        square: the trace of Σ², that is the sum of the squared eigenvalues.
        leading: its k largest eigenvalues, descending.
        vectors: (n, k), the unit eigenvectors of X Xᵀ that belong to them; Xᵀ v / ‖Xᵀ v‖ is Σ's eigenvector.
        eigenvalues: all n of them, descending, or None where only the leading ones were looked for.
    """

    trace: float
    square: float
    leading: Floats
    vectors: Floats
    eigenvalues: Floats | None


def column_blocks(*samples: NDArray[np.floating]) -> Iterator[tuple[slice, list[Floats]]]:
    """Which columns, and these columns of each of the arrays (n, d), as float64."""
    d = samples[0].shape[1]
    for start in range(0, d, BLOCK):
        columns = slice(start, min(start + BLOCK, d))
        yield columns, [x[:, columns].astype(np.float64) for x in samples]


def centred_gram(products: Floats) -> Floats:
    """The inner products ⟨x_i − x̄, x_j − x̄⟩ from those of samples that were not centred: (n, n)."""
    rows = products.mean(axis=1)
    return products - rows[:, None] - rows[None, :] + rows.mean()


def gram_spectrum(gram: Floats, k: int) -> Spectrum:
    """The exact spectrum from the inner products of the centred samples (n, n), by ``eigh``."""
    n = len(gram)
    values, vectors = np.linalg.eigh(gram)
    values = np.maximum(values[::-1], 0.0) / (n - 1)
    k = min(k, n - 1)
    trace = float(np.trace(gram)) / (n - 1)
    return Spectrum(trace, float(np.vdot(values, values)), values[:k], vectors[:, ::-1][:, :k], values)


def randomized_spectrum(x: Floats, k: int, rng: np.random.Generator) -> Spectrum:
    """The leading part of the spectrum without an n × n matrix: Halko, Martinsson & Tropp 2011, Algorithms 4.4 and 5.3.

    A random block of k + 10 vectors is multiplied by X Xᵀ and orthonormalised four times; in the subspace that it then
    spans the eigenproblem is small. The trace is exact. The sum of squared eigenvalues is exact in the found subspace,
    and outside of it Hutchinson's estimate tr(A²) = E‖A z‖², z of random signs (Hutch++, Meyer et al. 2021).

    Args:
        x: (n, d), centred.
    """
    n, d = x.shape
    width = min(k + OVERSAMPLING, n - 1, d)
    basis = np.linalg.qr(x @ (x.T @ rng.standard_normal((n, width))))[0]
    for _ in range(SWEEPS):
        basis = np.linalg.qr(x @ (x.T @ basis))[0]
    image = x.T @ basis
    values, inner = np.linalg.eigh(image.T @ image)
    values, vectors = values[::-1] / (n - 1), basis @ inner[:, ::-1]
    signs = rng.choice([-1.0, 1.0], (n, TEST_VECTORS))
    signs -= basis @ (basis.T @ signs)
    rest = x @ (x.T @ signs)
    rest -= basis @ (basis.T @ rest)
    square = float(np.vdot(values, values) + np.vdot(rest, rest) / TEST_VECTORS / (n - 1) ** 2)
    trace = float(np.vdot(x, x)) / (n - 1)
    k = min(k, width)
    return Spectrum(trace, square, values[:k], vectors[:, :k], None)


def participation_ratio(spectrum: Spectrum) -> float:
    """(Σλ)² / Σλ²: how many directions the variance is spread over; r for r equal eigenvalues.

    Of n samples at most n − 1, however many directions the noise has.
    """
    return spectrum.trace**2 / spectrum.square if spectrum.square > 0 else math.nan


def effective_rank(spectrum: Spectrum) -> float:
    """exp(−Σ p log p) with p = λ / Σλ (Roy & Vetterli 2007); NaN where not all eigenvalues are known. At most n − 1."""
    if spectrum.eigenvalues is None or spectrum.trace <= 0:
        return math.nan
    share = spectrum.eigenvalues / spectrum.eigenvalues.sum()
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))


def leading_directions(spectrum: Spectrum, x: NDArray[np.floating]) -> Floats:
    """The unit eigenvectors of Σ that belong to the leading eigenvalues above 0, from the samples: (≤ k, d).

    They need not be centred: the eigenvectors of the centred inner products are orthogonal to the vector of ones.
    """
    known = spectrum.leading > 1e-12 * max(spectrum.trace, 0.0)
    vectors = spectrum.vectors[:, known].T
    directions = np.concatenate([vectors @ values for _, (values,) in column_blocks(x)], axis=1)
    norms = np.linalg.norm(directions, axis=1, keepdims=True)
    return directions / norms


def subspace_overlap(left: Floats, right: Floats) -> float:
    """‖L Rᵀ‖² / k for orthonormal rows L, R (k, d), the mean squared cosine: 1 for one subspace, k / d for random ones.

    Of different numbers of rows, over the smaller one.
    """
    k = min(len(left), len(right))
    return float(np.square(left @ right.T).sum() / k) if k else math.nan


def halves_overlap(products: Floats, k: int) -> float:
    """The overlap of the leading subspaces of every second sample and of the others, from inner products (n, n).

    What sampling noise leaves of an overlap of 1: two halves of one set of samples have the same covariance. NaN where
    a half has no more than k samples.
    """
    from scipy.linalg import eigh

    halves = slice(0, None, 2), slice(1, None, 2)
    if len(products) // 2 <= k:
        return math.nan
    kept = []
    for half in halves:
        gram = centred_gram(products[half, half])
        n = len(gram)
        values, vectors = eigh(gram, subset_by_index=(n - k, n - 1))
        good = values > 1e-12 * np.trace(gram)
        kept.append(vectors[:, good] / np.sqrt(values[good]))
    cross = products[halves[0], halves[1]]
    cross = cross - cross.mean(axis=0) - cross.mean(axis=1, keepdims=True) + cross.mean()
    inner = kept[0].T @ cross @ kept[1]
    count = min(inner.shape)
    return float(np.square(inner).sum() / count) if count else math.nan


def power_iteration(gram: Floats, *, rounds: int, rng: np.random.Generator) -> float:
    """The largest eigenvalue of XᵀX / n by so many rounds of power iteration, from a random direction of their span.

    Run on X Xᵀ, where it takes the same steps. Never above the true one, and below it where the second eigenvalue is
    near.
    """
    vector = gram @ rng.standard_normal(len(gram))
    for _ in range(rounds):
        norm = np.linalg.norm(vector)
        if norm == 0:
            return 0.0
        vector = gram @ (vector / norm)
    size = vector @ vector
    return float(vector @ gram @ vector / size / len(gram)) if size else 0.0
