"""The queue is bounded, and a writer that fails costs the training nothing but its record."""

import gc
import itertools
import os
import shutil
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from making import assert_holds, layout_of, record, rows_at, scalars_at, values_at

from trajectory_tools.errors import BadArgument, RecordingFailed
from trajectory_tools.run import open_run
from trajectory_tools.store import part_file
from trajectory_tools.store.batch import TensorBatch
from trajectory_tools.store.part_file import PartFile
from trajectory_tools.store.verify import verify

DEADLINE = 30.0


@pytest.fixture
def gate(monkeypatch):
    """A disk that takes nothing until the gate is opened."""
    gate = threading.Event()
    write = PartFile.write

    def held(self, *arguments, **keywords):
        assert gate.wait(DEADLINE)
        write(self, *arguments, **keywords)

    monkeypatch.setattr(PartFile, "write", held)
    yield gate
    gate.set()


@pytest.mark.parametrize("table", ["tensors", "scalars"])
def test_the_training_waits_when_the_queue_is_full_and_the_wait_is_counted(tmp_path, gate, table):
    limit = 100_000
    session = record(tmp_path, [], close=False, queue_bytes=limit)
    writer, layout = session.writer, layout_of()
    count = itertools.count()

    def put():
        for step in range(400):
            next(count)
            if table == "tensors":
                writer.put_tensors(rows_at(step, layout, values_at(step)))
            else:
                writer.put_scalars(scalars_at(step))

    thread = threading.Thread(target=put)
    thread.start()
    done = []
    deadline = time.monotonic() + DEADLINE
    while len(done) < 20 or done[-1] != done[-20]:  # until it has not moved for a while
        assert time.monotonic() < deadline
        done.append(count.__reduce__()[1][0])
        assert writer._in_flight <= limit
        time.sleep(0.01)
    assert thread.is_alive()
    assert 0 < done[-1] < 400
    time.sleep(0.05)
    gate.set()
    thread.join(DEADLINE)
    assert not thread.is_alive()
    session.close("finished")
    assert writer.wait_seconds >= 0.05
    run = open_run(tmp_path)
    assert run.metadata["sessions"][0]["wait_seconds"] == writer.wait_seconds
    assert len(run.steps if table == "tensors" else run.logged_steps) == 400


def test_without_a_full_queue_nobody_waits(tmp_path, gate):
    session = record(tmp_path, range(50), close=False)
    assert session.writer.wait_seconds == 0
    gate.set()
    session.close("finished")
    assert_holds(tmp_path, dict.fromkeys(range(50), 0))


def test_a_step_larger_than_the_queue_goes_through_alone(tmp_path):
    record(tmp_path, range(5), queue_bytes=1)
    assert_holds(tmp_path, dict.fromkeys(range(5), 0))


def test_bad_options_are_refused(tmp_path):
    with pytest.raises(BadArgument, match="compression"):
        record(tmp_path, [], compression="gzip")
    with pytest.raises(BadArgument, match="at least one byte"):
        record(tmp_path, [], if_exists="resume", queue_bytes=0)
    record(tmp_path, range(1), if_exists="resume")


def put_until_failure(session, limit=100_000):
    """Put steps until the writer has failed: the steps put, and every warning on the way."""
    layout = layout_of()
    deadline = time.monotonic() + DEADLINE
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(limit):
            session.writer.put_tensors(rows_at(step, layout, values_at(step)))
            session.writer.put_scalars(scalars_at(step))
            if session.writer.error is not None:
                break
            assert time.monotonic() < deadline
        for more in range(step + 1, step + 50):  # the training goes on
            session.writer.put_tensors(rows_at(more, layout, values_at(more)))
            session.writer.put_scalars(scalars_at(more))
    return step, [str(w.message) for w in caught if issubclass(w.category, RuntimeWarning)]


def test_a_folder_that_goes_away(tmp_path):
    folder = tmp_path / "run"
    session = record(folder, [], close=False, part_bytes=1, queue_bytes=50_000)
    shutil.rmtree(folder)
    _, warned = put_until_failure(session)
    assert len(warned) == 1
    assert "training goes on unrecorded" in warned[0]
    with pytest.raises(RecordingFailed, match="stopped") as caught:
        session.close("finished")
    assert isinstance(caught.value.__cause__, OSError)
    assert "\n" not in str(caught.value)
    assert not folder.exists()


