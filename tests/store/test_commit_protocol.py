"""What was committed is there, whatever happens to the process that wrote it."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from making import assert_holds, described, layout_of, part_of, record, rows_at, scalars_at, values_at

from trajectory_tools.errors import OutputExists, RunBusy
from trajectory_tools.run import open_run, with_steps
from trajectory_tools.store import files
from trajectory_tools.store.files import append_line, move_without_replacing, read_json, write_json
from trajectory_tools.store.part_file import PartFile
from trajectory_tools.store.parts import MANIFEST, committed_parts, read_manifest, sha256
from trajectory_tools.store.session import Session
from trajectory_tools.store.verify import verify

DEADLINE = 30.0


def wait_until(condition, what):
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"waited {DEADLINE} s for {what}"
        time.sleep(0.005)


def python(code, *arguments, **options):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], env=environment, **options)


FOREVER = """
import itertools, sys
from making import record
record(sys.argv[1], itertools.count(), part_bytes=20_000, part_seconds=0.05)
"""


def test_steps_whose_scalars_a_kill_has_lost_are_steps(tmp_path):
    """Tensors fill their parts at once, scalars are committed after a while."""
    folder = tmp_path / "run"
    process = python(FOREVER.replace("part_seconds=0.05", "shapes={'w': (50, 100)}"), folder)
    try:
        wait_until(lambda: len(list(folder.glob("tensors/*.parquet"))) >= 2, "two committed parts")
    finally:
        process.kill()
        assert process.wait(DEADLINE) == -signal.SIGKILL
    run = open_run(folder)
    assert len(run.logged_steps) == 0
    assert run.n_steps == len(run.steps) > 1
    assert with_steps([run]) == [run]


def test_everything_committed_before_a_kill_can_be_read_and_the_run_resumed(tmp_path):
    folder = tmp_path / "run"
    process = python(FOREVER, folder)
    try:
        wait_until(lambda: len(list(folder.glob("*/*.parquet"))) >= 6, "six committed parts")
    finally:
        process.kill()
        assert process.wait(DEADLINE) == -signal.SIGKILL
    (folder / "tensors" / ".s000-r0000-999999.parquet.tmp").write_bytes(b"PAR1 torn")
    run = open_run(folder)
    assert run.status == "interrupted (was killed)"
    assert run.n_steps > 0
    assert run.steps.tolist() == list(range(len(run.steps)))
    both = min(len(run.steps), run.n_steps)
    for step in (0, both - 1):
        assert (run.array("grad", "0.weight", steps=step) == values_at(step)["grad"]["0.weight"]).all()
    assert not any(finding.damaged for finding in verify(folder, "r"))

    before = max(run.steps[-1], run.logged_steps[-1])
    session = record(folder, [], if_exists="resume", close=False)
    assert not list(folder.glob("*/.*.tmp"))
    assert session.next_step == before + 1
    session.close("finished")
    assert [entry["status"] for entry in open_run(folder).metadata["sessions"]] == ["recording", "finished"]


def test_a_kill_between_move_and_manifest_line_is_repaired(tmp_path):
    """The part counts as committed at once, and the next session writes its line."""
    record(tmp_path, range(4), part_bytes=1)
    manifest = tmp_path / MANIFEST
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join(lines[:-1]))
    assert_holds(tmp_path, dict.fromkeys(range(4), 0))
    assert len(read_manifest(tmp_path)) == len(lines) - 1
    Session(tmp_path, {"params": described()}, if_exists="resume").close("finished")
    assert manifest.read_text() == "".join(lines)


def test_without_any_manifest_the_footers_say_enough(tmp_path):
    record(tmp_path, range(4))
    listed = committed_parts(tmp_path)
    (tmp_path / MANIFEST).unlink()
    assert committed_parts(tmp_path) == listed
    assert_holds(tmp_path, dict.fromkeys(range(4), 0))


@pytest.mark.parametrize("keep", [1, 40, -1])
def test_a_torn_last_manifest_line_is_read_over_and_ended(tmp_path, keep):
    record(tmp_path, range(4))
    manifest = tmp_path / MANIFEST
    whole = manifest.read_bytes()
    first, second = whole.splitlines(keepends=True)
    manifest.write_bytes(first + second[:keep])
    assert_holds(tmp_path, dict.fromkeys(range(4), 0))
    record(tmp_path, range(4, 6), if_exists="resume")
    assert_holds(tmp_path, dict.fromkeys(range(6), 0))
    assert len(read_manifest(tmp_path)) == 4
    if keep == -1:  # only the newline was lost: the line itself is good
        assert manifest.read_bytes().startswith(whole)


@pytest.mark.parametrize(
    "line",
    [
        b"[]",
        b'{"file": 3}',
        b"\xff\xfe",
        b'{"file":"../x","bytes":1,"sha256":"","rows":1,"first_step":0,"last_step":0,"footer_crc32":0}',
    ]
    + [
        b'{"file":%s,"bytes":1,"sha256":"","rows":1,"first_step":0,"last_step":0,"footer_crc32":0}' % f
        for f in (b'"tensors/x"', b"7")
    ],
)
def test_manifest_lines_that_name_no_part_are_read_over(tmp_path, line):
    record(tmp_path, range(2))
    manifest = tmp_path / MANIFEST
    manifest.write_bytes(line + b"\n" + manifest.read_bytes())
    assert_holds(tmp_path, dict.fromkeys(range(2), 0))


def test_the_manifest_and_the_footers_say_what_the_files_are(tmp_path):
    record(tmp_path, range(3, 9), part_bytes=1, queue_bytes=1)
    for part in committed_parts(tmp_path):
        path = tmp_path / part.file
        content = path.read_bytes()
        assert (part.bytes, part.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        table = pq.read_table(path)
        assert (part.rows, part.first_step, part.last_step) == (
            len(table),
            table["step"][0].as_py(),
            table["step"][-1].as_py(),
        )
        assert json.loads(pq.read_metadata(path).metadata[b"trajectory_tools"]) == {
            "run_id": "r",
            "session": 0,
            "rank": 0,
            "sequence": part.id.sequence,
            "first_step": part.first_step,
            "last_step": part.last_step,
            "format_version": 1,
        }
    tensors = open_run(tmp_path).parts("tensors")
    assert [part.id.sequence for part in tensors] == list(range(len(tensors)))


def test_a_move_never_replaces(tmp_path):
    (tmp_path / "new").write_text("new")
    (tmp_path / "old").write_text("old")
    with pytest.raises(FileExistsError):
        move_without_replacing(tmp_path / "new", tmp_path / "old")
    assert ((tmp_path / "new").read_text(), (tmp_path / "old").read_text()) == ("new", "old")
    move_without_replacing(tmp_path / "new", tmp_path / "third")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["old", "third"]


def test_a_move_never_replaces_where_there_are_no_hard_links(tmp_path, monkeypatch):
    def no_links(source, target):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(files.os, "link", no_links)
    test_a_move_never_replaces(tmp_path)


def test_a_part_that_is_there_already_is_not_replaced_but_ends_the_recording(tmp_path):
    session = record(tmp_path, [], close=False)
    taken = tmp_path / "tensors" / "s000-r0000-000000.parquet"
    taken.write_text("somebody's")
    session.writer.put_tensors(rows_at(0, layout_of(), values_at(0)))
    with pytest.raises(Exception, match="File exists"):
        session.close("finished")
    assert taken.read_text() == "somebody's"
    assert not list(tmp_path.glob("*/.*.tmp"))


def test_nothing_is_visible_before_it_is_whole(tmp_path, monkeypatch):
    """At the move the part is complete and closed; before it no name is visible that a reader would take."""
    seen = []

    def looking(source, target):
        seen.append(source.name)
        assert not target.exists()
        assert source.name.startswith(".")
        assert source.name.endswith(".tmp")
        assert pq.read_table(source).num_rows > 0
        return move_without_replacing(source, target)

    monkeypatch.setattr("trajectory_tools.store.part_file.move_without_replacing", looking)
    record(tmp_path, range(3))
    assert len(seen) == 2


def test_parts_roll_by_bytes(tmp_path):
    record(tmp_path, range(300), part_bytes=10_000, queue_bytes=80_000)
    parts = open_run(tmp_path).parts("tensors")
    assert len(parts) > 3
    assert max(part.bytes for part in parts) < 40_000
    assert all(a.last_step + 1 == b.first_step for a, b in pairwise(parts))
    assert_holds(tmp_path, dict.fromkeys(range(300), 0))


def test_parts_roll_by_age_without_any_further_row(tmp_path):
    session = record(tmp_path, range(3), close=False, part_seconds=0.05)
    try:
        wait_until(lambda: len(committed_parts(tmp_path)) >= 2, "the parts of three steps to become old")
        wait_until(lambda: {p.last_step for p in committed_parts(tmp_path)} == {2}, "all three steps")
        assert_holds(tmp_path, dict.fromkeys(range(3), 0))
    finally:
        session.close("finished")


def test_a_dropped_part_leaves_no_trace(tmp_path):
    part = part_of(tmp_path, 0)
    assert list((tmp_path / "tensors").iterdir())
    part.drop()
    part.drop()
    assert not list((tmp_path / "tensors").iterdir())


@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_a_step_of_many_row_groups_is_the_same_however_its_threads_take_turns(tmp_path, monkeypatch, compression):
    shapes = {"a": (2_500_000,), "b": (3,), "c": (1_000, 1_100), "d": (2**20 + 1,)}
    encoded, generator, threads = PartFile.encoded, random.Random(0), set()

    def at_random(self, row_group):
        threads.add(threading.current_thread().name)
        time.sleep(generator.random() / 50)
        return encoded(self, row_group)

    for name, encode in (("a", encoded), ("b", at_random)):
        monkeypatch.setattr(PartFile, "encoded", encode)
        record(tmp_path / name, range(3), shapes=shapes, compression=compression)
    assert len(threads) > 1
    run = open_run(tmp_path / "b")
    for step in range(3):
        for column, arrays in values_at(step, shapes).items():
            for parameter, values in arrays.items():
                np.testing.assert_array_equal(run.array(column, parameter, steps=step)[0], values)
    one, other = ({p.name: sha256(p) for p in (tmp_path / name / "tensors").iterdir()} for name in "ab")
    assert one == other
    assert len(one) == 3


@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_the_same_values_and_run_id_give_the_same_bytes(tmp_path, monkeypatch, compression):
    """However slow the disk: what goes into which row group does not depend on how far the writer has come."""
    write = PartFile.write
    digests = []
    for name, delay in (("a", 0.0), ("b", 0.01)):
        folder = tmp_path / name
        session = record(folder, [], close=False, part_bytes=30_000, queue_bytes=40_000, compression=compression)
        monkeypatch.setattr(PartFile, "write", lambda *args, delay=delay: (time.sleep(delay), write(*args)))
        layout = layout_of()
        for step in range(200):
            session.writer.put_tensors(rows_at(step, layout, values_at(step)))
            session.writer.put_scalars(scalars_at(step))
        session.close("finished")
        digests.append({p.name: sha256(p) for p in (folder / "tensors").iterdir()})
    assert len(digests[0]) > 2
    assert digests[0] == digests[1]


def test_the_second_recorder_is_refused_at_once_in_this_process_and_in_another(tmp_path):
    session = record(tmp_path, range(2), close=False)
    for if_exists in ("error", "resume", "replace"):
        start = time.monotonic()
        with pytest.raises(RunBusy, match="another recorder"):
            record(tmp_path, [], if_exists=if_exists)
        assert time.monotonic() - start < 1
    code = """
