"""A part on its way into its file: any thread encodes its row groups, and they are written in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from threading import Condition

from trajectory_tools.store.batch import Batch
from trajectory_tools.store.part_file import PartFile
from trajectory_tools.store.table_file import EncodedGroup, RowGroup

__all__ = ["Assembly"]

AHEAD = 3
"""Row groups of a part that are being encoded, or wait to be written: where its file is slow, memory must not fill up
with pages."""


@dataclass
class Unwritten:
    """A batch, those of its row groups that nobody encodes yet, and how many are not written."""

    batch: Batch
    row_groups: deque[Callable[[], RowGroup]]
    left: int


class Assembly:
    """Gives threads one task after another for one part.

    ``changed`` is the lock of all that is here, and notified of it: ``add``, ``end``, ``is_complete`` and ``next_task``
    are called under it, and the tasks without it. ``written`` is called under it with each batch that the file holds.
    """

    def __init__(self, part: PartFile, changed: Condition, written: Callable[[Batch], None]) -> None:
        self.part = part
        self._changed = changed
        self._on_written = written
        self._batches: deque[Unwritten] = deque()
        self._encoded: dict[int, tuple[Unwritten, EncodedGroup]] = {}
        self._begun = self._written = 0  # row groups
        self._writing = self._ended = False

    def add(self, batch: Batch) -> None:
        """Have this batch follow."""
        row_groups = deque(batch.row_groups(self.part.schema))
        self._batches.append(Unwritten(batch, row_groups, len(row_groups)))

    def end(self) -> None:
        """Say that no batch follows."""
        self._ended = True

    @property
    def born(self) -> float:
        """When (monotonic) the first of its rows was recorded."""
        return self.part.born

    @property
    def is_complete(self) -> bool:
        """Whether the file holds all there will be."""
        return self._ended and not self._batches and self._written == self._begun

    def next_task(self, *, ahead: bool) -> Callable[[], None] | None:
        """What can be done for the part now, if anything can.

        ``ahead``: also encode a row group while those in front of it are not written.
        """
        if not self._writing and self._written in self._encoded:
            self._writing = True
            return partial(self._write, *self._encoded.pop(self._written))
        if not self._batches:
            return None
        if not self._writing and self._begun == self._written:
            self._writing = True
            return partial(self._encode_and_write, *self._begin())
        if ahead and self._begun - self._written < AHEAD:
            return partial(self._encode, self._begun, *self._begin())
        return None

    def _begin(self) -> tuple[Unwritten, Callable[[], RowGroup]]:
        of = self._batches[0]
        row_group = of.row_groups.popleft()
        self._begun += 1
        if not of.row_groups:
            self._batches.popleft()
        return of, row_group

    def _encode_and_write(self, of: Unwritten, row_group: Callable[[], RowGroup]) -> None:
        self._write(of, self.part.encoded(row_group()))

    def _encode(self, number: int, of: Unwritten, row_group: Callable[[], RowGroup]) -> None:
        encoded = self.part.encoded(row_group()).held()
        with self._changed:
            self._encoded[number] = of, encoded
            self._changed.notify_all()

    def _write(self, of: Unwritten, encoded: EncodedGroup) -> None:
        self.part.write(encoded)
        with self._changed:
            self._writing = False
            self._written += 1
            of.left -= 1
            if not of.left:
                of.batch.release()
                self._on_written(of.batch)
            self._changed.notify_all()
