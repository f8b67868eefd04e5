"""The estimators of the tail index against known answers, naive twins and what must not change them."""

import cmath
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import levy_stable

import trajectory_tools as tt
from trajectory_tools.errors import BadArgument
from trajectory_tools.estimators.block import block_length, pooled_block
from trajectory_tools.estimators.ecf import POINTS, covariance_of_points, ecf_alpha, ecf_resampled
from trajectory_tools.estimators.mcculloch import mcculloch_alpha, mcculloch_resampled
from trajectory_tools.estimators.null import gaussian_twins
from trajectory_tools.estimators.stable_density import stable_pdf, stable_quantile

# Three times the root mean square errors that the README gives for n = 10^4: a wrong formula is far outside.
TOLERANCE = {"ecf": 0.05, "mcculloch": 0.1, "pooled-block": 0.33}


def stable(alpha, shape, seed=0):
    return levy_stable.rvs(alpha, 0, size=shape, random_state=np.random.default_rng(seed))


@pytest.mark.parametrize("estimator", ["ecf", "mcculloch", "pooled-block"])
@pytest.mark.parametrize("alpha", [0.8, 1.0, 1.23, 1.5, 1.83, 2.0])
def test_the_alpha_that_was_drawn_is_found(estimator, alpha):
    found = tt.tail_index(stable(alpha, 10_000), estimator=estimator)
    assert found.estimate == pytest.approx(alpha, abs=TOLERANCE[estimator])
    assert found.low < found.estimate <= found.high
    assert (found.n_samples, found.n_coordinates, found.note) == (10_000, 1, "")


@pytest.mark.parametrize("alpha", [1.5, 1.95])
@pytest.mark.parametrize("estimator", ["ecf", "mcculloch", "pooled-block"])
def test_intervals_cover(estimator, alpha):
    """95 % intervals of 60 samples: between 51 and 60 of them hold the truth, but for one in a thousand tests."""
    found = [tt.tail_index(column, estimator=estimator) for column in stable(alpha, (2000, 60), seed=3).T]
    assert sum(one.low <= alpha <= one.high for one in found) >= 51


def test_mcculloch_has_its_asymptotic_accuracy():
    """Its standard deviation by the delta method, from the covariance p (1 − r) / f(x_p) f(x_r) of sample quantiles."""
    alpha, n, levels = 0.8, 10_000, np.array([0.05, 0.25, 0.75, 0.95])
    x = stable_quantile(levels, alpha)
    f = stable_pdf(x, alpha)
    covariance = np.minimum.outer(levels, levels) * (1 - np.maximum.outer(levels, levels)) / np.outer(f, f) / n
    by_quantile = np.array([-1, 0, 0, 1]) / (x[3] - x[0]) - np.array([0, -1, 1, 0]) / (x[2] - x[1])  # of log ν
    near = stable_quantile(levels[2:], alpha - 1e-3), stable_quantile(levels[2:], alpha + 1e-3)
    by_alpha = np.diff([np.log(q[1] / q[0]) for q in near])[0] / 2e-3
    error = np.sqrt(by_quantile @ covariance @ by_quantile) / abs(by_alpha)
    assert error == pytest.approx(0.0120, abs=5e-5)
    assert mcculloch_alpha(stable(alpha, (n, 200))).std() == pytest.approx(error, rel=0.15)  # 3 standard errors