import sys
from making import record
from trajectory_tools.errors import RunBusy
try:
    record(sys.argv[1], [], if_exists="replace")
except RunBusy:
    sys.exit(7)
"""
    assert python(code, tmp_path).wait(DEADLINE) == 7
    session.close("finished")
    assert_holds(tmp_path, dict.fromkeys(range(2), 0))
    with pytest.raises(OutputExists, match="holds a run already"):
        record(tmp_path, [])
    record(tmp_path, [], if_exists="resume")


def test_json_is_replaced_as_a_whole_and_takes_any_text(tmp_path):
    path = tmp_path / "run.json"
    data = {"label": 'a/b "c" <script>\n🙂', "argument": "caf\udce9"}
    write_json(path, data)
    assert read_json(path) == data
    assert "🙂" in path.read_text("utf-8")
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]
    with pytest.raises(TypeError):
        write_json(path, {"x": object()})
    assert read_json(path) == data


def test_lines_are_appended_after_a_torn_one(tmp_path):
    path = tmp_path / "lines"
    append_line(path, {"a": 1})
    append_line(path, {"b": 2})
    path.write_bytes(path.read_bytes()[:-3])
    append_line(path, {"c": 3})
    assert path.read_text().splitlines() == ['{"a": 1}', '{"b": ', '{"c": 3}']
