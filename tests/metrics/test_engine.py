"""Running metrics: cut and merged anyhow, on any executor, saved and taken again, chosen by name."""

import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import textwrap
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import reduce
from pathlib import Path

import metric_runs as runs
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trajectory_tools.errors import BadArgument, MissingData, NotARun, UnknownName
from trajectory_tools.metrics import Metric, analyze, compute, make_metric, metrics
from trajectory_tools.metrics.dynamics import Dynamics
from trajectory_tools.metrics.histogram import Histogram
from trajectory_tools.metrics.symmetry import Symmetry
from trajectory_tools.run import open_run

CLOSE = {"rtol": 1e-9, "atol": 1e-12}
NAMES = ["loss", "symmetry", "histogram", "dynamics"]  # those of tensors and scalars


def finished(metric, context, state):
    with np.errstate(all="ignore"):
        return metric.finish(context, state)


def odd_arrays(n=12):
    """A walk with gradients that are None, NaN and infinite, and updates that overflow."""
    param, grad, update = runs.walk(n, seed=4)
    grad["next"][3:5] = np.nan
    grad["skip"][6, 0, 0] = np.inf
    update["far"][7, 0, 0, 0] = np.inf
    update["far"][8, 0, 0, 0] = 0  # 0 · ∞, across the end of a part
    return param, grad, update


@pytest.fixture(scope="module")
def odd(folder):
    return runs.write_run(folder / "odd", *odd_arrays(), steps=range(12), parts=6)


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
    one = runs.write_run(tmp_path / "one", *odd_arrays(), steps=range(12), parts=1)
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


def numbers(analyses):
    return {name: analysis.frame for name, analysis in analyses.items()}


def saved_files(run):
    return {path.name: path.stat().st_mtime_ns for path in (run.path / "analysis").iterdir()}


@pytest.fixture
def own(tmp_path):
    """A run of the test's own, to be changed."""
    return runs.write_run(tmp_path / "own", *runs.walk(6), steps=range(6), parts=3)


def test_what_was_saved_is_taken_again(own, monkeypatch):
    first = numbers(analyze(own, NAMES))
    files = saved_files(own)
    assert sorted(files) == sorted(f"{name}.parquet" for name in NAMES)
    for kind in metrics().values():
        monkeypatch.setattr(kind, "update", lambda *_: pytest.fail("computed again"))
    again = numbers(analyze(own.path, NAMES))
    assert saved_files(own) == files
    for name, frame in first.items():
        assert runs.same(again[name], frame)
        assert again[name].dtypes.astype(str).tolist() == frame.dtypes.astype(str).tolist()


def test_the_label_and_the_place_of_a_saved_run_may_change(own, tmp_path):
    analyze(own, ["dynamics"])
    own.path.rename(tmp_path / "moved")
    run = open_run(tmp_path / "moved")
    run.metadata |= {"label": "new", "seed": 7}
    frame = analyze(run, ["dynamics"])["dynamics"].frame
    assert frame[["run", "label", "seed"]].drop_duplicates().values.tolist() == [[run.name, "new", "7"]]
    assert runs.same(frame, compute(run, "dynamics"))


def test_a_run_that_grew_is_computed_again(own):
    before = numbers(analyze(own, NAMES))
    grown = runs.write_run(own.path, *runs.walk(5, seed=9), steps=range(4, 9), if_exists="resume")
    after = numbers(analyze(grown, NAMES))
    for name, frame in after.items():
        assert runs.same(frame, compute(grown, name))
        if name == "dynamics":
            whole = runs.series(frame, parameter="(all)", kind="update", quantity="norm")
            updates = runs.whole_chunk(grown).update
            expected = np.sqrt(sum((a.reshape(9, -1) ** 2).sum(axis=1) for a in updates.values()))
            np.testing.assert_allclose(whole.loc[range(9)], expected)
            assert len(whole) == 9, "the later session's step wins"
        if name != "histogram":
            assert frame["step"].max() == 8 > before[name]["step"].max()
    assert len(after["histogram"]) != len(before["histogram"])


