"""Which law is preferred, where it is known which one the samples are from."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import levy_stable, norm, t

import trajectory_tools as tt


def samples(law, n=400, columns=4):
    rng = np.random.default_rng(2)
    return {
        "gaussian": lambda: rng.standard_normal((n, columns)),
        "student": lambda: rng.standard_t(4, (n, columns)),
        "stable": lambda: levy_stable.rvs(1.4, 0, size=(n, columns), random_state=rng),
    }[law]()


@pytest.mark.parametrize("law", ["gaussian", "student", "stable"])
def test_the_law_of_the_samples_is_preferred(law):
    found = tt.compare_tails(samples(law) * [1, 10, 0.1, 3] + [0, 1, 2, 3])
    assert found.preferred == law
    assert (found.student > 0, found.stable > 0) == (law != "gaussian", law != "gaussian")
    if law == "stable":
        assert found.alpha == pytest.approx(1.4, abs=0.1)
    if law == "student":
        assert found.dof == pytest.approx(4, rel=0.3)
        assert found.student_interval[0] < found.student < found.student_interval[1]


def test_the_student_fit_is_the_maximum_of_scipys_likelihood():
    x = samples("student", n=300, columns=1)[:, 0]

    def loss(p):
        return -t.logpdf(x, np.exp(p[0]), p[1], np.exp(p[2])).sum()

    best = -min(minimize(loss, [1.0, 0.0, 0.0], method="Nelder-Mead", options={"maxiter": 2000}).fun, np.inf)
    gaussian = norm.logpdf(x, x.mean(), x.std()).sum()
    assert tt.compare_tails(x).student == pytest.approx((best - gaussian - 1) / 300, abs=2e-4)


def test_samples_of_which_too_many_are_equal_have_no_verdict():
    """As Adam's first updates: almost all of them ± the learning rate, or 0."""
    signs = np.sign(samples("gaussian", n=64, columns=200))
    signs[:, :50] *= np.arange(64)[:, None] % 2
    with np.errstate(all="raise"):
        found = tt.compare_tails(1e-3 * signs)
    assert found.preferred is None
    assert found.note == "200 of 200 columns hold one value in a third of their samples: no density to compare"
    mixed = np.hstack([samples("student"), np.sign(samples("gaussian", columns=1))])
    assert (tt.compare_tails(mixed).preferred, tt.compare_tails(mixed).n_columns) == ("student", 4)


def test_columns_that_do_not_vary_are_left_out():
    x = samples("gaussian") * [1, 0, 1, 0]
    assert tt.compare_tails(x).n_columns == 2
    assert "not enough" in tt.compare_tails(x[:10]).note