def naive_ecf(x):
    """One column, one point and one sample at a time."""
    low, middle, high = np.quantile(x, [0.25, 0.5, 0.75])
    values = []
    for t in POINTS:
        phi = sum(cmath.exp(1j * t * (v - middle) / ((high - low) / 2)) for v in x) / len(x)
        square = (len(x) * abs(phi) ** 2 - 1) / (len(x) - 1)
        values.append(math.log(-math.log(min(max(square, 1e-3), 1 - 1e-15))))
    design = np.stack([np.ones(len(POINTS)), np.log(POINTS)], axis=1)

    def slope(alpha):
        grid = np.append(np.arange(0.3, 1.96, 0.05), 1.99)
        weights = []
        for a in grid:
            c = covariance_of_points(a)
            inverse = np.linalg.inv(c + 1e-9 * np.trace(c) / len(c) * np.eye(len(c)))
            weights.append((np.linalg.inv(design.T @ inverse @ design) @ design.T @ inverse)[1])
        return sum(np.interp(alpha, grid, w) * v for w, v in zip(np.stack(weights, axis=1), values, strict=True))

    alpha = slope(np.append(np.arange(0.3, 1.96, 0.05), 1.99)[26])
    for _ in range(2):
        alpha = slope(alpha)
    return min(alpha, 2.0)


@pytest.mark.parametrize("alpha", [0.9, 1.5, 1.9])
def test_ecf_is_its_naive_twin(alpha):
    x = stable(alpha, (80, 3))
    np.testing.assert_allclose(ecf_alpha(x), [naive_ecf(column) for column in x.T], rtol=1e-6)


def test_the_covariance_of_the_points_is_that_of_a_simulation():
    """n var(log(−log|φ̂|²)) over 1,500 samples of 400."""
    x = stable(1.5, (400, 1500), seed=5)
    for k in (1, 4, 7):
        phi = np.abs(np.exp(1j * POINTS[k] * x).mean(axis=0))
        measured = 400 * np.log(-np.log(phi**2)).var()
        assert measured == pytest.approx(covariance_of_points(1.5)[k, k], rel=0.15)


def test_mcculloch_is_its_definition():
    x = stable(1.4, (99, 4))
    for column, found in zip(x.T, mcculloch_alpha(x), strict=True):
        q = np.quantile(column, [0.05, 0.25, 0.75, 0.95], method="hazen")
        ratio = (q[3] - q[0]) / (q[2] - q[1])
        exact = stable_quantile(np.array([0.75, 0.95]), float(found))
        assert exact[1] / exact[0] == pytest.approx(ratio, rel=1e-5)


def test_mcculloch_knows_the_closed_forms():
    """ν_α of normal and Cauchy quantiles, in closed form."""
    for alpha, exact in ((2.0, 2.43866), (1.0, 6.31375)):
        q = stable_quantile(np.array([0.75, 0.95]), alpha)
        assert q[1] / q[0] == pytest.approx(exact, abs=1e-5)


def test_the_block_estimator_is_its_definition():
    x = stable(1.3, (8, 45))
    row, n = list(x.ravel()), x.size
    m = max(d for d in range(1, n + 1) if n % d == 0 and d * d <= n)
    eps = 2.220446049250313e-16
    sums = [math.log(abs(sum(row[i : i + m])) + eps) for i in range(0, n, m)]
    singles = [math.log(abs(v) + eps) for v in row]
    inverse = (sum(sums) / len(sums) - sum(singles) / n) / math.log(m)
    assert (m, pooled_block(x)) == (block_length(n), pytest.approx(1 / inverse, rel=1e-12))


@pytest.mark.parametrize("estimator", ["ecf", "mcculloch"])
def test_resampling_all_samples_once_changes_little(estimator):
    x = stable(1.5, (400, 3))
    measure, again = {"ecf": (ecf_alpha, ecf_resampled), "mcculloch": (mcculloch_alpha, mcculloch_resampled)}[estimator]
    np.testing.assert_allclose(again(x, np.ones((1, 400)))[0], measure(x), atol=0.02)


@settings(max_examples=25, deadline=None)
@given(st.floats(1e-6, 1e6), st.floats(-5, 5), st.integers(0, 50), st.sampled_from(["ecf", "mcculloch"]))
def test_scale_and_location_do_not_matter(scale, shift, seed, estimator):
    x = stable(1.4, 300, seed)
    plain = tt.tail_index(x, estimator=estimator, resamples=0).estimate
    assert tt.tail_index(scale * (x + shift), estimator=estimator, resamples=0).estimate == pytest.approx(
        plain, abs=1e-6
    )


