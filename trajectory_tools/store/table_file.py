"""One Parquet file while it is being written: pyarrow writes the keys and the metadata, this the pages of lists."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from trajectory_tools.store.disk_thread import DiskThread
from trajectory_tools.store.hashed_file import HashedFile
from trajectory_tools.store.list_column import ENCODINGS, ListColumn, Page
from trajectory_tools.store.schema import writer_options
from trajectory_tools.store.thrift import I32, I64, LIST, Struct, decode, encode

__all__ = ["EncodedGroup", "RowGroup", "TableFile"]

MAGIC = b"PAR1"


@dataclass(frozen=True)
class RowGroup:
    """Rows on their way into Parquet: name of a column → its values."""

    numbers: Mapping[str, pa.Array]
    lists: Mapping[str, ListColumn] = field(default_factory=dict)

    def encoded(self, schema: pa.Schema, compression: str) -> EncodedGroup:
        """They, as a file of this schema takes them."""
        n_rows = len(self.numbers["step"])
        for name, values in self.lists.items():
            if len(values) != n_rows:
                raise ValueError(f"{len(values)} lists of {name} do not fit {n_rows} rows")
        columns = [
            pa.nulls(n_rows, column.type) if column.name in self.lists else self.numbers[column.name]
            for column in schema
        ]
        pages = {name: values.pages(compressed=compression != "none") for name, values in self.lists.items()}
        return EncodedGroup(pa.table(columns, schema=schema), pages)


@dataclass(frozen=True)
class EncodedGroup:
    """A row group on its way into a file: what pyarrow is to write, with nulls for lists, and the pages of the lists.

    Pages are made as they are asked for, which can be once: so each is written while it is in the processor's cache.
    Those that are not compressed are the lists' own memory.
    """

    table: pa.Table
    pages: Mapping[str, Iterable[Page]]

    def held(self) -> EncodedGroup:
        """The same with every page made now, which is nearly all the work, and needs no file."""
        return EncodedGroup(self.table, {name: list(pages) for name, pages in self.pages.items()})


@dataclass
class Chunk:
    """A column of lists in one row group: where its pages begin, and what they hold."""

    offset: int
    n_levels: int = 0
    nbytes: int = 0
    uncompressed_nbytes: int = 0
    encodings: set[int] = field(default_factory=lambda: {ENCODINGS["RLE"]})


class TableFile:
    """``write`` row groups, then ``close``, which says what the file is; or ``drop``.

    pyarrow writes into memory, and takes every list for null: a page of a few bytes for each such column. The pages of
    the lists go to the file at once; at the end pyarrow's follow, and its metadata, put right: it says where they are,
    and describes the lists' own pages.
    """

    def __init__(self, path: Path, schema: pa.Schema, compression: str, disk: DiskThread | None = None) -> None:
        # Not a file of Python's: a thread that calls back from pyarrow while the interpreter ends aborts the process.
        self._memory = pa.BufferOutputStream()
        self._writer = pq.ParquetWriter(self._memory, schema, **writer_options(schema, compression))
        self._lists: list[dict[str, Chunk]] = []  # of each row group
        self._file = HashedFile(path, disk)

    def write(self, group: EncodedGroup) -> None:
        """Append the row group."""
        if not self._lists:
            self._file.write(MAGIC)  # not before, when nobody could close the file if this fails
        self._writer.write_table(group.table, row_group_size=group.table.num_rows)
        self._lists.append({name: self._write_pages(pages) for name, pages in group.pages.items()})

    def _write_pages(self, pages: Iterable[Page]) -> Chunk:
        chunk = Chunk(self._file.size)
        for page in pages:
            self._file.write(page.header)
            for piece in page.body:
                self._file.write(piece)
            chunk.n_levels += page.n_levels
            chunk.nbytes += page.nbytes
            chunk.uncompressed_nbytes += page.uncompressed_nbytes
            chunk.encodings.add(page.encoding)
        return chunk

    def close(self, metadata: Mapping[str, str]) -> tuple[int, str, int]:
        """End the file with this metadata in its footer: its bytes, their sha256 in hex, the CRC-32 of the footer."""
        self._writer.add_key_value_metadata(metadata)
        self._writer.close()
        written = memoryview(self._memory.getvalue())
        length = int.from_bytes(written[-8:-4], "little")
        pages, footer = written[len(MAGIC) : -8 - length], decode(bytes(written[-8 - length : -8]))
        shift = self._file.size - len(MAGIC)
        self._file.write(pages)
        for group, chunks in zip(footer[4][1][1], self._lists, strict=True):
            _put_right(group, chunks, shift)
        data = encode(footer)
        tail = data + len(data).to_bytes(4, "little") + MAGIC
        self._file.write(tail)
        self._file.close()
        return self._file.size, self._file.sha256.hexdigest(), zlib.crc32(tail)

    def drop(self) -> None:
        """Close it, whatever it holds."""
        with suppress(Exception):
            self._writer.close()
        self._file.drop()


def _put_right(group: Struct, chunks: Mapping[str, Chunk], shift: int) -> None:
    """Have a row group's metadata (parquet.thrift, ``RowGroup``) say where things are, and what the lists hold."""
    total = total_compressed = 0
    for column in group[1][1][1]:
        column[2] = (I64, 0)  # of no meaning any more, says parquet.thrift
        metadata: Struct = column[3][1]
        chunk = chunks.get(metadata[3][1][1][0].decode())  # the first word of the path is the column's name
        if chunk is None:
            _move(metadata, (9, 11), shift)  # where the data and the dictionary begin
        else:
            for number in set(metadata) - {1, 2, 3, 4, 5, 6, 7, 9}:  # statistics of the page that is passed over
                del metadata[number]
            metadata[2] = (LIST, (I32, sorted(chunk.encodings)))
            metadata[5] = (I64, chunk.n_levels)
            metadata[6] = (I64, chunk.uncompressed_nbytes)
            metadata[7] = (I64, chunk.nbytes)
            metadata[9] = (I64, chunk.offset)
        total += metadata[6][1]
        total_compressed += metadata[7][1]
    _move(group, (5,), shift)
    group[2] = (I64, total)
    group[6] = (I64, total_compressed)


def _move(struct: Struct, fields: Iterable[int], shift: int) -> None:
    """Add to offsets, where there are any."""
    for number in fields:
        if number in struct:
            kind, offset = struct[number]
            struct[number] = (kind, offset + shift)
