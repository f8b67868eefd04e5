"""One table's stream of parts: rows go to a temporary file, which is committed as a whole or dropped."""

from __future__ import annotations

import contextlib
import json
import time
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from trajectory_tools.store.committer import Committer
from trajectory_tools.store.files import move_without_replacing, sync
from trajectory_tools.store.parts import IDENTITY_KEY, Part, PartId, append_to_manifest, footer_crc32, sha256
from trajectory_tools.store.schema import FORMAT_VERSION, writer_options

__all__ = ["PartWriter"]


class PartWriter:
    """Writes one part at a time; ``commit`` makes it visible, ``drop`` leaves no trace of it."""

    def __init__(
        self,
        folder: Path,
        table: str,
        committer: Committer,
        *,
        run_id: str,
        session: int,
        rank: int,
        compression: str,
        max_bytes: int,
    ) -> None:
        self._committer = committer
        self._folder = folder
        self._table = table
        self._identity = {"run_id": run_id, "session": session, "rank": rank, "format_version": FORMAT_VERSION}
        self._compression = compression
        self._max_bytes = max_bytes
        self._id = PartId(session, rank, 0)
        self._schema: pa.Schema | None = None
        self._born = 0.0
        self._rows = self._first_step = self._last_step = 0

    @property
    def age(self) -> float:
        """Age in seconds of the open part's first row; 0 where none is open."""
        return time.monotonic() - self._born if self._schema is not None else 0.0

    def write(self, row_group: pa.Table, *, born: float) -> None:
        """Append one row group, in the order of the steps; ``born`` is when (monotonic) its first row was put."""
        if self._schema is not None and row_group.schema != self._schema:
            self.commit()
        if self._schema is None:
            self._open(row_group.schema)
            self._born = born
        steps = row_group.column("step")
        if self._rows == 0:
            self._first_step = steps[0].as_py()
        self._last_step = steps[-1].as_py()
        self._rows += row_group.num_rows
        assert self._writer is not None
        self._writer.write_table(row_group, row_group_size=row_group.num_rows)

    @property
    def full(self) -> bool:
        """Whether the open part has reached the size at which it is to be committed."""
        return self._schema is not None and self._sink.tell() >= self._max_bytes

    def commit(self) -> None:
        """Complete the open part and have it committed. Nothing open: does nothing.

        Committing is: sync, move to the final name, sync the folder, append to the manifest; the committer does it.
        """
        if self._schema is None:
            return
        assert self._writer is not None
        which = {"sequence": self._id.sequence, "first_step": self._first_step, "last_step": self._last_step}
        self._writer.add_key_value_metadata({IDENTITY_KEY: json.dumps(self._identity | which)})
        self._writer.close()
        self._sink.close()
        self._schema = None
        final = self._folder / self._table / self._id.file_name
        span = (self._rows, self._first_step, self._last_step)
        self._id = PartId(self._id.session, self._id.rank, self._id.sequence + 1)
        self._committer.submit(
            partial(_commit, self._folder, self._temporary, final, span), partial(_remove, self._temporary)
        )

    def drop(self) -> None:
        """Give up the open part: after a failed write it can be closed, but not read. Nothing open: does nothing."""
        if self._schema is None:
            return
        self._schema = None
        for file in (self._writer, self._sink):
            if file is not None:
                with contextlib.suppress(OSError, pa.ArrowException):
                    file.close()
        _remove(self._temporary)

    def _open(self, schema: pa.Schema) -> None:
        self._temporary = self._folder / self._table / f".{self._id.file_name}.tmp"
        self._temporary.parent.mkdir(exist_ok=True)
        self._sink = pa.OSFile(str(self._temporary), "wb")
        self._writer: pq.ParquetWriter | None = None
        self._rows = self._first_step = self._last_step = 0
        self._schema = schema  # from here on there is something to drop: the next line writes to the disk
        self._writer = pq.ParquetWriter(self._sink, schema, **writer_options(schema, self._compression))


def _commit(folder: Path, temporary: Path, final: Path, span: tuple[int, int, int]) -> None:
    sync(temporary)
    digest, crc, size = sha256(temporary), footer_crc32(temporary), temporary.stat().st_size
    move_without_replacing(temporary, final)
    append_to_manifest(folder, Part(f"{final.parent.name}/{final.name}", size, digest, *span, footer_crc32=crc))


def _remove(temporary: Path) -> None:
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)
