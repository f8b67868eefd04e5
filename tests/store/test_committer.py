"""The thread that commits: in order, its errors come out, and nobody waits for it in vain."""

import pytest

from trajectory_tools.store.committer import Committer


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), MemoryError("no memory")])
def test_what_comes_after_an_error_is_given_up(error):
    done = []

    def fail():
        raise error

    committer = Committer()
    committer.submit(lambda: done.append("first"), lambda: done.append("not to be"))
    committer.submit(fail, lambda: done.append("given up"))
    with pytest.raises(type(error)):  # noqa: PT012
        for _ in range(10):  # more than it holds: each call must return, or raise
            committer.submit(lambda: done.append("not to be"), lambda: done.append("given up"))
    with pytest.raises(type(error)):
        committer.close()
    assert done[:2] == ["first", "given up"]
    assert set(done[2:]) <= {"given up"}


def test_close_waits_for_all():
    done = []
    committer = Committer()
    for i in range(20):
        committer.submit(lambda i=i: done.append(i), lambda: None)
    committer.close()
    assert done == list(range(20))