def test_other_options_are_computed_again(own):
    for units, n in (("thinned", 6), ("none", 0), ("all", 6)):
        frame = analyze(own, [Symmetry(units)])["symmetry"].frame
        assert frame.loc[frame["quantity"] == "unit", "step"].nunique() == n
    for chosen in ((1,), (1, 2), None):
        frame = analyze(own, [Histogram(chosen)])["histogram"].frame
        assert sorted(frame["step"].unique()) == list(chosen or (1, 5))


def test_other_symmetries_are_computed_again(own):
    analyze(own, ["symmetry"])
    own.metadata["symmetries"] = own.metadata["symmetries"][:1]
    again = open_run(own.path)
    again.metadata["symmetries"] = own.metadata["symmetries"]
    assert analyze(again, ["symmetry"])["symmetry"].frame["group"].nunique() == 1


def test_another_version_is_computed_again(own, monkeypatch):
    analyze(own, ["loss"])
    stamp = saved_files(own)
    monkeypatch.setattr(metrics()["loss"], "version", 99)
    analyze(own, ["loss"])
    assert saved_files(own)["loss.parquet"] > stamp["loss.parquet"]


@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_damaged_saved_file_is_computed_again(folder, place, bit):
    path = folder / "damaged"
    if not path.exists():
        runs.write_run(path, *runs.walk(6), steps=range(6))
    run = open_run(path)
    expected = analyze(run, ["dynamics"])["dynamics"].frame
    file = path / "analysis" / "dynamics.parquet"
    intact = file.read_bytes()
    broken = bytearray(intact)
    broken[int(place * len(broken))] ^= 1 << bit
    file.write_bytes(broken)
    assert runs.same(analyze(run, ["dynamics"])["dynamics"].frame, expected)
    file.write_bytes(intact)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no parquet at all"])
def test_a_saved_file_that_is_none(own, content):
    expected = numbers(analyze(own, NAMES))
    for path in (own.path / "analysis").iterdir():
        path.write_bytes(content)
    for name, frame in numbers(analyze(own, NAMES)).items():
        assert runs.same(frame, expected[name])


def test_where_nothing_can_be_written_a_warning_says_so(own):
    (own.path / "analysis").write_text("in the way")
    with pytest.warns(UserWarning, match=f"the loss of {own.name} was not saved: .*analysis"):
        frame = analyze(own, ["loss"])["loss"].frame
    assert runs.same(frame, compute(own, "loss"))
    assert (own.path / "analysis").read_text() == "in the way"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_run_warns(own):
    own.path.chmod(0o500)
    try:
        with pytest.warns(UserWarning, match="was not saved"):
            assert not analyze(own, ["loss"])["loss"].frame.empty
    finally:
        own.path.chmod(0o700)


def test_compute_saves_nothing(own):
    compute(own, "loss")
    assert not (own.path / "analysis").exists()


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


class Mean(Metric):
    """The mean of all updates of each span."""

    name = "mean"
    columns = ("update",)

    def prepare(self, run):
        return None

    def update(self, context, chunk):
        assert all(a.dtype == np.float64 for a in chunk.update.values())
        return [float(a.mean()) for a in chunk.update.values()]

    def combine(self, left, right):
        return left + right

    def finish(self, context, state):
        return pd.DataFrame({"step": 0, "value": [reduce(float.__add__, state) / len(state)]})


def test_a_metric_of_ones_own(own, walked):
    frame = compute([own, walked], Mean())
    assert list(frame) == ["run", "label", "seed", "step", "value"]
    for value, run in zip(frame["value"], (own, walked), strict=True):
        assert value == pytest.approx(np.mean([run.array("update", n).mean() for n in run.shapes]))
    saved = analyze(own, [Mean(), "dynamics"])
    assert runs.same_values(saved["mean"].frame, frame.iloc[:1])
    assert runs.same_values(analyze(own, [Mean()])["mean"].frame, frame.iloc[:1])


