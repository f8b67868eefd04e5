"""One part while it is being written: a temporary file, which is committed as a whole or dropped."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from trajectory_tools.store.files import move_without_replacing, sync
from trajectory_tools.store.metadata import FORMAT_VERSION
from trajectory_tools.store.parts import IDENTITY_KEY, Part, PartId, append_to_manifest, footer_crc32, sha256
from trajectory_tools.store.schema import writer_options

__all__ = ["PartFile"]


class PartFile:
    """``write`` row groups in the order of the steps, then ``finish``, then ``commit``; or ``drop``, at any time.

    Nothing is on the disk before the first row group. ``born`` is when (monotonic) the first of its rows was recorded.
    """

    def __init__(
        self,
        folder: Path,
        table: str,
        part_id: PartId,
        schema: pa.Schema,
        *,
        run_id: str,
        compression: str,
        born: float,
    ) -> None:
        self.table = table
        self.schema = schema
        self.born = born
        self._id = part_id
        self._run_id = run_id
        self._compression = compression
        self._folder = folder
        self._temporary = folder / table / f".{part_id.file_name}.tmp"
        self._sink: pa.NativeFile | None = None
        self._writer: pq.ParquetWriter | None = None
        self._rows = self._first_step = self._last_step = 0

    def write(self, row_group: pa.Table) -> None:
        """Append one row group."""
        if self._writer is None:
            self._temporary.parent.mkdir(exist_ok=True)
            self._sink = pa.OSFile(str(self._temporary), "wb")
            self._writer = pq.ParquetWriter(self._sink, self.schema, **writer_options(self.schema, self._compression))
        steps = row_group.column("step")
        if self._rows == 0:
            self._first_step = steps[0].as_py()
        self._last_step = steps[-1].as_py()
        self._rows += row_group.num_rows
        self._writer.write_table(row_group, row_group_size=row_group.num_rows)

    def finish(self) -> None:
        """Close the file; from then on only ``commit`` or ``drop`` is left to be called."""
        assert self._writer is not None, "a part without rows is never finished"
        assert self._sink is not None
        identity: dict[str, Any] = {
            "run_id": self._run_id,
            "session": self._id.session,
            "rank": self._id.rank,
            "format_version": FORMAT_VERSION,
            "sequence": self._id.sequence,
            "first_step": self._first_step,
            "last_step": self._last_step,
        }
        self._writer.add_key_value_metadata({IDENTITY_KEY: json.dumps(identity)})
        self._writer.close()
        self._sink.close()

    def commit(self) -> None:
        """Sync, move to the final name, sync the folder, append to the manifest."""
        sync(self._temporary)
        digest, crc = sha256(self._temporary), footer_crc32(self._temporary)
        size = self._temporary.stat().st_size
        name = self._id.file_name
        move_without_replacing(self._temporary, self._folder / self.table / name)
        span = (self._rows, self._first_step, self._last_step)
        append_to_manifest(self._folder, Part(f"{self.table}/{name}", size, digest, *span, footer_crc32=crc))

    def drop(self) -> None:
        """Leave no trace: after a failed write the file could be closed, but not read."""
        for file in (self._writer, self._sink):
            if file is not None:
                with contextlib.suppress(OSError, pa.ArrowException):
                    file.close()
        with contextlib.suppress(OSError):
            self._temporary.unlink(missing_ok=True)
