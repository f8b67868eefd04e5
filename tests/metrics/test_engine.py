"""Running metrics: cut and merged anyhow, on any executor, chosen by name."""

import itertools
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import metric_runs as runs
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_runs import CLOSE, NAMES

from trajectory_tools.errors import BadArgument, MissingData, NotARun, UnknownName
from trajectory_tools.metrics import analyze, compute, make_metric
from trajectory_tools.metrics.dynamics import Dynamics
from trajectory_tools.metrics.histogram import Histogram
from trajectory_tools.metrics.symmetry import Symmetry


def finished(metric, context, state):
    with np.errstate(all="ignore"):
        return metric.finish(context, state)


@pytest.fixture(scope="module", params=[Symmetry("all"), Histogram((0, 1, 7, 23)), Dynamics()], ids=lambda m: m.name)
def uncut(request, walked):
    """A metric, its context, the run as one chunk, and what comes of it."""
    metric, whole = request.param, runs.whole_chunk(walked)
    context = metric.prepare(walked)
    expected = finished(metric, context, metric.update(context, whole))
    assert runs.same(compute(walked, metric).drop(columns=["run", "label", "seed"]), expected, **CLOSE)
    return metric, context, whole, expected


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_the_cuts_and_the_order_of_merging_do_not_matter(uncut, data):
    metric, context, whole, expected = uncut
    n = len(whole)
    cuts = [0, *sorted(data.draw(st.sets(st.integers(1, n - 1)), label="cuts")), n]
    states = [metric.update(context, runs.cut(whole, a, b)) for a, b in itertools.pairwise(cuts)]
    while len(states) > 1:
        at = data.draw(st.integers(0, len(states) - 2), label="merge")
        states[at : at + 2] = [metric.combine(*states[at : at + 2])]
    frame = finished(metric, context, states[0])
    assert runs.same(frame, expected, **CLOSE)
    assert runs.same(finished(metric, context, states[0]), frame), "finishing changes nothing"


@pytest.mark.parametrize("name", NAMES)
def test_the_parts_do_not_matter(tmp_path, odd, name):
    one = runs.write_run(tmp_path / "one", *runs.odd_arrays(), steps=range(12), parts=1)
    assert len(one.parts("tensors")) == 1
    assert len(odd.parts("tensors")) == 6
    frames = (compute(run, name).drop(columns=["run", "label"]) for run in (one, odd))
    assert runs.same(*frames, **CLOSE)


@pytest.fixture(scope="module")
def serial(odd, walked):
    return analyze([odd, walked], NAMES, saved=False)


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_the_executor_does_not_matter(odd, walked, serial, kind):
    if kind == "threads":
        executor = ThreadPoolExecutor(3)
    else:
        executor = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))
    with executor:
        spread = analyze([odd, walked], NAMES, executor=executor, saved=False)
    for name in serial:
        assert runs.same(spread[name].frame, serial[name].frame, **CLOSE)
        assert spread[name].skipped == serial[name].skipped == {}


@pytest.mark.parametrize("name", NAMES)
def test_several_in_one_pass_are_each_alone(odd, walked, serial, name):
    assert runs.same(compute([odd, walked], name), serial[name].frame)


def test_columns_and_types(serial):
    before, after = ["run", "label", "seed", "step"], ["value", "low", "high", "n"]
    keys = {
        "loss": ["quantity"],
        "symmetry": ["group", "kind", "quantity", "unit"],
        "histogram": ["parameter", "kind", "quantity"],
        "dynamics": ["parameter", "kind", "quantity"],
    }
    assert sorted(serial) == sorted(keys)
    for name, analysis in serial.items():
        frame = analysis.frame
        assert list(frame) == [*before, *keys[name], *after]
        for column in frame:
            if column in ("step", "n", "unit"):
                assert frame[column].dtype == np.int64
            elif column in ("value", "low", "high"):
                assert frame[column].dtype == np.float64
            else:
                assert isinstance(frame[column].dtype, pd.CategoricalDtype)
                assert frame[column].notna().all()
        assert frame.index.equals(pd.RangeIndex(len(frame)))


def test_reasons_of_what_was_skipped(tmp_path, own):
    plain = runs.write_run(tmp_path / "plain", *runs.walk(3), steps=range(3), symmetries=[])
    empty = runs.write_run(tmp_path / "empty", *runs.walk(0), steps=[])
    found = analyze([plain, own, empty], NAMES, saved=False)
    assert {name: sorted(a.skipped) for name, a in found.items()} == {
        "loss": [empty.name],
        "histogram": [empty.name],
        "dynamics": [empty.name],
        "symmetry": sorted([empty.name, plain.name]),
    }
    assert "no symmetry groups were declared" in found["symmetry"].skipped[plain.name]
    assert found["symmetry"].skipped[empty.name] == "no step was recorded"
    for analysis in found.values():
        assert own.name in set(analysis.frame["run"])
    assert compute([plain, own], "symmetry").attrs["skipped"] == {plain.name: found["symmetry"].skipped[plain.name]}
    for name in NAMES:
        with pytest.raises(MissingData, match=f"no {name} of .*empty: no "):
            compute(empty, name)


def test_runs_by_folder_and_each_once(own, tmp_path):
    other = runs.write_run(tmp_path / "other", *runs.walk(3), steps=range(3))
    by_run = compute([own, other], "loss")
    assert runs.same(compute([tmp_path], "loss").sort_values("run"), by_run)
    assert runs.same(compute(str(tmp_path), "loss"), by_run)
    assert runs.same(compute([own, tmp_path, other, str(own.path)], "loss"), by_run), "each run once"
    with pytest.raises(BadArgument, match="no runs were given"):
        compute([], "loss")
    with pytest.raises(NotARun):
        compute(tmp_path / "nowhere", "loss")


def test_names_and_options(own):
    with pytest.raises(UnknownName, match=r"unknown metric 'symetry'; did you mean symmetry?"):
        compute(own, "symetry")
    with pytest.raises(UnknownName, match=r"option of the metric 'symmetry': 'unit'; did you mean units?"):
        compute(own, "symmetry", unit="all")
    for option in ("foo", "name", "table"):
        with pytest.raises(BadArgument, match=f"the metric 'loss' has no options, found '{option}'"):
            compute(own, "loss", **{option: 1})
    with pytest.raises(UnknownName, match="option of the metric 'symmetry': 'columns'"):
        make_metric("symmetry", columns=())
    with pytest.raises(BadArgument, match="found also the options units"):
        compute(own, Symmetry("all"), units="none")
    made = Symmetry("all")
    assert make_metric(made) is made
    with pytest.raises(BadArgument, match="two metrics are called 'histogram'"):
        analyze(own, [Histogram((1,)), "histogram"])
    assert list(analyze(own, ["loss", "loss"])) == ["loss"], "the same twice is once"