class Broken(Mean):
    """Fails where it is told to."""

    name = "broken"
    where = ""

    def fail(self, where):
        if self.where == where:
            raise ZeroDivisionError(f"in {where}\nand a second line")

    def prepare(self, run):
        self.fail("prepare")

    def steps(self, context):
        self.fail("steps")

    def update(self, context, chunk):
        self.fail("update")
        return super().update(context, chunk)

    def combine(self, left, right):
        self.fail("combine")
        return super().combine(left, right)

    def finish(self, context, state):
        self.fail("finish")
        frame = super().finish(context, state)
        return {"nothing": None, "column": frame.assign(label="x")}.get(self.where, frame)


def broken(where):
    metric = Broken()
    metric.where = where
    return metric


@pytest.mark.parametrize("executor", [None, ThreadPoolExecutor(2)])
@pytest.mark.parametrize("where", ["prepare", "steps", "update", "combine", "finish", "nothing", "column"])
def test_a_metric_that_fails_stops_no_other(odd, where, executor):
    found = analyze(odd, ["dynamics", broken(where), "loss"], executor=executor, saved=False)
    assert runs.same(found["dynamics"].frame, compute(odd, "dynamics"), **CLOSE)
    assert not found["loss"].skipped
    [(run, reason)] = found["broken"].skipped.items()
    told = {"nothing": "TypeError: finish gives a tidy frame, and gave NoneType", "column": "ValueError: its frame has"}
    assert run == odd.name
    assert reason.startswith(f"broken failed: {told.get(where, f'ZeroDivisionError: in {where}')}")
    assert "\n" not in reason
    assert "Traceback" in found["broken"].failed[run]
    assert found["broken"].frame.empty
    with pytest.raises(MissingData, match=r"no broken of .*odd: broken failed: ") as alone:
        compute(odd, broken(where))
    assert "Traceback" in alone.value.__notes__[0]


def test_a_metric_that_fails_with_one_run_keeps_the_others(odd, walked):
    class Picky(Mean):
        name = "picky"

        def prepare(self, run):
            if run.path == odd.path:
                raise KeyError

    frame = compute([odd, walked], Picky())
    assert set(frame["run"]) == {walked.name}
    assert frame.attrs["skipped"] == {odd.name: "picky failed: KeyError: KeyError"}


def test_a_frame_that_cannot_be_saved_is_still_the_answer(own):
    class Odd(Mean):
        name = "odd"

        def finish(self, context, state):
            return pd.DataFrame({"step": 0, "value": [1.0, 2.0], "kind": ["a", 3]})

    with pytest.warns(UserWarning, match="the odd of .* was not saved: "):
        found = analyze(own, [Odd()])
    assert found["odd"].frame["value"].tolist() == [1.0, 2.0]


# In processes of their own.


def python(code, *args, path=None, **environment):
    env = {**os.environ, **environment, **({"PYTHONPATH": str(path)} if path else {})}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_torch_is_never_imported(walked, own):
    code = """
        import json, sys, warnings
        warnings.simplefilter("error")
        from trajectory_tools.metrics import analyze, compute
        rows = len(compute(sys.argv[1:], "symmetry"))
        analyze(sys.argv[1:])
        loaded = {name.partition(".")[0] for name in sys.modules}
        print(json.dumps([rows, sorted(loaded & {"torch", "matplotlib", "sklearn"})]))
    """
    rows, loaded = python(code, walked.path, own.path)
    assert rows > 0
    assert loaded == []


