"""The writer: background threads behind a queue that is bounded in bytes."""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from trajectory_tools.errors import BadArgument, RecordingFailed, UnknownName
from trajectory_tools.store.assembly import Assembly
from trajectory_tools.store.batch import STEP_ROW_BYTES, Batch, ScalarBatch, ScalarRow, TensorBatch
from trajectory_tools.store.committer import Committer, yield_to_training
from trajectory_tools.store.disk_thread import DiskThread
from trajectory_tools.store.part_file import PartFile
from trajectory_tools.store.parts import PartId, first_line
from trajectory_tools.store.probe_rows import ProbeBatch, ProbeRows, ProductBatch, ProductRows
from trajectory_tools.store.rows import StepRows
from trajectory_tools.store.stats_rows import StatsBatch, StepStats

__all__ = ["RunWriter", "ScalarRow", "WriterOptions"]

COMPRESSIONS = ("auto", "zstd", "none")

ENCODERS = 2
"""Threads that encode at any time, with a low priority; one more does while the training waits, or is over."""


@dataclass(frozen=True)
class WriterOptions:
    """How a run is written.

    ``compression``: ``zstd``; ``none``, which is faster and takes a fifth more room (where most gradients are zero,
    twice as much); or ``auto``: ``zstd``, but ``none`` for a part that begins while half of the queue is full, or
    after the training had to wait for room.
    ``queue_bytes``: how much may wait in memory. Parts roll when they hold ``part_bytes`` of values, or when their
    first row is ``part_seconds`` old: what a kill can cost.
    """

    compression: str = "auto"
    queue_bytes: int = 256 * 2**20
    part_bytes: int = 32 * 2**20
    part_seconds: float = 30.0

    def __post_init__(self) -> None:
        if self.compression not in COMPRESSIONS:
            raise UnknownName("compression", self.compression, COMPRESSIONS)
        if self.queue_bytes < 1:
            raise BadArgument(f"the queue needs at least one byte, found {self.queue_bytes}")


@dataclass
class Stream:
    """What one table is being given: the batch that is being filled, and the part that its batches go to."""

    table: str
    batch: Batch | None = None
    part: Assembly | None = None
    part_bytes: int = 0
    sequence: int = 0
    schema: pa.Schema | None = None
    waited: float = 0.0
    """How long the training had waited when the last part began."""
    within_step: bool = False
    """Whether more rows of the last one's step may come: then its part may not end."""

    @property
    def born(self) -> float:
        """When (monotonic) the oldest row was recorded that no finished part holds."""
        return min((x.born for x in (self.part, self.batch) if x is not None), default=float("inf"))


