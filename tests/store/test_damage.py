"""A part that is not what was committed is found, named, and left out only on request."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from making import COLUMNS, SHAPES, assert_holds, record, values_at

from trajectory_tools.errors import BadArgument, DamagedPart, NotARun, TrajectoryError, UnsupportedFormat
from trajectory_tools.run import find_runs, open_run
from trajectory_tools.store.session import Session
from trajectory_tools.store.verify import damaged_parts, verify

WAYS = {
    "chunks": lambda run: list(run.chunks()),
    "array": lambda run: [run.array(column, "0.weight") for column in COLUMNS],
    "steps": lambda run: run.steps,
    "query": lambda run: run.query("SELECT * FROM tensors"),
}


@pytest.fixture
def run(tmp_path):
    """Twelve steps in parts of three."""
    for session in range(4):
        record(tmp_path, range(3 * session, 3 * session + 3), if_exists="resume")
    return tmp_path


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 0x10
    path.write_bytes(data)


def in_values(path):
    """A byte in the middle of the largest column's page."""
    group = pq.read_metadata(path).row_group(0)
    column = max((group.column(i) for i in range(group.num_columns)), key=lambda c: c.total_compressed_size)
    return column.data_page_offset + column.total_compressed_size // 2


def in_steps(path):
    column = pq.read_metadata(path).row_group(0).column(0)
    return column.data_page_offset + column.total_compressed_size - 1


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def lengthen(path):
    path.write_bytes(path.read_bytes() + b"\0")


DAMAGE = {
    "values": lambda path: flip(path, in_values(path)),
    "key column": lambda path: flip(path, in_steps(path)),
    "truncated": truncate,
    "empty": lambda path: path.write_bytes(b""),
    "longer": lengthen,
    "missing": lambda path: path.unlink(),
    "magic": lambda path: flip(path, -1),
}


