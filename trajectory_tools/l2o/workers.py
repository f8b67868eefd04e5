"""A few threads, each with one core, that share out the chunks of a large tensor."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Barrier
from typing import TypeVar

import torch

__all__ = ["for_each"]

Item = TypeVar("Item")
_pools: dict[int, ThreadPoolExecutor] = {}
# A forked process has the pools but not their threads: it makes its own.
os.register_at_fork(after_in_child=_pools.clear)


def for_each(function: Callable[[Item], object], items: Sequence[Item], *, threads: int | None = None) -> None:
    """Call ``function`` on each item, on so many threads; on as many as torch uses unless told.

    Each thread runs its operations on one core: for chunks that fit into a cache this is faster than to split every
    operation among the cores. Returns when all are done; an exception in one of them is raised here. A caller whose own
    operations run on one core is one of the threads.
    """
    n_threads = min(threads or torch.get_num_threads(), len(items))
    if n_threads < 2:
        for item in items:
            function(item)
        return

    def every(first: int) -> None:
        for item in items[first::n_threads]:
            function(item)

    own = 1 if torch.get_num_threads() == 1 else 0
    pool = _pool(n_threads - own)
    futures: list[Future[None]] = [pool.submit(every, first) for first in range(own, n_threads)]
    try:
        if own:
            every(0)
    finally:
        wait(futures)
    for future in futures:
        future.result()


def _pool(n_threads: int) -> ThreadPoolExecutor:
    if n_threads not in _pools:
        before = torch.get_num_threads()
        pool = ThreadPoolExecutor(n_threads, "l2o")
        together = Barrier(n_threads)

        def take_one_core() -> None:
            torch.set_num_threads(1)
            torch.get_num_threads()  # a thread's first use takes on the number last set by any thread: let it be this
            together.wait()  # so that each thread has one of these calls

        for future in [pool.submit(take_one_core) for _ in range(n_threads)]:
            future.result()
        torch.set_num_threads(before)  # also what threads made later start with
        _pools[n_threads] = pool
    return _pools[n_threads]
