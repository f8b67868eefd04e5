"""The writer: one background thread behind a queue that is bounded in bytes."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import warnings
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trajectory_tools.errors import BadArgument, RecordingFailed, UnknownName
from trajectory_tools.store.arrow import NUMPY_TYPES, number_array
from trajectory_tools.store.committer import Committer, yield_to_training
from trajectory_tools.store.part_writer import PartWriter
from trajectory_tools.store.parts import first_line
from trajectory_tools.store.rows import StepRows, row_groups
from trajectory_tools.store.schema import ROW_GROUP_VALUES, scalars_schema

__all__ = ["RunWriter", "ScalarRow", "WriterOptions"]

SCALAR_ROWS = 4096
SCALAR_ROW_BYTES = 512  # about what a row's dict and floats take in memory
STEP_ROW_BYTES = 2048  # about what a step's arrays take in memory beside their values

ScalarRow = Mapping[str, float | int | bool | None]


@dataclass(frozen=True)
class WriterOptions:
    """How a run is written.

    ``compression``: ``zstd``, or ``none``. ``queue_bytes``: how much may wait in memory. Parts roll at ``part_bytes``
    or when their first row is ``part_seconds`` old: what a kill can cost.
    """

    compression: str = "zstd"
    queue_bytes: int = 256 * 2**20
    part_bytes: int = 64 * 2**20
    part_seconds: float = 30.0

    def __post_init__(self) -> None:
        if self.compression not in ("zstd", "none"):
            raise UnknownName("compression", self.compression, ("zstd", "none"))
        if self.queue_bytes < 1:
            raise BadArgument(f"the queue needs at least one byte, found {self.queue_bytes}")


@dataclass
class Batch:
    """Rows that are written together, as one row group or a few."""

    rows: list[Any]  # StepRows of one layout, or ScalarRows
    nbytes: int = 0
    born: float = field(default_factory=time.monotonic)


class RunWriter:
    """Takes rows without waiting for the disk, unless ``queue_bytes`` of them wait already.

    After a failure nothing more is written, one warning says so, ``put_*`` do nothing, and ``close`` raises
    ``RecordingFailed``. ``wait_seconds`` is how long ``put_*`` have waited for room.
    """

    def __init__(
        self,
        folder: Path,
        *,
        run_id: str,
        session: int = 0,
        rank: int = 0,
        options: WriterOptions | None = None,
    ) -> None:
        options = options or WriterOptions()
        self.wait_seconds = 0.0
        self.error: BaseException | None = None
        self._folder = folder
        self._queue_bytes = options.queue_bytes
        self._part_seconds = options.part_seconds
        self._committer = Committer()
        self._tensor_parts, self._scalar_parts = (
            PartWriter(
                folder,
                table,
                self._committer,
                run_id=run_id,
                session=session,
                rank=rank,
                compression=options.compression,
                max_bytes=options.part_bytes,
            )
            for table in ("tensors", "scalars")
        )
        self._scalar_names: list[str] = []
        # Rows are handed over by the batch: a thread woken for each step would cost the training more than the copy.
        self._open: dict[str, Batch] = {}
        self._sealed: deque[Batch] = deque()
        self._in_flight = 0  # bytes taken and not yet given to Parquet
        self._closing = self._warned = False
        self._changed = threading.Condition()
        self._process = os.getpid()
        # A daemon: a forgotten close must not keep the interpreter from ending (the recorder closes at exit).
        self._thread = threading.Thread(target=self._run, name="trajectory-writer", daemon=True)
        self._thread.start()

    def put_tensors(self, rows: StepRows) -> None:
        """Hand over one step; waits while the queue is full. A step larger than the queue waits until it is empty."""
        with self._changed:
            if self._stopped():
                return
            batch = self._open.get("tensors")
            nbytes = rows.nbytes + STEP_ROW_BYTES
            group_bytes = ROW_GROUP_VALUES * np.dtype(rows.layout.dtype).itemsize * max(len(rows.values), 1)
            batch_bytes = min(group_bytes, self._queue_bytes // 4)
            if batch and (batch.rows[0].layout is not rows.layout or batch.nbytes + nbytes > batch_bytes):
                self._seal("tensors")
            self._add("tensors", rows, nbytes)

    def put_scalars(self, row: ScalarRow) -> None:
        """Hand over one step's scalars."""
        with self._changed:
            if self._stopped():
                return
            if "scalars" in self._open and len(self._open["scalars"].rows) >= SCALAR_ROWS:
                self._seal("scalars")
            self._add("scalars", row, SCALAR_ROW_BYTES)

    def close(self) -> None:
        """Write and commit everything that was handed over; raises ``RecordingFailed`` if any of it could not be."""
        if os.getpid() != self._process:  # a forked child has no writer thread, and nothing of its own to write
            return
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        if self.error is not None:
            raise RecordingFailed(
                f"recording into {self._folder} stopped: {first_line(self.error)}; what was committed before can be"
                " read; make room, or choose another folder, and record again"
            ) from self.error

    def _stopped(self) -> bool:
        if self.error is not None and not self._warned:
            self._warned = True
            warnings.warn(
                f"recording into {self._folder} stopped: {first_line(self.error)}; the training goes on unrecorded",
                RuntimeWarning,
                stacklevel=2,
            )
        return self.error is not None or self._closing

    def _add(self, table: str, row: StepRows | ScalarRow, nbytes: int) -> None:
        """Put the row into the table's open batch, once there is room."""
        # What is sealed here must not depend on how far the thread has come: equal runs are equal files, unless parts
        # roll by age.
        if sum(batch.nbytes for batch in self._open.values()) + nbytes > self._queue_bytes:
            self._seal(*self._open)
        if not self._has_room(nbytes):
            start = time.perf_counter()
            self._changed.wait_for(lambda: self._has_room(nbytes) or self.error is not None)
            self.wait_seconds += time.perf_counter() - start
        if self.error is None:
            batch = self._open.setdefault(table, Batch([]))
            batch.rows.append(row)
            batch.nbytes += nbytes
            self._in_flight += nbytes

    def _has_room(self, nbytes: int) -> bool:
        return not self._in_flight or self._in_flight + nbytes <= self._queue_bytes

    def _seal(self, *tables: str) -> None:
        """Give these open batches to the thread."""
        self._sealed.extend([self._open.pop(table) for table in tables])
        self._changed.notify_all()

    # From here on: the thread.

    def _run(self) -> None:
        parts = (self._tensor_parts, self._scalar_parts)
        try:
            yield_to_training()
            while (batch := self._next_batch()) is not None:
                self._write(batch)
                for part in parts:
                    if part.full or part.age >= self._part_seconds:
                        part.commit()
                with self._changed:
                    self._in_flight -= batch.nbytes
                    self._changed.notify_all()
                del batch  # or its rows would stay in memory until the next one comes
            for part in parts:
                part.commit()
            self._committer.close()
        except BaseException as error:
            with self._changed:  # first of all: the training may be waiting for room
                self.error = error
                self._sealed.clear()
                self._open.clear()
                self._changed.notify_all()
            for part in parts:
                part.drop()
            with contextlib.suppress(Exception):  # the error that led here is the one to be told
                self._committer.close()

    def _next_batch(self) -> Batch | None:
        """The oldest sealed batch; an empty one when a part has become old; ``None`` when all is written."""
        with self._changed:
            while not self._sealed:
                ages = [time.monotonic() - batch.born for batch in self._open.values()]
                ages += [part.age for part in (self._tensor_parts, self._scalar_parts)]
                if self._closing or max(ages) >= self._part_seconds:
                    self._seal(*self._open)
                    if not self._sealed:
                        return None if self._closing else Batch([])
                else:
                    self._changed.wait(timeout=self._part_seconds - max(ages))
            return self._sealed.popleft()

    def _write(self, batch: Batch) -> None:
        if not batch.rows:
            return
        if isinstance(batch.rows[0], StepRows):
            rows = cast(list[StepRows], batch.rows)
            for step in rows:
                if step.ready is not None:
                    step.ready()
            for table in row_groups(rows):
                self._tensor_parts.write(table, born=batch.born)
        else:
            scalars = cast(list[ScalarRow], batch.rows)
            known = set(scalars_schema(self._scalar_names).names)
            self._scalar_names += [
                name for name in dict.fromkeys(n for row in scalars for n in row) if name not in known
            ]
            self._scalar_parts.write(_scalar_table(scalars, scalars_schema(self._scalar_names)), born=batch.born)


def _scalar_table(rows: list[ScalarRow], schema: pa.Schema) -> pa.Table:
    """The rows as a table; a name that a row lacks, or that is None there, is null."""
    columns = []
    for field_ in schema:
        values = [row.get(field_.name) for row in rows]
        null = np.array([value is None for value in values])
        numbers: NDArray[Any] = np.array([0 if value is None else value for value in values], NUMPY_TYPES[field_.type])
        columns.append(number_array(numbers, null=null))
    return pa.table(columns, schema=schema)
