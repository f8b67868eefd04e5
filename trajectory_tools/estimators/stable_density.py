"""The symmetric α-stable distribution: density, distribution function, quantiles, and tables of its log-density."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trajectory_tools.errors import BadArgument

__all__ = ["MIN_ALPHA", "StableTable", "stable_cdf", "stable_pdf", "stable_quantile", "stable_table"]

Floats = NDArray[np.float64]

FINEST = 16.0
"""Tables are even in z up to about 1 / FINEST, and in log z above: for small α the density has a sharp peak at 0."""

MIN_ALPHA = 0.3
"""Below it the integrals here are not checked."""

SPACING = 0.04
"""Of the trapezoidal rule in the logarithm of the distance from 0; its error falls exponentially with 1 / spacing."""


def stable_pdf(x: ArrayLike, alpha: float) -> Floats:
    """The density of the symmetric α-stable law with characteristic function exp(−|t|^α), so α = 2 has variance 2.

    f(x) = (1/π) Re ∫₀^∞ exp(i x t) exp(−t^α) dt, along the ray t = r e^{iφ}, φ = min(π/2, π/(4α)), on which both
    factors
    fall: then nothing oscillates faster than it falls. For x ≥ 1 the integrand has exp(−t^α) − 1 in place of exp(−t^α),
    which changes nothing (∫ exp(ixt) dt = i/x has no real part) and keeps every digit of the tail. α = 2 is the normal
    density. The relative error is below 1e-9 for 0.3 ≤ α ≤ 1.9999; for α between that and 2 it is below 1e-15 / (2 − α)
    of the tail. Same shape as ``x``.

    >>> float(stable_pdf(0.0, 1.0)) * np.pi  # Cauchy
    1.0
    """
    _check(alpha)
    size = np.abs(np.atleast_1d(np.asarray(x, np.float64)))
    if alpha == 2:
        density = np.exp(-(size**2) / 4) / np.sqrt(4 * np.pi)
    elif alpha == 1:
        density = 1 / (np.pi * (1 + size**2))
    else:
        density = np.concatenate([_density(part, alpha) for part in _pieces(size.ravel())] or [size.ravel()])
    return density.reshape(np.shape(x))


def stable_cdf(x: ArrayLike, alpha: float) -> Floats:
    """The distribution function of the same law; the upper tail keeps its digits as ``stable_cdf(-x, alpha)``.

    1 − F(x) = (1/π) Re ∫₀^∞ i exp(i x t) (exp(−t^α) − 1) dt / t along the same ray, for x > 0.
    """
    from scipy.special import ndtr

    _check(alpha)
    given = np.atleast_1d(np.asarray(x, np.float64))
    if alpha == 2:
        return np.reshape(ndtr(given / np.sqrt(2)), np.shape(x))
    if alpha == 1:
        below = np.arctan2(1.0, -given) / np.pi  # the lower tail, without cancellation
        return np.reshape(below, np.shape(x))
    size = np.abs(given).ravel()
    tail = np.concatenate([_tail(part, alpha) for part in _pieces(size)] or [size]).reshape(given.shape)
    return np.reshape(np.where(given > 0, 1 - tail, tail), np.shape(x))


def stable_quantile(p: ArrayLike, alpha: float) -> Floats:
    """The quantiles of the same law for 0 < p < 1, by Newton's method on the logarithm of the tail."""
    level = np.asarray(p, np.float64)
    if not ((level > 0) & (level < 1)).all():
        raise BadArgument("a quantile's probability lies between 0 and 1")
    if alpha == 2:
        from scipy.special import ndtri

        return np.sqrt(2) * ndtri(level)
    tail = np.minimum(level, 1 - level)
    x = np.maximum(np.tan(np.pi * (0.5 - tail)), 1e-9)  # the Cauchy quantile is a start for all α
    for _ in range(60):
        found, density = stable_cdf(-x, alpha), stable_pdf(x, alpha)
        change = np.log(found / tail) * found / (density * x)  # in log x
        x = x * np.exp(np.clip(change, -2, 2))
        if np.abs(change[tail < 0.5]).max(initial=0.0) < 1e-13:
            break
    return np.where(level < 0.5, -x, np.where(level > 0.5, x, 0.0))


