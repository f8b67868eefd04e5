"""The random coordinates that stand for a parameter: a choice that a seed makes, the same on every machine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trajectory_tools.store.hashing import place_hashes, place_key

__all__ = ["sampled_coordinates"]

HASHED_AT_ONCE = 2**15
"""Places: what stays in a core's cache."""


def sampled_coordinates(seed: int, name: str, numel: int, count: int) -> NDArray[np.int64]:
    """The ``count`` coordinates of a parameter (flat, C order, ascending) that a seed chooses: (count,).

    They are those with the smallest hash, h(i) = ``place_hashes(place_key(seed, name), ...)``; so the choice depends on
    nothing but seed, name, numel and count, and a larger one contains a smaller one.

    >>> sampled_coordinates(0, "0.weight", 1000, 3)
    array([402, 639, 758])
    """
    if count >= numel:
        return np.arange(numel)
    key = place_key(seed, name)
    # About the count, and with near certainty not fewer; the few above are cut off below.
    share = min(1.0, (count + 10 * np.sqrt(count) + 10) / numel)
    limit = np.uint64(min(int(share * 2.0**64), 2**64 - 1))
    while True:
        found, hashes = [], []
        for start in range(0, numel, HASHED_AT_ONCE):
            hashed = place_hashes(key, start, min(start + HASHED_AT_ONCE, numel))
            low = np.flatnonzero(hashed <= limit)
            found.append(low + start)
            hashes.append(hashed[low])
        places = np.concatenate(found)
        if len(places) >= count:
            smallest = np.argpartition(np.concatenate(hashes), count - 1)[:count]  # no two places hash alike
            return np.sort(places[smallest])
        limit = np.uint64(2**64 - 1)
