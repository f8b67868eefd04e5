"""zstd for pages of floats, and in which order of their bytes.

Usually the first bytes of all values stand together, then the second ones, and so on: planes, of which that of the
exponents has few different bytes, and hardly a longer pattern: zstd finds its many short matches at a third of the
speed at which it codes the bytes by how frequent they are, and the result is larger. So matches are looked for where
there are any: from one step's values to the next one's. Where most values are zero, each plane is full of short runs,
which are slower still; there values stay whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from zstandard import ZstdCompressionParameters, ZstdCompressor

__all__ = ["compress", "mostly_zero", "repeat"]

LEVEL = 1

NO_MATCHES = ZstdCompressionParameters.from_level(LEVEL, hash_log=6, min_match=7)
"""It still finds runs of one byte, and what is like the few bytes before it."""

LOOKED_AT = 2**13
"""Values that tell whether a large array repeats another."""

MARGIN = 1024
"""Bytes. What cannot be compressed grows by less than this and a 256th (zstd.h, ``ZSTD_COMPRESSBOUND``)."""


def compress(data: memoryview, *, matches: bool) -> memoryview:
    """One frame of these bytes; ``matches``: look for what is like what stands far before it."""
    if matches or not data:  # of no bytes zstandard's reader would never see the end
        # A view of what pyarrow's ``compress`` returns has the size that it had before: hence the slice.
        return memoryview(pa.Codec("zstd", compression_level=LEVEL).compress(pa.py_buffer(data)).slice(0))
    # Into memory of pyarrow's pool, which keeps it; that of ``compress`` may go back to the kernel each time. A
    # compressor is for one thread. It holds the interpreter's lock for the last 128 KB, some 50 microseconds.
    out = pa.allocate_buffer(len(data) + (len(data) >> 8) + MARGIN)
    compressor = ZstdCompressor(compression_params=NO_MATCHES)
    size = compressor.stream_reader(data, size=len(data)).readinto(out)
    if size == out.size:
        raise RuntimeError(f"zstd made {len(data)} bytes larger than it says it ever does")
    return memoryview(out)[:size]


def repeat(values: Sequence[NDArray[Any]]) -> bool:
    """Whether arrays of floats repeat each other, as parameters do from step to step: here, in most of the last bytes.

    Told by the first two, where one is not zero. Little-endian: the last byte is the sign and most of the exponent.
    """
    if len(values) < 2 or values[0].size != values[1].size:
        return False
    every = values[0].size // LOOKED_AT // 30 * 30 + 1  # no multiple of what shapes are often made of
    first, second = (each.reshape(-1).view(np.uint8)[each.itemsize - 1 :: each.itemsize * every] for each in values[:2])
    there = (first | second) != 0
    return 2 * int(np.count_nonzero(there & (first == second))) > int(np.count_nonzero(there))


def mostly_zero(values: Sequence[NDArray[Any]]) -> bool:
    """Whether three of five floats are +0, told by the last array: a first update is often zero, as no later one is."""
    if not values:
        return False
    bits = values[-1].reshape(-1).view(f"u{values[-1].itemsize}")  # which are counted three times as fast
    return 5 * int(np.count_nonzero(bits)) < 2 * bits.size
