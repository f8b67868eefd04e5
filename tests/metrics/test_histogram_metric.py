"""Histograms of magnitudes against counting one value at a time."""

import itertools
import math
from collections import Counter

import metric_runs as runs
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trajectory_tools.errors import BadArgument, MissingData
from trajectory_tools.metrics import analyze, compute
from trajectory_tools.metrics.histogram import EDGES, WHOLE, Histogram, magnitude_counts

ANY = st.lists(st.floats(allow_nan=True, allow_infinity=True, allow_subnormal=True), max_size=30)


def bin_of(x):
    """(low, high) of the bin that |x| is in, found by walking through the edges."""
    if not math.isfinite(x):
        return None
    if x == 0:
        return (0.0, 0.0)
    for low, high in itertools.pairwise(EDGES):
        if low <= abs(x) < high:
            return (low, high)
    raise AssertionError(f"no bin for {x}")


def counts_of(rows):
    """(low, high) → count, from the rows of one histogram."""
    rows = rows[rows["quantity"] == "count"]
    return {
        None if math.isnan(low) else (low, high): count
        for low, high, count in zip(rows["low"], rows["high"], rows["value"], strict=True)
    }


@given(ANY)
def test_counts_are_those_of_the_loop(values):
    counts = magnitude_counts(np.array(values))
    expected = Counter(map(bin_of, values))
    keys = [(0.0, 0.0), *itertools.pairwise(EDGES), None]
    assert counts.tolist() == [expected[key] for key in keys]
    assert counts.sum() == len(values)


def test_edges_and_extremes():
    counts = magnitude_counts(EDGES[1:-1])
    assert counts.tolist() == [0, 0, *[1] * (len(EDGES) - 2), 0], "an edge belongs to the bin that it begins"
    below = np.nextafter(EDGES[1:-1], 0)
    assert magnitude_counts(-below).tolist() == [0, *[1] * (len(EDGES) - 2), 0, 0]
    odd = np.array([0.0, -0.0, 5e-324, -1e-45, 1e308, -1e30, np.nan, np.inf, -np.inf])
    counts = magnitude_counts(odd)
    assert (counts[0], counts[1], counts[-2], counts[-1], counts.sum()) == (2, 2, 2, 3, 9)
    assert magnitude_counts(np.empty(0)).sum() == 0
    assert (np.diff(EDGES) > 0).all()


