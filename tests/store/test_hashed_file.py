"""The thread that writes and hashes: its errors come out, and nobody waits for it in vain."""

import hashlib

import pytest

from trajectory_tools.store.hashed_file import CHUNKS_IN_FLIGHT, HashedFile


def test_the_digest_and_the_size_are_those_of_the_file(tmp_path):
    file = HashedFile(tmp_path / "f")
    for i in range(100):
        file.write(memoryview(bytes([i]) * 1000))
    digests = []
    file.finish(digests.append)
    file.wait()
    [digest] = digests
    content = (tmp_path / "f").read_bytes()
    assert digest == hashlib.sha256(content).hexdigest()
    assert file.size == len(content) == 100_000


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), MemoryError("no memory")])
def test_an_error_of_the_thread_is_raised_and_blocks_nobody(tmp_path, error):
    class Broken:
        def update(self, chunk):
            raise error

    file = HashedFile(tmp_path / "f")
    file._digest = Broken()
    with pytest.raises(type(error)):  # noqa: PT012
        for _ in range(10 * CHUNKS_IN_FLIGHT):
            file.write(b"x")
        file.finish(print)
        file.wait()
    file.abandon()
    assert not (tmp_path / "f").exists()
