"""Covariances through inner products, against NumPy's d × d ones; the noise scale against a known one."""

import math

import numpy as np
import pytest

from trajectory_tools.estimators.noise_scale import noise_scale
from trajectory_tools.estimators.spectrum import (
    centred_gram,
    effective_rank,
    gram_spectrum,
    halves_overlap,
    leading_directions,
    participation_ratio,
    power_iteration,
    randomized_spectrum,
    subspace_overlap,
)


@pytest.fixture(scope="module")
def x():
    rng = np.random.default_rng(0)
    return rng.standard_normal((40, 60)) @ np.diag(1 / np.arange(1, 61)) + rng.standard_normal(60)


def test_everything_is_that_of_the_covariance_matrix(x):
    values, vectors = np.linalg.eigh(np.cov(x.T))
    values, vectors = values[::-1], vectors[:, ::-1]
    found = gram_spectrum(centred_gram(x @ x.T), 4)
    assert found.trace == pytest.approx(values.sum())
    np.testing.assert_allclose(found.leading, values[:4], rtol=1e-9)
    assert participation_ratio(found) == pytest.approx(values.sum() ** 2 / (values**2).sum())
    p = values[values > 1e-12] / values.sum()
    assert effective_rank(found) == pytest.approx(math.exp(-(p * np.log(p)).sum()))
    directions = leading_directions(found, x - x.mean(axis=0))
    np.testing.assert_allclose(np.abs(directions @ vectors[:, :4]), np.eye(4), atol=1e-7)
    assert subspace_overlap(directions, vectors[:, :4].T) == pytest.approx(1)
    assert subspace_overlap(directions, vectors[:, 4:8].T) == pytest.approx(0, abs=1e-12)
    centred = x - x.mean(axis=0)
    power = power_iteration(centred @ centred.T, rounds=500, rng=np.random.default_rng(0))
    assert power == pytest.approx(values[0] * 39 / 40, rel=1e-9)


def test_equal_eigenvalues_are_counted():
    found = gram_spectrum(centred_gram(np.eye(9)), 3)  # 8 directions, all alike
    assert participation_ratio(found) == pytest.approx(8)
    assert effective_rank(found) == pytest.approx(8)


def test_the_randomised_spectrum_is_the_exact_one():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((300, 500)) @ np.diag(1 / np.arange(1, 501))
    x -= x.mean(axis=0)
    exact, found = gram_spectrum(x @ x.T, 5), randomized_spectrum(x, 5, rng)
    assert found.trace == pytest.approx(exact.trace)
    np.testing.assert_allclose(found.leading, exact.leading, rtol=1e-6)
    assert found.square == pytest.approx(exact.square, rel=1e-3)
    assert subspace_overlap(leading_directions(found, x), leading_directions(exact, x)) == pytest.approx(1, abs=1e-6)


def test_halves_are_compared_through_inner_products(x):
    left, right = (part - part.mean(axis=0) for part in (x[::2], x[1::2]))
    directions = [np.linalg.svd(half, full_matrices=False)[2][:3] for half in (left, right)]
    assert halves_overlap(x @ x.T, 3) == pytest.approx(subspace_overlap(*directions))
    assert math.isnan(halves_overlap(x[:6] @ x[:6].T, 3))


def draws(k, batch, *, gradient, sd, seed):
    rng = np.random.default_rng(seed)
    return gradient + rng.standard_normal((k, len(sd))) * sd / math.sqrt(batch)


def scale_of(g, batch):
    gram = g @ g.T
    return noise_scale(gram.diagonal(), gram.sum(axis=1), batch_size=batch)


def test_the_noise_scale_is_the_papers_two_batch_sizes():
    g = draws(20, 8, gradient=np.full(30, 0.2), sd=np.ones(30), seed=0)
    small, big = (g**2).sum(axis=1).mean(), (g.mean(axis=0) ** 2).sum()  # B_small = 8, B_big = 160
    square = (160 * big - 8 * small) / (160 - 8)
    trace = (small - big) / (1 / 8 - 1 / 160)
    found = scale_of(g, 8)
    assert (found.gradient_square, found.trace) == (pytest.approx(square), pytest.approx(trace))
    assert found.value == pytest.approx(trace / square)


def test_the_noise_scale_is_found_and_covered():
    sd, gradient = np.exp(np.random.default_rng(1).standard_normal(200) / 2), np.full(200, 0.1)
    true = (sd**2).sum() / (gradient**2).sum()
    found = [scale_of(draws(32, 64, gradient=gradient, sd=sd, seed=seed), 64) for seed in range(100)]
    assert np.median([one.value for one in found]) == pytest.approx(true, rel=0.05)
    assert sum(one.interval[0] < true < one.interval[1] for one in found) >= 88


def test_without_a_gradient_there_is_no_upper_end():
    found = [scale_of(draws(16, 4, gradient=np.zeros(50), sd=np.ones(50), seed=seed), 4) for seed in range(30)]
    assert sum(math.isnan(one.value) for one in found) > 5
    assert all(math.isinf(one.interval[1]) for one in found if math.isnan(one.value))
    assert sum(math.isinf(one.interval[1]) for one in found) >= 25
