"""What was computed is saved beside the run, and taken again as long as it holds."""

import os

import metric_runs as runs
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_runs import NAMES
from ones_own import Mean

from trajectory_tools.metrics import analyze, compute, metrics
from trajectory_tools.metrics.histogram import Histogram
from trajectory_tools.metrics.symmetry import Symmetry
from trajectory_tools.run import open_run


def numbers(analyses):
    return {name: analysis.frame for name, analysis in analyses.items()}


def saved_files(run):
    return {path.name: path.stat().st_mtime_ns for path in (run.path / "analysis").iterdir()}


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


def test_a_frame_that_cannot_be_saved_is_still_the_answer(own):
    class Odd(Mean):
        name = "odd"

        def finish(self, context, state):
            return pd.DataFrame({"step": 0, "value": [1.0, 2.0], "kind": ["a", 3]})

    with pytest.warns(UserWarning, match="the odd of .* was not saved: "):
        found = analyze(own, [Odd()])
    assert found["odd"].frame["value"].tolist() == [1.0, 2.0]