@pytest.mark.parametrize("lr", [3.0, 1.0, 0.5, 0.1, 0.05, 0.01, 1e-3, 5e-4, 1e-4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_usual_learning_rates_are_no_edges(lr, dtype):
    # Lion moves by ±lr, recorded as the difference of two rounded parameters: off by up to an eps of their size.
    theta = np.random.default_rng(0).uniform(-3, 3, 1000).astype(dtype)
    moved = (theta + dtype(lr)) - theta
    assert len(np.unique(moved)) > 1 or lr in (3.0, 1.0, 0.5)  # which float64 adds exactly
    counts = magnitude_counts(moved)
    assert counts.max() == 1000
    bin_ = counts.argmax() - 1
    assert EDGES[bin_] < 0.96 * lr < 1.04 * lr < EDGES[bin_ + 1]


@pytest.mark.parametrize("name", ["walked", "adam", "sparse"])
def test_every_count_is_that_of_the_loops(name, request):
    run = request.getfixturevalue(name)
    chosen = tuple(run.steps[[0, 2, -1]].tolist())
    frame = compute(run, "histogram", chosen=chosen)
    assert sorted(frame["step"].unique()) == sorted(chosen)
    for kind in ("grad", "update"):
        for step in chosen:
            total, largest = Counter(), 0.0
            for parameter in run.shapes:
                array = run.array(kind, parameter, steps=step)[0].astype(float).ravel()
                expected = Counter(map(bin_of, array))
                rows = frame[(frame["parameter"] == parameter) & (frame["kind"] == kind) & (frame["step"] == step)]
                assert counts_of(rows) == expected
                assert (rows["n"] == array.size).all()
                assert rows.loc[rows["quantity"] == "max", "value"].tolist() == [max(map(abs, array))]
                total, largest = total + expected, max(largest, *map(abs, array))
            rows = frame[(frame["parameter"] == WHOLE) & (frame["kind"] == kind) & (frame["step"] == step)]
            assert counts_of(rows) == total
            assert (rows["n"] == run.n_values).all()
            assert rows.loc[rows["quantity"] == "max", "value"].tolist() == [largest]


def test_nan_infinite_none_and_empty(tmp_path):
    shapes = {"a": (2, 3), "b": (2,), "none": (3,), "empty": (0, 2), "scalar": ()}
    grad = {n: np.ones((2, *s)) for n, s in shapes.items()}
    grad["a"][1] = [[np.nan, np.inf, -np.inf], [0.0, -0.0, -7.0]]
    grad["b"][1] = np.inf
    grad["none"][1] = np.nan  # None
    run = runs.write_run(tmp_path / "odd", None, grad, None, steps=[0, 1], symmetries=[])
    frame = compute(run, "histogram", chosen=(1,))
    by_name = {name: frame[frame["parameter"] == name] for name in frame["parameter"].unique()}
    assert counts_of(by_name["a"]) == {(0.0, 0.0): 2, bin_of(7.0): 1, None: 3}
    assert counts_of(by_name["b"]) == {None: 2}
    assert counts_of(by_name["scalar"]) == {bin_of(1.0): 1}
    assert counts_of(by_name[WHOLE]) == {(0.0, 0.0): 2, bin_of(7.0): 1, bin_of(1.0): 1, None: 5}
    assert "none" not in by_name
    assert counts_of(by_name["empty"]) == {}
    largest = frame[frame["quantity"] == "max"].set_index("parameter")["value"]
    assert largest[["a", "scalar", WHOLE]].tolist() == [7, 1, 7]
    assert largest[["b", "empty"]].isna().all(), "no finite value has a largest magnitude of NaN"


def test_lion_moves_by_its_learning_rate(tmp_path):
    run, _ = runs.train(tmp_path / "lion", "lion", hidden=(6,), activation="relu", options={"lr": 0.01})
    frame = compute(run, "histogram", chosen=(1, 5))
    for step in (1, 5):
        rows = frame[(frame["parameter"] == WHOLE) & (frame["kind"] == "update") & (frame["step"] == step)]
        # Inputs that are 0 in every image have no gradient, and so no momentum: these weights stay.
        assert set(counts_of(rows)) <= {(0.0, 0.0), bin_of(0.01)}
        assert counts_of(rows)[bin_of(0.01)] > 0.7 * run.n_values


def test_bins_are_shared_by_all_runs(adam, walked, momentum):
    frame = compute([adam, walked, momentum], "histogram")
    assert frame["run"].nunique() == 3
    counts = frame[frame["quantity"] == "count"]
    grid = {(low, high) for low, high in itertools.pairwise(EDGES)} | {(0.0, 0.0)}
    assert set(zip(counts["low"], counts["high"], strict=True)) <= grid
    summed = counts.groupby(["run", "step", "parameter", "kind"], observed=True).agg({"value": "sum", "n": "first"})
    assert (summed["value"] == summed["n"]).all()


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        (range(40), [1, 5, 10, 30]),
        (range(0, 40, 5), [5, 10, 30]),
        ([0, 1], [1]),
        ([0], [0]),
        ([7], [7]),
        (range(1000, 1100), None),
        ([2, 3, 4], [2, 3, 4]),
    ],
)
def test_default_steps(tmp_path, recorded, expected):
    shapes = {"w": (2,)}
    arrays = runs.random_arrays(len(recorded), shapes=shapes)
    run = runs.write_run(tmp_path / "run", None, arrays, arrays, steps=recorded, symmetries=[])
    got = Histogram().prepare(run).tolist()
    if expected is None:  # 1, 100^(1/5), ..., 100 rounded, of a hundred recorded steps
        expected = [1000, 1002, 1005, 1015, 1039, 1099]
    assert got == expected
    assert sorted(compute(run, "histogram")["step"].unique()) == expected


def test_asked_steps_that_are_missing(tmp_path, sparse, adam):
    with pytest.raises(MissingData, match=r"no histogram of .*sparse: step 1 is not among the recorded steps"):
        compute(sparse, "histogram", chosen=(0, 1))
    analysis = analyze([sparse, adam], [Histogram((0, 1))], saved=False)["histogram"]
    assert list(analysis.skipped) == [sparse.name]
    assert "which are 0 to 9 (4 of them)" in analysis.skipped[sparse.name]
    assert set(analysis.frame["run"]) == {adam.name}
    frame = compute([sparse, adam], "histogram", chosen=(0, 1))
    assert frame.attrs["skipped"] == analysis.skipped
    with pytest.raises(BadArgument, match=r"numbers from 0 on, found \[-1\]"):
        Histogram((-1,))
    with pytest.raises(BadArgument, match="numbers from 0 on, found none"):
        Histogram(())
    arrays = runs.random_arrays(1, shapes={"w": (2,)})
    run = runs.write_run(tmp_path / "p", arrays, None, None, steps=[0], symmetries=[])
    with pytest.raises(MissingData, match="it needs grad or update, and the run has param"):
        compute(run, "histogram")


def test_torch_agrees(adam):
    grad = torch.from_numpy(adam.array("grad", "0.weight", steps=1)).double().abs()
    edges = torch.from_numpy(EDGES[1:-1])
    expected = torch.histogram(grad[grad > 0], edges).hist  # leaves out what lies outside
    assert magnitude_counts(grad.numpy().ravel())[2:-2].tolist() == expected.tolist()