@dataclass(frozen=True)
class StableTable:
    """log f(z) and the weight w(z) = −f'(z) / (z f(z)) of one α, on an even grid of asinh(FINEST · z).

    Between the nodes both are cubic Hermite or linear interpolations; beyond the last node (z = 1e6) the tail is
    continued as a power. The symmetric stable law is a scale mixture of normal laws, so w > 0 falls with |z|: iterating
    weighted means and squares with it is the EM algorithm.
    """

    alpha: float
    spacing: float
    log_density: Floats
    slope: Floats
    weight: Floats

    def log_pdf(self, z: Floats) -> Floats:
        """log f(z); the error is below 1e-5."""
        if self.alpha == 2:
            return -(z**2) / 4 - np.log(4 * np.pi) / 2
        u = np.arcsinh(FINEST * np.abs(z)) / self.spacing
        i = np.minimum(u.astype(np.int64), len(self.log_density) - 2)
        s = np.minimum(u - i, 1.0)
        y, m = self.log_density, self.slope * self.spacing
        cubic = (
            (1 + 2 * s) * (1 - s) ** 2 * y[i]
            + s * (1 - s) ** 2 * m[i]
            + s**2 * (3 - 2 * s) * y[i + 1]
            + s**2 * (s - 1) * m[i + 1]
        )
        return cubic + np.maximum(u - i - 1, 0.0) * m[-1]

    def weights(self, z: Floats) -> Floats:
        """w(z), linearly interpolated; only the speed of EM depends on its digits."""
        if self.alpha == 2:
            return np.full(np.shape(z), 0.5)
        u = np.minimum(np.arcsinh(FINEST * np.abs(z)) / self.spacing, len(self.weight) - 1.0)
        i = np.minimum(u.astype(np.int64), len(self.weight) - 2)
        s = u - i
        return (1 - s) * self.weight[i] + s * self.weight[i + 1]


@lru_cache(maxsize=256)
def stable_table(alpha: float, *, nodes: int = 500) -> StableTable:
    """The table of one α, made at its first use and kept."""
    from scipy.interpolate import CubicSpline
    from scipy.special import gamma

    u = np.linspace(0, np.arcsinh(1e6 * FINEST), nodes)
    x = np.sinh(u) / FINEST
    density = stable_pdf(x, alpha) if alpha < 2 else np.ones(nodes)  # α = 2 needs no table
    log_density = np.log(density)
    end = -alpha - 1.0  # d log f / d u in the tail, where f falls as x^(−α−1)
    slope = CubicSpline(u, log_density, bc_type=((1, 0.0), (1, end)))(u, 1)
    weight = -slope[1:] * FINEST / (np.cosh(u[1:]) * x[1:])
    # At 0 the weight is −f''(0) / f(0) = Γ(3/α) / Γ(1/α).
    weight = np.concatenate([[gamma(3 / alpha) / gamma(1 / alpha)], weight])
    return StableTable(alpha, float(u[1]), log_density, slope, weight)


def _check(alpha: float) -> None:
    if not MIN_ALPHA <= alpha <= 2:
        raise BadArgument(f"the stable density is computed for {MIN_ALPHA} ≤ α ≤ 2, found α = {alpha:g}")


def _pieces(size: Floats) -> list[Floats]:
    """Few enough values at a time that nodes × values fit into the cache's neighbourhood."""
    return np.array_split(size, -(-len(size) // 256)) if len(size) else []


def _ray(alpha: float) -> complex:
    return complex(np.exp(1j * min(np.pi / 2, np.pi / (4 * alpha))))


def _density(x: Floats, alpha: float) -> Floats:
    """f(x), x ≥ 0, α < 2."""
    turn = _ray(alpha)
    u = np.arange(-36.0, max(5.0, 4.2 / alpha), SPACING)
    total = np.empty(len(x))
    for far in (False, True):
        chosen = (x >= 1) == far
        at = x[chosen, None]
        r = np.exp(u) / (at if far else 1.0)  # the integrand lives at r < 1 / x
        decay = -((r * turn) ** alpha)
        factor = np.expm1(decay) if far else np.exp(decay)
        total[chosen] = ((turn * np.exp(1j * turn * r * at) * factor).real * r).sum(axis=1)
    return total * SPACING / np.pi


def _tail(x: Floats, alpha: float) -> Floats:
    """1 − F(x), x ≥ 0, α < 2."""
    turn = _ray(alpha)
    total = np.full(len(x), 0.5)
    at = x[x > 0, None]
    r = np.exp(np.arange(-36.0 / alpha, 5.0, SPACING)) / at
    total[x > 0] = (1j * np.exp(1j * turn * r * at) * np.expm1(-((r * turn) ** alpha))).real.sum(axis=1)
    total[x > 0] *= SPACING / np.pi
    return total