THIRD_PARTY = '''
from dataclasses import dataclass
import numpy as np
import pandas as pd
from trajectory_tools.metrics import Metric

@dataclass(frozen=True)
class Largest(Metric):
    """The largest update."""
    factor: float = 1.0
    name = "largest"
    columns = ("update",)
    def prepare(self, run):
        return None
    def update(self, context, chunk):
        return max(float(np.abs(a).max()) for a in chunk.update.values())
    def combine(self, left, right):
        return max(left, right)
    def finish(self, context, state):
        return pd.DataFrame({"step": [0], "value": [self.factor * state]})

class Clash(Largest):
    name = "loss"

class Nameless(Metric):
    pass

not_a_metric = 3
'''


def test_another_packages_metric(tmp_path, walked):
    site = tmp_path / "site"
    info = site / "third_party-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "third_party.py").write_text(THIRD_PARTY)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
    entries = ["largest = third_party:Largest", "clash = third_party:Clash", "gone = third_party:Gone"]
    entries += ["missing = no_such_module:X", "number = third_party:not_a_metric", "nameless = third_party:Nameless"]
    (info / "entry_points.txt").write_text("\n".join(["[trajectory_tools.metrics]", *entries, ""]))
    code = """
        import json, sys, warnings
        from concurrent.futures import ThreadPoolExecutor
        from trajectory_tools.metrics import analyze, compute, metrics
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            names = sorted(metrics())
        said = sorted(str(w.message) for w in caught)
        assert metrics()["loss"].__module__ == "trajectory_tools.metrics.loss"
        value = compute(sys.argv[1], "largest", factor=2.0)["value"].item()
        with ThreadPoolExecutor(2) as executor:
            found = analyze(sys.argv[1], executor=executor, saved=False)
        print(json.dumps([names, said, value, found["largest"].frame["value"].item(), len(found)]))
    """
    names, said, value, plain, n = python(code, walked.path, path=site)
    assert names == sorted([*NAMES, "covariance", "largest", "tail_index", "temporal_covariance"])
    assert [message.split("'")[1] for message in said] == ["clash", "gone", "missing", "nameless", "number"]
    assert all("of another package was left out: " in message for message in said)
    for reason in ("the name 'loss' is taken", "no attribute 'Gone'", "No module named", "is no subclass of Metric"):
        assert any(reason in message for message in said)
    largest = max(np.abs(walked.array("update", name)).max() for name in walked.shapes)
    assert (value, plain, n) == (2 * largest, largest, 8)


MEMORY = """
    import json, sys
    from pathlib import Path
    import trajectory_tools.store.chunks as chunks
    from trajectory_tools.metrics import analyze
    from trajectory_tools.metrics.symmetry import Symmetry
    chunks.CHUNK_VALUES = 100_000


    def peak():  # MB; what getrusage says would begin with what the parent had
        return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


    before = peak()
    found = analyze(sys.argv[1], [Symmetry("none"), "histogram", "dynamics"], saved=False)
    print(json.dumps([found["dynamics"].frame["step"].nunique(), before, peak()]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="where the peak is read")
def test_memory_does_not_grow_with_the_steps(tmp_path):
    shapes = {"in": (50, 100), "out": (10, 50)}  # 5,500 values: 2,000 steps are 264 MB in float64
    groups = [{"kind": "rescale", "in": [["in", 0]], "out": [["out", 1]]}]
    peaks = {}
    for n in (200, 2000):
        arrays = [
            {k: np.broadcast_to(a, (n, *a.shape[1:])) for k, a in runs.random_arrays(1, shapes=shapes, seed=i).items()}
            for i in range(3)
        ]
        arrays = [{k: a.astype(np.float32) for k, a in one.items()} for one in arrays]
        path = tmp_path / str(n)
        run = runs.write_run(path, *arrays, steps=range(n), symmetries=groups, parts=n // 20, compression="none")
        assert len(run.parts("tensors")) >= n // 40
        steps, before, peaks[n] = python(MEMORY, path)
        assert steps == n
        assert peaks[n] > before
    assert peaks[2000] - peaks[200] < 40, "MB, where the data are 240 MB larger"
