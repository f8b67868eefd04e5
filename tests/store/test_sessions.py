"""Sessions: where a resumed run overlaps an earlier one, the later one's steps win, however the run is read."""

import pytest
from making import assert_holds, described, record, scalars_at

from trajectory_tools.errors import BadArgument, OutputExists, TrajectoryError
from trajectory_tools.run import open_run
from trajectory_tools.store.session import Session


def test_a_session_goes_on_where_the_last_one_ended(tmp_path):
    first = record(tmp_path, range(5))
    second = record(tmp_path, [], if_exists="resume", close=False)
    assert (first.next_step, second.next_step) == (0, 5)
    assert second.metadata["run_id"] == "r"
    assert second.metadata["created_at"] == first.metadata["created_at"]
    second.close("finished")
    record(tmp_path, range(5, 8), seed=1, if_exists="resume")
    assert_holds(tmp_path, {step: int(step >= 5) for step in range(8)})
    assert [entry["session"] for entry in open_run(tmp_path).metadata["sessions"]] == [0, 1, 2]


def test_the_later_session_supersedes_the_earlier_one_from_its_first_step_on(tmp_path):
    record(tmp_path, range(10), seed=0, part_bytes=1, queue_bytes=9000)
    record(tmp_path, range(6, 9), seed=1, if_exists="resume")
    expected = {**dict.fromkeys(range(6), 0), **dict.fromkeys(range(6, 9), 1)}
    assert_holds(tmp_path, expected)
    run = open_run(tmp_path)
    assert run.select_steps(slice(4, 9, 2)).tolist() == [4, 6, 8]
    assert [s for chunk in run.chunks(steps=run.select_steps([2, 7])) for s in chunk.steps.tolist()] == [2, 7]

    third = record(tmp_path, [], if_exists="resume", close=False)
    assert third.next_step == 9  # not 10: step 9 was superseded
    third.close("finished")
    record(tmp_path, range(3, 5), seed=2, if_exists="resume")
    assert_holds(tmp_path, {0: 0, 1: 0, 2: 0, 3: 2, 4: 2})
    record(tmp_path, range(20, 22), seed=3, if_exists="resume")
    assert_holds(tmp_path, {0: 0, 1: 0, 2: 0, 3: 2, 4: 2, 20: 3, 21: 3})


def test_scalar_columns_that_appear_later_are_nan_before(tmp_path):
    session = record(tmp_path, range(3), close=False)
    session.writer.put_scalars(scalars_at(3, accuracy=0.5))
    session.close("finished")
    later = record(tmp_path, [], if_exists="resume", close=False)
    later.writer.put_scalars(scalars_at(4, **{"val/err": 0.25}))
    later.close("finished")
    scalars = open_run(tmp_path).scalars()
    assert scalars["step"].tolist() == [0, 1, 2, 3, 4]
    assert scalars["accuracy"].isna().tolist() == [True] * 3 + [False, True]
    assert scalars["val/err"].isna().tolist() == [True] * 4 + [False]
    assert (
        open_run(tmp_path).query('SELECT "val/err" AS e FROM scalars WHERE accuracy IS NULL AND step > 2')["e"][0]
        == 0.25
    )


def test_scalar_columns_can_appear_in_any_batch_of_one_session(tmp_path):
    session = record(tmp_path, [], close=False, queue_bytes=1000, part_bytes=10**9)
    for step in range(20):
        session.writer.put_scalars(scalars_at(step, **({"late": 1.0} if step >= 10 else {})))
    session.close("finished")
    assert open_run(tmp_path).scalars()["late"].isna().tolist() == [True] * 10 + [False] * 10


def test_parameters_of_earlier_sessions_stay_readable(tmp_path):
    record(tmp_path, range(2), shapes={"a": (2,), "b": (3,)})
    record(tmp_path, range(2, 4), shapes={"a": (2,), "c": (4,)}, if_exists="resume")
    run = open_run(tmp_path)
    assert set(run.shapes) == {"a", "b", "c"}
    assert [sorted(chunk.param) for chunk in run.chunks()] == [["a", "b"], ["a", "c"]]
    assert run.array("param", "b").shape == (4, 3)
    with pytest.raises(BadArgument, match=r"'a' with the shape \(2,\), found \(5,\)"):
        record(tmp_path, [], shapes={"a": (5,)}, if_exists="resume")
    record(tmp_path, [], shapes={"a": (2,)}, if_exists="resume")  # the lock was freed


def test_an_existing_run_is_refused_resumed_or_replaced(tmp_path):
    record(tmp_path, range(3), seed=0)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")}
    with pytest.raises(OutputExists, match="if_exists='replace'"):
        record(tmp_path, range(2))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")} == before
    (tmp_path / "analysis").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    record(tmp_path, range(2), seed=5, if_exists="replace", run_id="new")
    assert_holds(tmp_path, dict.fromkeys(range(2), 5))
    assert not (tmp_path / "analysis").exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"
    with pytest.raises(BadArgument, match="if_exists"):
        record(tmp_path, [], if_exists="overwrite")


@pytest.mark.parametrize("if_exists", ["error", "resume", "replace"])
@pytest.mark.parametrize("content", [None, b"{}", b'{"format": {"name": "other", "version": 1}}', b"\xff", b""])
def test_a_foreign_folder_is_never_touched(tmp_path, content, if_exists):
    (tmp_path / "tensors").mkdir()
    (tmp_path / "tensors" / "precious.txt").write_text("mine")
    if content is not None:
        (tmp_path / "run.json").write_bytes(content)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(OutputExists, match=r"no run|not touched"):
        record(tmp_path, range(2), if_exists=if_exists)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_file_is_no_folder_and_what_a_kill_left_before_run_json_is_nothing(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputExists, match="is a file"):
        record(tmp_path / "file", [])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").touch()
    (tmp_path / "run" / ".run.json.tmp").write_text('{"form')
    record(tmp_path / "run", range(2))
    assert_holds(tmp_path / "run", dict.fromkeys(range(2), 0))


@pytest.mark.parametrize("parent", ["/proc", "/sys", "/dev/null"])
def test_a_folder_that_cannot_be_written_is_one_sentence(parent):
    with pytest.raises(TrajectoryError, match=r"cannot record into .*choose") as caught:
        record(f"{parent}/run", [])
    assert "\n" not in str(caught.value)


def test_no_description_can_hide_whose_run_it_is(tmp_path):
    taken = {"format": None, "run_id": "x", "status": "y", "sessions": [], "created_at": 0, "seed": 3}
    Session(tmp_path, {"params": described(), **taken}, run_id="r").close("finished")
    run = open_run(tmp_path)
    assert (run.run_id, run.status, run.seed) == ("r", "finished", 3)
    assert len(run.metadata["sessions"]) == 1


def test_an_empty_run_has_empty_answers(tmp_path):
    record(tmp_path, [])
    run = open_run(tmp_path)
    assert (run.n_steps, run.steps.size, list(run.chunks())) == (0, 0, [])
    assert run.array("grad", "0.weight").shape == (0, 4, 3)
    assert len(run.scalars()) == len(run.query("SELECT step, name, grad FROM tensors")) == 0
    assert "loss" in run.scalars()
    assert "0 steps" in repr(run)
