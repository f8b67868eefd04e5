"""Random numbers that belong to a place: the same for ever, on every machine, in every version of every library."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

__all__ = ["place_hashes", "place_key"]

GOLDEN = 0x9E3779B97F4A7C15
MASK = 2**64 - 1


def place_key(seed: int, text: str) -> int:
    """The stream of a seed and a text: mix(seed · 2³² + CRC-32 of the text in UTF-8), 64 bits."""
    start = np.array([((seed << 32) + zlib.crc32(text.encode())) & MASK], np.uint64)
    return int(_mix(start)[0])


def place_hashes(key: int, start: int, stop: int) -> NDArray[np.uint64]:
    """mix(key + i · 0x9E3779B97F4A7C15) for i in start ... stop − 1: (stop − start,).

    ``mix`` is the finalizer of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number
    generators", figure 15, constants of variant 13).

    >>> [hex(h) for h in place_hashes(0, 1, 3)]
    ['0xe220a8397b1dcdaf', '0x6e789e6aa1b965f4']
    """
    places = np.arange(start, stop, dtype=np.uint64)
    places *= np.uint64(GOLDEN)
    places += np.uint64(key)
    return _mix(places)


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """In place."""
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z