class RunWriter:
    """Takes rows without waiting for the disk, unless ``queue_bytes`` of them wait already.

    Rows are handed over by the batch: a thread woken for each step would cost the training more than the copy. Which
    rows share a batch and a part is decided as they come, so that equal runs are equal files, unless parts roll by age
    or compression is ``auto``. Then threads encode and write, a row group at a time, if they can each of another
    part: ``ENCODERS`` at any time, and one more while the training waits for them or closes, with the training's own
    priority (where other processes keep every core busy, the others hardly run). One thread more hands blocks of what
    they have encoded to the disk, and one commits the parts in order.

    After a failure nothing more is written, one warning says so, ``put_*`` do nothing, and ``close`` raises
    ``RecordingFailed``. ``wait_seconds`` is how long ``put_*`` and ``make_room`` have waited for it.
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
        self.wait_seconds = 0.0
        self.error: BaseException | None = None
        self._options = options or WriterOptions()
        self._folder = folder
        self._run_id = run_id
        self._session = session
        self._rank = rank
        self._committer = Committer()
        self._disk = DiskThread()
        self._streams: dict[str, Stream] = {}
        self._parts: list[Assembly] = []  # that are not whole, the oldest first
        self._encoding = ENCODERS + 1  # threads that have not ended
        self._in_flight = 0  # bytes of the batches that are not written as a whole
        self._closing = self._warned = self._awaited = False
        lock = threading.RLock()
        self._changed = threading.Condition(lock)
        self._hurry = threading.Condition(lock)  # the training waits, or all is over
        self._process = os.getpid()
        # Daemons: a forgotten close must not keep the interpreter from ending (the recorder closes at exit).
        self._threads = [
            threading.Thread(target=self._run, args=(i < ENCODERS,), name=f"trajectory-encoder-{i}", daemon=True)
            for i in range(ENCODERS + 1)
        ]
        for thread in self._threads:
            thread.start()

    def make_room(self, value_bytes: int) -> None:
        """Wait as ``put_tensors`` would for so many bytes of values: before they are copied, into memory of steps that
        are written by then."""
        with self._changed:
            if not self._stopped():
                self._wait_for_room(value_bytes + STEP_ROW_BYTES)

    def put_tensors(self, rows: StepRows) -> None:
        """Hand over one step; waits while the queue is full. A step larger than the queue waits until it is empty."""
        self._put("tensors", [rows], lambda: TensorBatch(rows.layout))

    def put_stats(self, stats: StepStats) -> None:
        """Hand over one step's statistics."""
        self._put("stats", [stats], lambda: StatsBatch(stats.layout))

    def put_scalars(self, row: ScalarRow) -> None:
        """Hand over one step's scalars."""
        self._put("scalars", [row], ScalarBatch)

    def put_probe(self, *rows: ProbeRows) -> None:
        """Hand over samples of a probe; call ``end_probes`` when the last ones of the step are handed over."""
        if rows:
            self._put("probes", rows, ProbeBatch, within_step=True)

    def put_products(self, rows: ProductRows) -> None:
        """Hand over the inner products of a probe."""
        self._put("probe_products", [rows], ProductBatch)

    def end_probes(self) -> None:
        """Say that the step's probes are complete; a part of them, which holds whole steps, may end from here on."""
        with self._changed:
            stream = self._streams.get("probes")
            if stream is not None and self.error is None:
                stream.within_step = False
                if stream.part_bytes >= self._options.part_bytes:
                    self._end_part(stream)
                self._changed.notify_all()

    def close(self) -> None:
        """Write and commit everything that was handed over; raises ``RecordingFailed`` if any of it could not be."""
        if os.getpid() != self._process:  # a forked child has no writer thread, and nothing of its own to write
            return
        with self._changed:
            if self.error is None:
                for stream in self._streams.values():
                    self._end_part(stream)
            self._closing = True
            self._changed.notify_all()
            self._hurry.notify_all()
        for thread in self._threads:
            thread.join()
        if self.error is not None:
            raise RecordingFailed(
                f"recording into {self._folder} stopped: {first_line(self.error)}; what was committed before can be"
                " read; make room, or choose another folder, and record again"
            ) from self.error

    def _put(
        self, table: str, rows: Sequence[Any], new_batch: Callable[[], Batch], *, within_step: bool = False
    ) -> None:
        with self._changed:
            if self._stopped():
                return
            if (stream := self._streams.get(table)) is None:
                stream = self._streams[table] = Stream(table)
            stream.within_step = within_step
            for row in rows:
                self._add(stream, row, new_batch)

    def _add(self, stream: Stream, row: Any, new_batch: Callable[[], Batch]) -> None:
        max_bytes = self._options.queue_bytes // (4 * ENCODERS)
        if stream.batch is not None and not stream.batch.takes(row, max_bytes):
            self._seal(stream)
        nbytes = (stream.batch or new_batch()).size(row)
        self._wait_for_room(nbytes)
        if self.error is None:
            batch = stream.batch = stream.batch or new_batch()
            batch.add(row)
            self._in_flight += nbytes
            if not batch.takes(row, max_bytes):  # another like it may not come for long
                self._seal(stream)

    def _stopped(self) -> bool:
        if self.error is not None and not self._warned:
            self._warned = True
            warnings.warn(
                f"recording into {self._folder} stopped: {first_line(self.error)}; the training goes on unrecorded",
                RuntimeWarning,
                stacklevel=2,
            )
        return self.error is not None or self._closing

    def _wait_for_room(self, nbytes: int) -> None:
        """Wait if the queue is full, and then until half of it is free.

        One long wait lets the encoders have every core to themselves; many short ones, at each of which the training's
        threads spin, do not.
        """
        limit = self._options.queue_bytes
        if self._open_bytes() + nbytes > limit:
            for stream in self._streams.values():
                self._seal(stream)
        if not self._in_flight or self._in_flight + nbytes <= limit:
            return
        start = time.perf_counter()
        half = max(limit // 2, self._open_bytes())  # what is open is not being written
        enough = min(half, limit - nbytes)
        try:
            self._awaited = True
            self._hurry.notify_all()
            self._changed.wait_for(lambda: not self._in_flight or self._in_flight <= enough or self.error)
        finally:
            self._awaited = False
            self.wait_seconds += time.perf_counter() - start

    def _open_bytes(self) -> int:
        return sum(stream.batch.nbytes for stream in self._streams.values() if stream.batch is not None)

    def _seal(self, stream: Stream) -> None:
        """Give the stream's open batch to the encoders."""
        if stream.batch is None:
            return
        batch, stream.batch = stream.batch, None
        schema = batch.schema(stream.schema)
        if stream.part is not None and schema != stream.schema:
            self._end_part(stream)
        stream.schema = schema
        if stream.part is None:
            part = PartFile(
                self._folder,
                stream.table,
                PartId(self._session, self._rank, stream.sequence),
                schema,
                run_id=self._run_id,
                compression=self._compression(stream),
                born=batch.born,
                disk=self._disk,
            )
            self._committer.expect(part)
            stream.part = Assembly(part, self._changed, self._written)
            self._parts.append(stream.part)
        stream.part.add(batch)
        stream.part_bytes += batch.nbytes
        if stream.part_bytes >= self._options.part_bytes and not stream.within_step:
            self._end_part(stream)
        self._changed.notify_all()

    def _compression(self, stream: Stream) -> str:
        """How a part of the stream that begins now is compressed."""
        if self._options.compression != "auto":
            return self._options.compression
        waited, stream.waited = self.wait_seconds > stream.waited, self.wait_seconds
        return "none" if waited or 2 * self._in_flight > self._options.queue_bytes else "zstd"

    def _end_part(self, stream: Stream) -> None:
        """Have the stream's part, with all that was recorded for it, finished."""
        self._seal(stream)
        if stream.part is not None:
            stream.part.end()
            stream.part, stream.part_bytes = None, 0
            stream.sequence += 1
            self._changed.notify_all()

    # From here on: the encoding threads.

    def _run(self, always: bool) -> None:
        """Do tasks: ``always``, with a low priority, or with the training's own while that waits, or is over."""
        try:
            if always:
                yield_to_training()
            while (task := self._next_task(always)) is not None:
                task()
                del task  # or its rows would stay in memory until the next one comes
        except BaseException as error:
            self._fail(error)
        with self._changed:
            self._encoding -= 1
            last = not self._encoding
        if last:
            try:
                self._committer.close()
            except Exception as error:
                self._fail(error)
            self._disk.close()

    def _fail(self, error: BaseException) -> None:
        with self._changed:  # the training may be waiting for room
            self.error = self.error or error
            self._parts.clear()
            for stream in self._streams.values():
                stream.batch = stream.part = None
            self._changed.notify_all()
            self._hurry.notify_all()

    def _written(self, batch: Batch) -> None:
        self._in_flight -= batch.nbytes

    def _finish(self, part: PartFile) -> None:
        part.finish()
        self._committer.submit(part)

    def _next_task(self, always: bool) -> Callable[[], None] | None:
        """What a thread is to do next; ``None`` when all is done, or lost."""
        with self._changed:
            while self.error is None:
                if not (always or self._awaited or self._closing):
                    self._hurry.wait()
                    continue
                if (task := self._task()) is not None:
                    return task
                if self._closing and not self._parts:
                    return None
                if not self._end_old_parts():
                    # A put does not wake this thread: from then on a part becomes old.
                    oldest = min([time.monotonic(), *(s.born for s in self._streams.values() if not s.within_step)])
                    self._changed.wait(timeout=oldest + self._options.part_seconds - time.monotonic())
            return None

    def _task(self) -> Callable[[], None] | None:
        """What can be done now, for the oldest part that nobody is at work on, or else for the oldest."""
        for ahead in (False, True):
            for part in self._parts:
                if part.is_complete:
                    self._parts.remove(part)
                    return partial(self._finish, part.part)
                if (task := part.next_task(ahead=ahead)) is not None:
                    return task
        return None

    def _end_old_parts(self) -> bool:
        """End the parts that have become old; whether there were any."""
        born = {s.table: s.born for s in self._streams.values() if not s.within_step}
        old = [self._streams[t] for t, since in born.items() if time.monotonic() - since >= self._options.part_seconds]
        for stream in old:
            self._end_part(stream)
        return bool(old)