@pytest.mark.parametrize("way", ["chunks", "array", "query"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_no_way_of_reading_takes_a_damaged_part(run, damage, way):
    path = run / "tensors" / "s001-r0000-000000.parquet"
    DAMAGE[damage](path)
    with pytest.raises(DamagedPart, match=r"s001-r0000-000000|damaged") as caught:
        WAYS[way](open_run(run))
    assert "\n" not in str(caught.value)
    findings = verify(run, "r")
    assert [f.part.file for f in findings if f.damaged] == ["tensors/s001-r0000-000000.parquet"]
    assert len(findings) == 8


@pytest.mark.parametrize("damage", sorted(set(DAMAGE) - {"values"}))
def test_the_list_of_steps_is_not_taken_from_a_damaged_part_either(run, damage):
    DAMAGE[damage](run / "tensors" / "s001-r0000-000000.parquet")
    with pytest.raises(DamagedPart):
        open_run(run).steps


@pytest.mark.parametrize("damage", DAMAGE)
def test_skipping_leaves_out_exactly_the_damaged_part(run, damage):
    DAMAGE[damage](run / "tensors" / "s001-r0000-000000.parquet")
    found = open_run(run, damaged="skip")
    assert [f.part.file for f in found.skipped] == ["tensors/s001-r0000-000000.parquet"]
    kept = [*range(3), *range(6, 12)]
    assert found.steps.tolist() == kept
    assert found.logged_steps.tolist() == list(range(12))
    assert (found.array("update", "0.weight", steps=7)[0] == values_at(7)["update"]["0.weight"]).all()
    assert sorted(set(found.query("SELECT step FROM tensors")["step"])) == kept


def test_a_skipped_part_does_not_bring_back_what_it_superseded(tmp_path):
    """Session 1 took over at step 3; its first part is lost; steps 3 and 4 are lost, not session 0's again."""
    record(tmp_path, range(10), seed=0)
    record(tmp_path, range(3, 7), seed=1, if_exists="resume", part_bytes=1, queue_bytes=9000)
    first, *_ = [p for p in open_run(tmp_path).parts("tensors") if p.id.session == 1]
    assert first.last_step < 6
    (tmp_path / first.file).unlink()
    (tmp_path / "scalars" / "s001-r0000-000000.parquet").unlink()
    steps = open_run(tmp_path, damaged="skip").steps.tolist()
    assert steps == [0, 1, 2, *range(first.last_step + 1, 7)]


def test_every_single_flipped_byte_is_found_or_harmless(tmp_path):
    """Whatever byte is hit: the right values, or one of this package's errors; and verify finds it always."""
    record(tmp_path, range(2), shapes={"w": (3,)})
    path = tmp_path / "tensors" / "s000-r0000-000000.parquet"
    whole = path.read_bytes()
    wanted = [values_at(step, {"w": (3,)}) for step in range(2)]
    silent = 0
    for place in range(0, len(whole), 3):
        flip(path, place)
        assert damaged_parts(tmp_path, "r"), f"byte {place}"
        try:
            chunks = list(open_run(tmp_path).chunks())
            run = open_run(tmp_path)
            arrays = {c: np.concatenate([chunk.values(c)["w"] for chunk in chunks]) for c in wanted[0]}
            run.steps
        except TrajectoryError:
            pass
        else:
            silent += not all((arrays[c] == [v[c]["w"] for v in wanted]).all() for c in arrays)
        path.write_bytes(whole)
    assert silent == 0


def test_a_part_of_another_run_is_refused(run, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    record(other, range(3), run_id="another")
    target = run / "tensors" / "s004-r0000-000000.parquet"
    shutil.copy(other / "tensors" / "s000-r0000-000000.parquet", target)
    with pytest.raises(DamagedPart, match="another run"):
        list(open_run(run).chunks())
    assert "another run" in damaged_parts(run, "r")[0].problem
    assert_holds(open_run(run, damaged="skip"), dict.fromkeys(range(12), 0))


def test_a_copy_under_another_name_is_refused(run):
    shutil.copy(run / "tensors" / "s000-r0000-000000.parquet", run / "tensors" / "s000-r0000-000001.parquet")
    with pytest.raises(DamagedPart, match="another part"):
        list(open_run(run).chunks())
    assert_holds(open_run(run, damaged="skip"), dict.fromkeys(range(12), 0))


def test_a_newer_format_is_refused_with_what_to_do(run):
    change(run, format={"name": "trajectory-tools", "version": 2})
    with pytest.raises(UnsupportedFormat, match="upgrade"):
        open_run(run)
    with pytest.raises(UnsupportedFormat, match="upgrade"):
        record(run, [], if_exists="resume")


def change(folder, **changes):
    path = folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


BROKEN = (b"", b"{", b"[]", b"\xff\xfe\xfd", b"null", b'{"format": 1}', b'{"format": {"name": "trajectory-tools"}}')
WRONG = (("other", 1), ("trajectory-tools", "x"), ("trajectory-tools", 1))


@pytest.mark.parametrize(
    "content", [*BROKEN, *(json.dumps({"format": {"name": n, "version": v}}).encode() for n, v in WRONG)]
)
def test_a_broken_run_json_is_one_sentence(run, content):
    (run / "run.json").write_bytes(content)
    for reading in (open_run, lambda path: find_runs([path])):
        with pytest.raises((NotARun, UnsupportedFormat), match=r"run\.json|version") as caught:
            reading(run)
        assert "\n" not in str(caught.value)
    for if_exists in ("error", "resume", "replace"):
        with pytest.raises(TrajectoryError):
            Session(run, {"params": []}, if_exists=if_exists).close("finished")
        if b"version" not in content:
            assert (run / "run.json").read_bytes() == content
            assert len(list(run.glob("*/*.parquet"))) == 8


@pytest.mark.parametrize("key", ["run_id", "params", "sessions"])
def test_a_run_json_without_what_every_reader_needs(run, key):
    data = json.loads((run / "run.json").read_text())
    del data[key]
    (run / "run.json").write_text(json.dumps(data))
    with pytest.raises(NotARun, match=key):
        open_run(run)


def test_what_is_no_run_is_said_to_be_none(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "odd" / "run.json").mkdir(parents=True)
    with pytest.raises(NotARun, match="no such folder"):
        open_run(tmp_path / "none")
    with pytest.raises(NotARun, match="it is a file"):
        open_run(tmp_path / "file")
    with pytest.raises(NotARun, match=r"no run\.json"):
        open_run(tmp_path / "folder")
    with pytest.raises(NotARun):
        open_run(tmp_path / "odd")
    record(tmp_path / "folder" / "inner", range(1))
    with pytest.raises(NotARun, match="holds 1"):
        open_run(tmp_path / "folder")
    assert [run.path.name for run in find_runs([tmp_path / "folder", tmp_path / "folder" / "inner"])] == ["inner"]
    with pytest.raises(BadArgument, match="damaged"):
        open_run(tmp_path / "folder" / "inner", damaged="ignore")


def test_rows_that_do_not_fit_run_json_are_refused(run):
    params = [{"name": n, "shape": [9, 9], "dtype": "float32", "numel": 81, "aliases": []} for n in SHAPES]
    change(run, params=params)
    with pytest.raises(DamagedPart, match="do not fit"):
        list(open_run(run).chunks())
