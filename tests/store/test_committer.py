"""The thread that commits: in order, its errors come out, and nobody waits for it in vain."""

import threading
from functools import partial

import pytest
from making import part_of

from trajectory_tools.store.committer import Committer
from trajectory_tools.store.parts import read_manifest


def committed(folder):
    return [part.id.sequence for part in read_manifest(folder).values()]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), MemoryError("no memory")])
def test_what_comes_after_an_error_is_dropped(tmp_path, error):
    def fail():
        raise error

    committer = Committer()
    parts = [part_of(tmp_path, sequence) for sequence in range(10)]
    parts[1].commit = fail
    with pytest.raises(type(error)):  # noqa: PT012
        for part in parts:
            committer.expect(part)
            part.finish()
            committer.submit(part)  # each call must return, or raise
    with pytest.raises(type(error)):
        committer.close()
    assert committed(tmp_path) == [0]
    for part in parts[3:]:
        part.drop()  # what was never submitted
    assert not list(tmp_path.glob("*/.*.tmp"))


def test_close_waits_for_all(tmp_path):
    committer = Committer()
    for sequence in range(20):
        part = part_of(tmp_path, sequence)
        committer.expect(part)
        part.finish()
        committer.submit(part)
    committer.close()
    assert committed(tmp_path) == list(range(20))


def test_a_part_is_committed_after_those_before_it_even_if_it_is_finished_first(tmp_path):
    """Otherwise a kill between the two would leave a trajectory with a hole."""
    committer = Committer()
    parts = [part_of(tmp_path, sequence) for sequence in range(8)]
    for part in parts:
        committer.expect(part)
        part.finish()
    for part in parts[1:]:
        committer.submit(part)  # waits for none: the thread that is to finish the first might be the one that waits
    assert committed(tmp_path) == []
    committer.submit(parts[0])
    committer.close()
    assert committed(tmp_path) == list(range(8))


def test_a_disk_that_is_behind_holds_up_those_who_hand_over(tmp_path):
    committer, disk = Committer(), threading.Event()
    parts = [part_of(tmp_path, sequence) for sequence in range(8)]
    handed = []

    def slowly(commit):
        assert disk.wait(30)
        commit()

    def hand_over():
        for part in parts:
            committer.submit(part)
            handed.append(part)

    for part in parts:
        part.commit = partial(slowly, part.commit)
        committer.expect(part)
        part.finish()
    thread = threading.Thread(target=hand_over)
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()
    assert len(handed) == 3
    disk.set()
    thread.join(30)
    committer.close()
    assert committed(tmp_path) == list(range(8))


def test_what_waits_for_a_part_that_is_never_finished_is_dropped(tmp_path):
    committer = Committer()
    first, second = (part_of(tmp_path, sequence) for sequence in range(2))
    committer.expect(first)
    committer.expect(second)
    second.finish()
    committer.submit(second)
    committer.close()
    assert committed(tmp_path) == []
    assert not list(tmp_path.glob("*/.*.tmp"))
