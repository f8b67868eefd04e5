"""Columns of lists of numbers, as the pages that Parquet holds.

pyarrow encodes the values of lists one by one with their levels, at about 200 MB/s. But levels of rows of known lengths
are a few runs, and values that are written as they are need no encoding at all: large ones are not even copied.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trajectory_tools.store.arrow import NUMPY_TYPES
from trajectory_tools.store.compression import compress, mostly_zero, repeat
from trajectory_tools.store.thrift import I32, STRUCT, encode, varint

__all__ = ["ENCODINGS", "Cut", "ListColumn", "Page"]

ENCODINGS = {"PLAIN": 0, "RLE": 3, "BYTE_STREAM_SPLIT": 9}
"""Parquet's numbers of the encodings in use here (parquet.thrift, ``Encoding``)."""

PAGE_VALUES = 2**20
"""About how many values a page holds: the memory that reading one takes."""

NULL, EMPTY, VALUE = range(3)
"""Definition levels of a list that may be null and whose elements may not."""


@dataclass(frozen=True)
class Cut:
    """One column of a few rows: the values that are there, and for each row its length and whether it is null."""

    values: NDArray[Any]
    lengths: NDArray[np.int64]
    null: NDArray[np.bool_]


@dataclass(frozen=True)
class Page:
    """A Parquet data page (version 1): header and body, one after the other, and what its column's metadata says."""

    header: bytes
    body: Sequence[memoryview]
    n_levels: int
    plain_bytes: int
    encoding: int

    @property
    def nbytes(self) -> int:
        """Bytes of the header and the body."""
        return len(self.header) + sum(map(len, self.body))

    @property
    def uncompressed_nbytes(self) -> int:
        """What they were if the body were not compressed."""
        return len(self.header) + self.plain_bytes


@dataclass(frozen=True)
class ListColumn:
    """Rows of lists of that type: the cuts, one after the other; ``steps``: each is all there is of one step."""

    value_type: pa.DataType
    cuts: Sequence[Cut]
    steps: bool = False

    def __len__(self) -> int:
        return sum(len(cut.lengths) for cut in self.cuts)

    def pages(self, *, compressed: bool) -> Iterator[Page]:
        """They, about ``PAGE_VALUES`` values a page. Compressed floats are split by byte, unless most are zero."""
        held: list[Cut] = []
        n_values = 0
        for cut in self.cuts:
            if not len(cut.lengths):
                continue  # some readers take a page without rows for the last one
            if held and n_values + len(cut.values) > PAGE_VALUES:
                yield self._page(held, compressed)
                held, n_values = [], 0
            held.append(cut)
            n_values += len(cut.values)
        if held:
            yield self._page(held, compressed)

    def _page(self, cuts: Sequence[Cut], compressed: bool) -> Page:
        found = [_levels(cut.lengths.astype(np.int64, copy=False).tobytes(), cut.null.tobytes()) for cut in cuts]
        levels = b"".join(
            _sized(b"".join(runs)) for runs in ([f.repetition for f in found], [f.definition for f in found])
        )
        n_levels = sum(level.n_levels for level in found)
        for cut, level in zip(cuts, found, strict=True):
            if level.n_values != len(cut.values):
                raise ValueError(f"{len(cut.values)} values do not fit lists of {level.n_values}")
        dtype = np.dtype(NUMPY_TYPES[self.value_type]).newbyteorder("<")
        values = [np.ascontiguousarray(cut.values, dtype) for cut in cuts if len(cut.values)]
        floats = compressed and dtype.kind == "f"
        repeated = floats and repeat(values)
        split = floats and (repeated or not mostly_zero(values))
        encoding = ENCODINGS["BYTE_STREAM_SPLIT" if split else "PLAIN"]
        plain_bytes = len(levels) + sum(each.nbytes for each in values)
        if not compressed and len(values) == 1:
            body = [memoryview(levels), values[0].view(np.uint8).data]
        else:  # many small pieces as well: for each the interpreter would be handed over three times
            whole = _together(levels, values, plain_bytes, split).data
            matches = repeated or not (floats and self.steps)
            body = [compress(whole, matches=matches) if compressed else whole]
        crc = 0
        for piece in body:
            crc = zlib.crc32(piece, crc)
        rle = ENCODINGS["RLE"]
        header = encode(
            {
                1: (I32, 0),  # a data page
                2: (I32, plain_bytes),
                3: (I32, sum(map(len, body))),
                4: (I32, crc - 2**32 if crc >= 2**31 else crc),
                5: (STRUCT, {1: (I32, n_levels), 2: (I32, encoding), 3: (I32, rle), 4: (I32, rle)}),
            }
        )
        return Page(header, body, n_levels, plain_bytes, encoding)


class _Levels(NamedTuple):
    """Runs of levels, how many levels they are, and of how many values."""

    repetition: bytes
    definition: bytes
    n_levels: int
    n_values: int


@lru_cache(maxsize=256)
def _levels(lengths: bytes, null: bytes) -> _Levels:
    """Of rows of these lengths (int64), null where the byte is 1.

    Runs of equal levels (RLE/bit-packing hybrid): a row's first value repeats nothing (0), the others its list (1).
    """
    repetition, definition, n_levels, n_values = bytearray(), bytearray(), 0, 0
    of_rows = np.frombuffer(lengths, np.int64).tolist()
    if len(of_rows) != len(null):
        raise ValueError(f"{len(null)} marks of null lists do not fit {len(of_rows)} lists")
    for length, is_null in zip(of_rows, null, strict=True):
        if length and is_null:
            raise ValueError(f"a length of {length} and a null list do not fit")
        repetition += _run(1, 0)
        if length > 1:
            repetition += _run(length - 1, 1)
        definition += _run(max(length, 1), VALUE if length else NULL if is_null else EMPTY)
        n_levels += max(length, 1)
        n_values += length
    return _Levels(bytes(repetition), bytes(definition), n_levels, n_values)


def _run(count: int, level: int) -> bytes:
    return varint(count << 1) + bytes([level])


def _sized(levels: bytes) -> bytes:
    return len(levels).to_bytes(4, "little") + levels


def _together(levels: bytes, values: Sequence[NDArray[Any]], size: int, split: bool) -> NDArray[np.uint8]:
    """Levels and values in one piece; ``split``: the first byte of each value, then the second of each, and so on."""
    out = np.empty(size, np.uint8)
    out[: len(levels)] = np.frombuffer(levels, np.uint8)
    rest = out[len(levels) :]
    width = values[0].itemsize if split and values else 1
    planes = rest.reshape(width, -1)
    start = 0
    for each in values:
        stop = start + each.nbytes // width
        planes[:, start:stop] = each.reshape(-1).view(np.uint8).reshape(-1, width).T
        start = stop
    return out
