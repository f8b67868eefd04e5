"""One part while it is being written: a temporary file, which is committed as a whole or dropped."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from trajectory_tools.store.disk_thread import DiskThread
from trajectory_tools.store.files import move_without_replacing, sync
from trajectory_tools.store.metadata import FORMAT_VERSION
from trajectory_tools.store.parts import IDENTITY_KEY, Part, PartId, append_to_manifest
from trajectory_tools.store.table_file import EncodedGroup, RowGroup, TableFile

__all__ = ["PartFile"]


class PartFile:
    """``write`` row groups in the order of the steps, then ``finish``, then ``commit``; or ``drop``, at any time.

    Row groups may be ``encoded`` on several threads. Nothing is on the disk before the first is written. ``born`` is
    when (monotonic) the first of its rows was recorded; ``disk`` writes a block while the next is encoded.
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
        disk: DiskThread | None = None,
    ) -> None:
        self.table = table
        self.schema = schema
        self.born = born
        self._id = part_id
        self._run_id = run_id
        self._compression = compression
        self._disk = disk
        self._folder = folder
        self._temporary = folder / table / f".{part_id.file_name}.tmp"
        self._file: TableFile | None = None
        self._written: tuple[int, str, int] | None = None
        self._rows = self._first_step = self._last_step = 0

    def encoded(self, row_group: RowGroup) -> EncodedGroup:
        """The row group as ``write`` takes it."""
        return row_group.encoded(self.schema, self._compression)

    def write(self, row_group: EncodedGroup) -> None:
        """Append one row group."""
        if self._file is None:
            self._temporary.parent.mkdir(exist_ok=True)
            self._file = TableFile(self._temporary, self.schema, self._compression, self._disk)
        steps = row_group.table["step"]
        if self._rows == 0:
            self._first_step = steps[0].as_py()
        self._last_step = steps[-1].as_py()
        self._rows += row_group.table.num_rows
        self._file.write(row_group)

    def finish(self) -> None:
        """Close the file; from then on only ``commit`` or ``drop`` is left to be called."""
        assert self._file is not None, "a part without rows is never finished"
        identity: dict[str, Any] = {
            "run_id": self._run_id,
            "session": self._id.session,
            "rank": self._id.rank,
            "format_version": FORMAT_VERSION,
            "sequence": self._id.sequence,
            "first_step": self._first_step,
            "last_step": self._last_step,
        }
        self._written = self._file.close({IDENTITY_KEY: json.dumps(identity)})

    def commit(self) -> None:
        """Sync, move to the final name, sync the folder, append to the manifest."""
        assert self._written is not None, "a part is finished before it is committed"
        size, digest, crc = self._written
        if (found := self._temporary.stat().st_size) != size:
            raise OSError(f"{self._temporary.name} has {found} bytes where {size} were written")
        sync(self._temporary)
        name = self._id.file_name
        move_without_replacing(self._temporary, self._folder / self.table / name)
        span = (self._rows, self._first_step, self._last_step)
        append_to_manifest(self._folder, Part(f"{self.table}/{name}", size, digest, *span, footer_crc32=crc))

    def drop(self) -> None:
        """Leave no trace: after a failed write the file could be closed, but not read."""
        if self._file is not None:
            self._file.drop()
        with contextlib.suppress(OSError):
            self._temporary.unlink(missing_ok=True)