@pytest.fixture
def small_disk(tmp_path):
    """A disk of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("skipped: a tmpfs cannot be mounted here")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_full_disk(small_disk):
    folder = small_disk / "run"
    session = record(folder, [], close=False, part_bytes=100_000, queue_bytes=80_000)
    put, warned = put_until_failure(session)
    assert len(warned) == 1
    with pytest.raises(RecordingFailed, match="No space left") as caught:
        session.close("finished")
    assert isinstance(caught.value.__cause__, OSError)
    assert not list(folder.glob("*/.*.tmp"))
    assert not [f for f in verify(folder, "r") if f.damaged]
    run = open_run(folder)
    assert 100 < len(run.steps) <= put
    assert run.steps.tolist() == list(range(len(run.steps)))
    assert (run.array("param", "0.weight", steps=50)[0] == values_at(50)["param"]["0.weight"]).all()


LIMITED = """
import resource, signal, sys, warnings
from test_queue_and_failures import put_until_failure
from making import record
from trajectory_tools.errors import RecordingFailed
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
session = record(sys.argv[1], [], close=False, part_bytes=60_000, queue_bytes=80_000)
# The first parts fit; then the limit falls, so that the very first byte of the next one does not.
from trajectory_tools.run import open_run
import time
from making import layout_of, rows_at, values_at
layout = layout_of()
step = 0
while not list(session.folder.glob("tensors/*.parquet")):
    session.writer.put_tensors(rows_at(step, layout, values_at(step)))
    step += 1
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
put, warned = put_until_failure(session)
assert len(warned) == 1, warned
try:
    session.close("finished")
except RecordingFailed as error:
    assert isinstance(error.__cause__, OSError), error.__cause__
    sys.exit(7)