def heterogeneous(n=64, d=3000, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) * np.exp(2 * rng.standard_normal(d))


def test_the_paper_s_estimator_calls_gaussian_noise_heavy_and_its_null_says_so():
    found = tt.tail_index(heterogeneous(), estimator="pooled-block", null_draws=30)
    assert found.estimate < 1.3
    assert found.null.low - 0.02 < found.estimate < found.null.high + 0.02
    assert found.null.high < 1.3
    for estimator in ("ecf", "mcculloch"):
        assert tt.tail_index(heterogeneous(d=300), estimator=estimator, resamples=0).estimate > 1.95


def test_heavy_tails_lie_below_the_null():
    x = stable(1.2, (64, 400)) * np.exp(np.random.default_rng(1).standard_normal(400))
    for estimator in ("ecf", "mcculloch"):
        found = tt.tail_index(x, estimator=estimator, null_draws=10, resamples=20)
        assert found.estimate == pytest.approx(1.2, abs=0.12)
        assert found.high < found.null.low


@pytest.mark.parametrize("shape", [(30, 200), (500, 3)])
def test_gaussian_twins_have_the_samples_covariance(shape):
    x = np.random.default_rng(0).standard_normal(shape) @ np.diag(1 / np.arange(1, shape[1] + 1))
    x -= x.mean(axis=0)
    drawn = np.concatenate(list(gaussian_twins(x, 1000 if shape[0] < 100 else 200, np.random.default_rng(1))))
    exact, found = (a[:, :3].T @ a[:, :3] / n for a, n in ((x, len(x) - 1), (drawn, len(drawn))))
    np.testing.assert_allclose(found, exact, atol=0.03 * exact.max())


BAD = {
    "one": (np.ones((1, 5)), "a single sample"),
    "equal": (np.full((60, 4), 3.0), "all samples are equal"),
    "zeros": (np.zeros((60, 4)), "all samples are 0"),
    "nan": (np.where(np.eye(60, 4) > 0, np.nan, np.random.default_rng(0).standard_normal((60, 4))), "4 of 60 samples"),
    "empty": (np.empty((0, 3)), "no samples"),
}


@pytest.mark.parametrize("estimator", ["ecf", "mcculloch", "pooled-block"])
@pytest.mark.parametrize("which", BAD)
def test_bad_samples_have_no_alpha_and_a_reason(which, estimator):
    samples, reason = BAD[which]
    found = tt.tail_index(samples, estimator=estimator, null_draws=3)
    assert math.isnan(found.estimate)
    assert reason in found.note
    assert reason in tt.compare_tails(samples).note


def test_too_few_samples_are_said():
    x = np.random.default_rng(0).standard_normal((49, 10))
    assert tt.tail_index(x).note == "not enough samples: 49, and ecf needs 50 for a trustworthy α"
    assert math.isnan(tt.tail_index(x).estimate)
    assert "blocks" in tt.tail_index(x[:8], estimator="pooled-block").note
    assert "no divisor" in tt.tail_index(np.arange(97.0), estimator="pooled-block").note
    still = np.random.default_rng(0).standard_normal((60, 3)) * [1, 0, 0]
    assert tt.tail_index(still).n_coordinates == 1
    assert "2 of 3 coordinates left out" in tt.tail_index(still).note


def test_arguments_are_checked():
    counts = ({"null_draws": -1}, {"resamples": -1})
    for wrong in ({"estimator": "hill"}, {"center": "mode"}, {"confidence": 1.5}, *counts):
        with pytest.raises(BadArgument, match=next(iter(wrong))):
            tt.tail_index(np.arange(100.0), **wrong)
    for wrong in ("abc", [[1, 2], [3]], {}):
        for measure in (tt.tail_index, tt.compare_tails):
            with pytest.raises(BadArgument, match=f"samples are an array of numbers, found {type(wrong).__name__} "):
                measure(wrong)
    with pytest.raises(BadArgument, match="shape"):
        tt.tail_index(np.zeros((2, 2, 2)))
