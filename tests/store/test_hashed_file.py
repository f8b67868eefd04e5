"""Files written past the page cache hold what they were given, whatever the file system can do."""

import errno
import hashlib
import io
import mmap
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from making import record

from trajectory_tools.store.disk_thread import DiskThread
from trajectory_tools.store.hashed_file import BLOCK, HashedFile

RANDOM = np.random.default_rng(0).bytes(3 * BLOCK)
SIZES = st.sampled_from([0, 1, 4095, 4096, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 4097]) | st.integers(0, 2 * BLOCK)
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="O_DIRECT is Linux's")


def pieces_of(sizes):
    return [memoryview(RANDOM)[i : i + size] for i, size in enumerate(sizes)]


def assert_holds(file, path, pieces):
    data = b"".join(pieces)
    assert (file.size, file.sha256.hexdigest()) == (len(data), hashlib.sha256(data).hexdigest())
    assert path.read_bytes() == data


@pytest.fixture(scope="module", params=["disk", "memory"])
def folder(request, tmp_path_factory):
    """On a disk, and on a file system that may not know O_DIRECT."""
    if request.param == "disk":
        yield tmp_path_factory.mktemp("disk")
        return
    folder = Path(f"/dev/shm/trajectory-tools-{os.getpid()}")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("no file system in memory")
    yield folder
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


@pytest.fixture(scope="module")
def disk():
    thread = DiskThread()
    yield thread
    thread.close()


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(SIZES, max_size=6), behind=st.booleans())
def test_the_file_is_the_pieces_one_after_the_other(folder, disk, sizes, behind):
    pieces, path = pieces_of(sizes), folder / "file"
    file = HashedFile(path, disk if behind else None)
    for piece in pieces:
        file.write(piece)
    file.close()
    assert_holds(file, path, pieces)


@ON_LINUX
def test_a_disk_that_refuses_what_it_said_it_can_do_is_written_through_the_page_cache(tmp_path):
    pieces, path = pieces_of([2 * BLOCK, BLOCK, 7]), tmp_path / "file"
    file = HashedFile(path)
    if not file._direct:
        pytest.skip("this file system has no O_DIRECT")
    odd = np.empty(2 * BLOCK + 1, np.uint8)[1:]  # O_DIRECT of memory that begins at an odd address is EINVAL
    file._block, file._other = odd.reshape(2, BLOCK)
    for piece in pieces:
        file.write(piece)
    assert not file._direct
    file.close()
    assert_holds(file, path, pieces)


class Grudging(io.FileIO):
    """Takes a little at a time, as a disk that is nearly full may."""

    def write(self, data):
        return super().write(memoryview(data)[:5000])


def test_what_the_system_does_not_take_at_once_is_written_next(tmp_path):
    pieces, path = pieces_of([BLOCK + 1, BLOCK]), tmp_path / "file"
    file = HashedFile(path)
    file._file.close()
    file._file = Grudging(path, "wb")
    for piece in pieces:
        file.write(piece)
    file.close()
    assert_holds(file, path, pieces)


class Refusing(io.FileIO):
    """A network's disk, whose quota is found to be exceeded at the end."""

    def close(self):
        super().close()
        raise OSError(errno.EDQUOT, "Disk quota exceeded")


def test_a_file_that_is_given_up_raises_nothing(tmp_path):
    """Or the part that it belongs to, and those behind it, would not be removed."""
    file = HashedFile(tmp_path / "file")
    file._file.close()
    file._file = Refusing(tmp_path / "file", "wb")
    file.write(b"some")
    file.drop()
    assert file._file.closed


def in_memory(path):
    """Whether the file's beginning can be read without waiting for the disk."""
    with path.open("rb") as file:
        try:
            return os.preadv(file.fileno(), [bytearray(4096)], 0, os.RWF_NOWAIT) > 0
        except BlockingIOError:
            return False


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="the system cannot be asked what it keeps in memory")
def test_large_parts_leave_the_page_cache_to_the_training(tmp_path):
    try:
        control = os.open(tmp_path / "control", os.O_CREAT | os.O_RDWR | os.O_DIRECT)
        os.write(control, mmap.mmap(-1, 4096))
        os.close(control)
    except OSError:
        pytest.skip("this file system has no O_DIRECT")
    if in_memory(tmp_path / "control"):
        pytest.skip("this file system writes everything through the page cache")
    record(tmp_path / "large", range(1), shapes={"w": (1500, 1000)}, compression="none")
    record(tmp_path / "small", range(1))
    ((large,), (small,)) = (sorted((tmp_path / name / "tensors").iterdir()) for name in ("large", "small"))
    assert large.stat().st_size > 16 * 2**20
    assert not in_memory(large)
    assert in_memory(small)


def python(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], check=False, capture_output=True, text=True, timeout=60
    )


AT_EXIT = """
import atexit, sys
from pathlib import Path
from trajectory_tools.store.disk_thread import DiskThread
from trajectory_tools.store.hashed_file import BLOCK, HashedFile
file = HashedFile(Path(sys.argv[1]), DiskThread())
file.write(bytes(BLOCK + 1))
def end():
    file.write(bytes(3 * BLOCK))
    file.close()
atexit.register(end)
"""


def test_what_is_written_while_the_interpreter_ends_is_written(tmp_path):
    done = python(AT_EXIT, tmp_path / "file")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "file").read_bytes() == bytes(4 * BLOCK + 1)


TOO_LARGE = """
import resource, sys, warnings
from pathlib import Path
from trajectory_tools.store.disk_thread import DiskThread
from trajectory_tools.store.hashed_file import BLOCK, HashedFile
warnings.simplefilter("error")
resource.setrlimit(resource.RLIMIT_FSIZE, (2 * BLOCK, resource.RLIM_INFINITY))
file = HashedFile(Path(sys.argv[1]), DiskThread())
try:
    for _ in range(6):
        file.write(bytes(BLOCK))
    file.close()
except OSError as error:
    file.drop()
    print(error)
"""


@ON_LINUX
def test_an_error_of_the_disk_reaches_who_writes(tmp_path):
    done = python(TOO_LARGE, tmp_path / "file")
    assert (done.returncode, done.stderr) == (0, "")
    assert "File too large" in done.stdout
    assert (tmp_path / "file").stat().st_size == 2 * BLOCK