"""


@pytest.mark.parametrize("limit", [0, 3000])
def test_a_file_that_may_not_grow(tmp_path, limit):
    """Also where not even a part's first bytes can be written."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    code = subprocess.run(
        [sys.executable, "-c", LIMITED, tmp_path / "run", str(limit)], env=environment, timeout=60, check=False
    ).returncode
    assert code == 7
    run = open_run(tmp_path / "run")
    assert len(run.steps) > 0
    assert not list((tmp_path / "run").glob("*/.*.tmp"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_part_that_cannot_even_be_begun(tmp_path):
    """A full disk refuses the first four bytes: the failure must not get lost in the thread, nor a file stay open."""
    session = record(tmp_path, range(3), close=False, part_seconds=1e9)
    for table in ("tensors", "scalars"):
        (tmp_path / table).mkdir(exist_ok=True)
        (tmp_path / table / ".s000-r0000-000000.parquet.tmp").symlink_to("/dev/full")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(RecordingFailed, match="No space left"):
            session.close("finished")
        del session
        gc.collect()
    assert not [str(w.message) for w in caught if w.category is ResourceWarning]
    assert open_run(tmp_path).status == "failed"
    assert not list(tmp_path.glob("*/.*.tmp"))
    record(tmp_path, range(2), if_exists="resume")
    assert_holds(tmp_path, dict.fromkeys(range(2), 0))


def test_a_disk_that_fails_at_the_last_sync(tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(5, "Input/output error")

    session = record(tmp_path, range(3), close=False, part_seconds=1e9)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RecordingFailed, match="Input/output error"):
        session.close("finished")
    monkeypatch.undo()
    assert open_run(tmp_path).steps.size == 0
    assert not list(tmp_path.glob("*/.*.tmp"))


@pytest.mark.parametrize("failing", ["sync", "move_without_replacing", "append_to_manifest"])
def test_a_failure_while_committing(tmp_path, monkeypatch, failing):
    record(tmp_path, range(3))

    def fail(*arguments, **keywords):
        raise OSError(5, "Input/output error")

    session = record(tmp_path, range(3, 6), if_exists="resume", close=False)
    monkeypatch.setattr(part_file, failing, fail)
    with pytest.raises(RecordingFailed, match="Input/output error"):
        session.close("finished")
    monkeypatch.undo()
    run = open_run(tmp_path)
    assert run.status == "failed"
    assert "Input/output" in run.metadata["sessions"][1]["error"]
    # Whichever table came first: its part has been moved, or not; the other table's is dropped.
    kept = 6 if failing == "append_to_manifest" else 3
    assert sorted([len(run.steps), len(run.logged_steps)]) == [3, kept]
    assert not list(tmp_path.glob("*/.*.tmp"))


def test_a_failure_frees_a_training_that_waits_for_room(tmp_path, monkeypatch):
    failing = threading.Event()

    def fail(self, *arguments, **keywords):
        assert failing.wait(DEADLINE)
        raise pa.ArrowInvalid("broken")

    monkeypatch.setattr(PartFile, "write", fail)
    session = record(tmp_path, [], close=False, queue_bytes=20_000)
    threading.Timer(0.1, failing.set).start()
    _, warned = put_until_failure(session)
    assert len(warned) == 1
    with pytest.raises(RecordingFailed, match="broken"):
        session.close("finished")


def test_memory_stays_bounded_however_small_the_steps_are(tmp_path, gate):
    """Ten parameters of one value: what a step's objects take counts, not only its values."""
    session = record(tmp_path, [], close=False, queue_bytes=2_000_000)
    shapes = {"w": (1,)}
    layout = layout_of(shapes)

    taken = itertools.count()

    def put():
        for step in range(20_000):
            session.writer.put_tensors(rows_at(step, layout, {"grad": {"w": np.zeros(1, np.float32)}}))
            next(taken)

    thread = threading.Thread(target=put, daemon=True)
    thread.start()
    thread.join(1.0)
    waiting = next(taken)
    assert thread.is_alive()
    assert waiting * 1000 < 2_000_000
    gate.set()
    thread.join(DEADLINE)
    session.close("finished")


def test_auto_does_not_compress_what_follows_a_wait(tmp_path, gate):
    """Steps that are each a part, in a queue of four: the fifth waits for room, the sixth finds it empty."""
    size = TensorBatch.size(rows_at(0, layout_of(), values_at(0)))
    session = record(tmp_path, [], close=False, queue_bytes=4 * size, part_bytes=size, compression="auto")

    def put(steps):
        for step in steps:
            session.writer.put_tensors(rows_at(step, layout_of(), values_at(step)))

    thread = threading.Thread(target=put, args=(range(5),))
    thread.start()
    deadline = time.monotonic() + DEADLINE
    while session.writer._in_flight < 4 * size:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    gate.set()
    thread.join(DEADLINE)
    while session.writer._in_flight:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert session.writer.wait_seconds > 0
    put([5])
    session.close("finished")
    parts = open_run(tmp_path).parts("tensors")
    found = [part.open(tmp_path, "r").metadata.row_group(0).column(3).compression for part in parts]
    assert found == ["ZSTD", "ZSTD", "UNCOMPRESSED", "UNCOMPRESSED", "UNCOMPRESSED", "ZSTD"]


def test_auto_compresses_until_half_of_the_queue_waits(tmp_path, gate):
    """Parts of four steps, in a queue of forty, while nothing is written: the first five parts fill half of it."""
    size = TensorBatch.size(rows_at(0, layout_of(), values_at(0)))
    session = record(tmp_path, [], close=False, queue_bytes=40 * size, part_bytes=4 * size, compression="auto")
    for step in range(38):
        session.writer.put_tensors(rows_at(step, layout_of(), values_at(step)))
    gate.set()
    session.close("finished")
    run = open_run(tmp_path)
    found = [part.open(tmp_path, "r").metadata.row_group(0).column(3).compression for part in run.parts("tensors")]
    assert found == 5 * ["ZSTD"] + 5 * ["UNCOMPRESSED"]
    written = run.array("param", "0.weight")
    np.testing.assert_array_equal(written, np.stack([values_at(s)["param"]["0.weight"] for s in range(38)]))


def on_encoders_of_low_priority():
    return threading.current_thread().name in ("trajectory-encoder-0", "trajectory-encoder-1")


def test_a_training_that_waits_does_not_depend_on_threads_of_low_priority(tmp_path, monkeypatch):
    """Each of them is held up in the middle of a row group, as by processes that keep every core busy."""
    encoded, others = PartFile.encoded, itertools.count()
    held, go_on = [], threading.Event()

    def starved(self, row_group):
        if on_encoders_of_low_priority():
            held.append(threading.current_thread().name)
            assert go_on.wait(DEADLINE)
        elif next(others) == 6:  # more than may wait for a slow disk
            go_on.set()
        return encoded(self, row_group)

    monkeypatch.setattr(PartFile, "encoded", starved)
    session = record(tmp_path, range(300), close=False, part_bytes=1, queue_bytes=60_000)
    session.close("finished")
    assert go_on.is_set()
    assert len(set(held)) == 2
    assert_holds(tmp_path, dict.fromkeys(range(300), 0))


def test_a_thread_of_the_trainings_priority_works_only_while_the_training_waits(tmp_path, monkeypatch):
    encoded, names = PartFile.encoded, set()

    def seen(self, row_group):
        names.add(threading.current_thread().name)
        return encoded(self, row_group)

    monkeypatch.setattr(PartFile, "encoded", seen)
    session = record(tmp_path, range(50), close=False, part_bytes=1)
    layout = layout_of({"w": (2**20,)})
    for step in range(50, 60):  # larger than a batch
        session.writer.put_tensors(rows_at(step, layout, values_at(step, {"w": (2**20,)})))
        deadline = time.monotonic() + DEADLINE
        while session.writer._in_flight > 2**20:
            assert time.monotonic() < deadline
            time.sleep(0.001)
    assert session.writer.wait_seconds == 0
    assert names <= {"trajectory-encoder-0", "trajectory-encoder-1"}
    assert names
    session.close("finished")


def test_a_step_that_fills_a_batch_is_written_though_none_follows(tmp_path):
    """With ``every=50`` the next one comes long after; the memory must not wait for it, nor a kill cost it."""
    shapes = {"w": (4_000_000,)}
    session = record(tmp_path, range(1), shapes=shapes, close=False, part_seconds=1e9)
    deadline = time.monotonic() + DEADLINE
    while not list(tmp_path.glob("tensors/*.parquet")):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    session.close("finished")
    np.testing.assert_array_equal(open_run(tmp_path).array("update", "w")[0], values_at(0, shapes)["update"]["w"])
