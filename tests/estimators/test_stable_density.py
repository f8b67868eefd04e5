"""The stable density, distribution function and quantiles, against SciPy's and against closed forms."""

import numpy as np
import pytest
from scipy.stats import cauchy, levy_stable, norm

from trajectory_tools.errors import BadArgument
from trajectory_tools.estimators.stable_density import stable_cdf, stable_pdf, stable_quantile, stable_table

X = np.array([0.05, 0.3, 0.99, 1.0, 1.01, 2.0, 5.0, 12.0, 30.0, 100.0])
ALPHAS = [0.5, 0.8, 0.95, 1.05, 1.2, 1.5, 1.8, 1.95, 1.99]


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_density_and_the_distribution_are_scipys(alpha):
    x = X[:8] if alpha > 1.9 else X  # near 2 SciPy's tails have fewer digits
    np.testing.assert_allclose(stable_pdf(x, alpha), levy_stable.pdf(x, alpha, 0), rtol=1e-8)
    np.testing.assert_allclose(1 - stable_cdf(x, alpha), 1 - levy_stable.cdf(x, alpha, 0), rtol=1e-6)
    np.testing.assert_array_equal(stable_pdf(-X, alpha), stable_pdf(X, alpha))


def test_cauchy_and_normal():
    np.testing.assert_allclose(stable_pdf(X, 1.0), cauchy.pdf(X), rtol=1e-13)
    np.testing.assert_allclose(stable_cdf(-X, 1.0), cauchy.sf(X), rtol=1e-13)
    np.testing.assert_allclose(stable_pdf(X[:7], 2.0), norm.pdf(X[:7], scale=np.sqrt(2)), rtol=1e-13)
    for exact in (1.0, 2.0):  # no jump beside the closed forms
        np.testing.assert_allclose(stable_pdf(X[:6], exact - 1e-7), stable_pdf(X[:6], exact), rtol=1e-6)


@pytest.mark.parametrize("alpha", [0.5, 1.5, 1.9, 1.999, 1.99999])
def test_the_far_tail_is_the_power_that_it_must_be(alpha):
    """f(x) → Γ(α + 1) sin(πα/2) / π x^(−α−1), also where its factor is nearly 0."""
    from scipy.special import gamma

    x = 1e9 ** (1 / min(alpha, 1))
    leading = gamma(alpha + 1) * np.sin(np.pi * alpha / 2) / np.pi * x ** (-alpha - 1)
    assert stable_pdf(x, alpha) == pytest.approx(leading, rel=1e-3 if alpha < 1 else 1e-5)


@pytest.mark.parametrize("alpha", [0.3, 0.5, 1.0, 1.3, 1.9, 2.0])
def test_quantiles_invert_the_distribution(alpha):
    levels = np.array([0.01, 0.25, 0.5, 0.75, 0.95, 0.999])
    np.testing.assert_allclose(stable_cdf(stable_quantile(levels, alpha), alpha), levels, rtol=1e-10)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.3, 1.7, 1.94, 2.0])
def test_the_table_is_the_density(alpha):
    z = np.concatenate([np.linspace(-3, 3, 400), np.geomspace(3, 25 if alpha == 2 else 1e6, 400)])
    table = stable_table(alpha)
    np.testing.assert_allclose(table.log_pdf(z), np.log(stable_pdf(z, alpha)), atol=2e-5)
    h, inner = 1e-5, z[np.abs(z) > 0.1]
    slope = (np.log(stable_pdf(inner + h, alpha)) - np.log(stable_pdf(inner - h, alpha))) / (2 * h)
    np.testing.assert_allclose(table.weights(inner), -slope / inner, rtol=2e-2, atol=1e-7)


def test_what_is_not_computed_is_refused():
    with pytest.raises(BadArgument, match=r"0\.3 ≤ α ≤ 2, found α = 2\.1"):
        stable_pdf(1.0, 2.1)
    with pytest.raises(BadArgument, match="between 0 and 1"):
        stable_quantile([0.0], 1.5)
