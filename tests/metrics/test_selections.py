"""Metrics of runs that recorded only a part of each parameter: measured where that can be, else a reason."""

import metric_runs as runs
import numpy as np
import pytest

from trajectory_tools.errors import MissingData
from trajectory_tools.metrics import compute
from trajectory_tools.metrics.histogram import WHOLE

TRAINED = {"hidden": (6,), "activation": "relu", "options": {"lr": 0.01}, "steps": 4}


@pytest.fixture(scope="module")
def selected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("selected")
    options = {"sample": {"subsample": 0.25}, "sums": {"projection": 8}, "out": {"match": "^2"}}
    return {name: runs.train(folder / name, "adam", **TRAINED, **given)[0] for name, given in options.items()}


def test_symmetry_needs_whole_parameters(selected):
    for name in ("sample", "sums"):
        with pytest.raises(MissingData, match=r"it needs every coordinate of a group's parameters, and the run has"):
            compute(selected[name], "symmetry")
    groups = set(compute(selected["out"], "symmetry")["group"])
    assert groups == {"translation 2.weight+2.bias"}


def test_histograms_of_a_subsample_count_its_coordinates(selected):
    with pytest.raises(MissingData, match="8 random projections of each parameter, which are sums of many"):
        compute(selected["sums"], "histogram")
    frame = compute(selected["sample"], "histogram")
    counts = frame[(frame["quantity"] == "count") & (frame["kind"] == "update") & (frame["step"] == 1)]
    for name, shape in selected["sample"].recorded_shapes.items():
        assert counts.loc[counts["parameter"] == name, "value"].sum() == np.prod(shape)
    assert set(compute(selected["out"], "histogram")["parameter"]) == {"2.weight", "2.bias", WHOLE}


def test_dynamics_of_a_match_know_the_whole_network_from_stats(selected):
    frame = compute(selected["out"], "dynamics")
    whole = frame[frame["parameter"] == WHOLE]
    assert set(whole["quantity"]) == {"norm", "ratio", "path_length"}
    stats = selected["out"].stats()
    squares = (stats.assign(square=stats["update_norm"] ** 2)).groupby("step")["square"].sum()
    np.testing.assert_allclose(runs.series(whole, kind="update", quantity="norm") ** 2, squares, rtol=1e-12)
    assert "cos_descent" in set(frame.loc[frame["parameter"] == "2.weight", "quantity"])
    assert "cos_descent" not in set(frame.loc[frame["parameter"] == "0.weight", "quantity"])


def test_inner_products_of_projections(selected):
    run = selected["sums"]
    frame = compute(run, "dynamics")
    projected = run.array("update", "0.weight").astype(float)
    got = runs.series(frame, parameter="0.weight", kind="update", quantity="dot_previous_estimate")
    assert np.isnan(got[0])
    np.testing.assert_allclose(got[1:], (projected[1:] * projected[:-1]).sum(1), rtol=1e-12)
