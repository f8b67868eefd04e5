"""The rows of ``probes`` and ``probe_products`` on their way into Parquet."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trajectory_tools.store.arrow import dictionary_array, number_array
from trajectory_tools.store.list_column import Cut, ListColumn
from trajectory_tools.store.rows import Floats, RowLayout, StepRows, row_spans
from trajectory_tools.store.schema import PROBE_SOURCES, ROW_GROUP_VALUES, probe_products_schema, probes_schema
from trajectory_tools.store.table_file import RowGroup

__all__ = ["ProbeBatch", "ProbeRows", "ProductBatch", "ProductRows"]

ROW_BYTES = 2048  # about what a sample's arrays take in memory beside their values


@dataclass(frozen=True)
class ProbeRows:
    """Samples of a probe: their gradients (n, values) and their updates (n, values), in the layout's order.

    The values of parameters that are not ``present`` (a mask; None: all are) are not in ``grad``. ``source``,
    ``batch_size``: see ``probes_schema``; ``first`` is the number of the first sample. ``coordinates`` (for each of the
    layout's rows, which elements of the parameter the row holds) belong to the mean of a sketch. ``release`` is called
    by the writer when it needs the values no more.
    """

    step: int
    layout: RowLayout
    grad: Floats
    update: Floats
    source: str
    batch_size: int | None
    first: int = 0
    present: NDArray[np.bool_] | None = None
    coordinates: Sequence[NDArray[np.int64]] | None = None
    release: Callable[[], None] | None = None

    def __len__(self) -> int:
        return len(self.grad)

    @property
    def nbytes(self) -> int:
        """Bytes that wait in memory until the rows are written."""
        return self.grad.nbytes + self.update.nbytes + ROW_BYTES * len(self)

    def cut(self, column: str, start: int, stop: int) -> Cut:
        """The values of ``grad`` or ``update`` in the layout's rows ``start:stop``; of several samples, every row."""
        values, n = {"grad": self.grad, "update": self.update}[column], len(self)
        mask = {} if self.present is None else {"grad": self.present}
        one = StepRows(self.step, self.layout, {column: values[0]}, mask).cut(column, start, stop)
        return one if n == 1 else Cut(values.reshape(-1), np.tile(one.lengths, n), np.tile(one.null, n))

    def chosen(self, start: int, stop: int) -> Cut:
        """The same of ``coordinates``."""
        if self.coordinates is None:
            n_rows = len(self) * (stop - start)
            return Cut(np.empty(0, np.int64), np.zeros(n_rows, np.int64), np.ones(n_rows, bool))
        chosen = self.coordinates[start:stop]
        lengths = np.array([len(each) for each in chosen], np.int64)
        return Cut(np.concatenate(chosen), lengths, np.zeros(stop - start, bool))


class ProbeBatch:
    """Samples of one layout, of one step or of several."""

    def __init__(self) -> None:
        self.born = time.monotonic()
        self.nbytes = 0
        self._rows: list[ProbeRows] = []

    def takes(self, rows: ProbeRows, max_bytes: int) -> bool:
        """Whether the samples belong in this batch."""
        group_bytes = ROW_GROUP_VALUES * np.dtype(rows.layout.dtype).itemsize * 2
        return rows.layout is self._rows[0].layout and self.nbytes + rows.nbytes <= min(group_bytes, max_bytes)

    @staticmethod
    def size(rows: ProbeRows) -> int:
        """Bytes that the samples take in memory."""
        return rows.nbytes

    def add(self, rows: ProbeRows) -> None:
        """Append the samples."""
        self._rows.append(rows)
        self.nbytes += rows.nbytes

    def schema(self, previous: pa.Schema | None) -> pa.Schema:
        """The columns of the part that this batch goes to."""
        return probes_schema(self._rows[0].layout.dtype)

    def row_groups(self, schema: pa.Schema) -> list[Callable[[], RowGroup]]:
        """What makes each row group, on any thread."""
        spans = row_spans(self._rows[0].layout, sum(map(len, self._rows)))
        return [partial(self._row_group, schema, start, stop) for start, stop in spans]

    def release(self) -> None:
        """Give their memory back: Parquet has them."""
        for rows in self._rows:
            if rows.release is not None:
                rows.release()

    def _row_group(self, schema: pa.Schema, start: int, stop: int) -> RowGroup:
        """The rows ``start:stop`` of each sample."""
        layout, n_rows = self._rows[0].layout, stop - start
        keys = [_Key(rows.source, rows.batch_size, rows.first + i) for rows in self._rows for i in range(len(rows))]
        steps = np.repeat([rows.step for rows in self._rows], [len(rows) * n_rows for rows in self._rows])
        numbers = {
            "step": number_array(steps.astype(np.int64, copy=False)),
            "name": dictionary_array(
                schema.field("name").type, np.tile(layout.codes[start:stop], len(keys)), layout.names
            ),
            "offset": number_array(np.tile(layout.offsets[start:stop], len(keys))),
            **_key_columns(schema, keys, n_rows),
        }
        value_type = pa.type_for_alias(layout.dtype)
        lists = {
            name: ListColumn(value_type, [rows.cut(name, start, stop) for rows in self._rows])
            for name in ("grad", "update")
        }
        chosen = ListColumn(pa.int64(), [rows.chosen(start, stop) for rows in self._rows])
        return RowGroup(numbers, {**lists, "coordinates": chosen})


@dataclass(frozen=True)
class ProductRows:
    """The inner products of one set: three matrices (K + 1, K + 1), samples first and then their mean."""

    step: int
    batch_size: int | None
    grad_grad: NDArray[np.float64]
    update_update: NDArray[np.float64]
    update_grad: NDArray[np.float64]

    @property
    def matrices(self) -> tuple[NDArray[np.float64], ...]:
        """They, in the order of the columns."""
        return self.grad_grad, self.update_update, self.update_grad


class ProductBatch:
    """The inner products of one set."""

    def __init__(self) -> None:
        self.born = time.monotonic()
        self.nbytes = 0
        self._rows: list[ProductRows] = []

    def takes(self, rows: ProductRows, max_bytes: int) -> bool:
        """Whether the set belongs in this batch: each is one of its own."""
        return False

    @staticmethod
    def size(rows: ProductRows) -> int:
        """Bytes that the set takes in memory."""
        return sum(matrix.nbytes for matrix in rows.matrices) + ROW_BYTES

    def add(self, rows: ProductRows) -> None:
        """Take the set."""
        self._rows.append(rows)
        self.nbytes += self.size(rows)

    def schema(self, previous: pa.Schema | None) -> pa.Schema:
        """The columns."""
        return probe_products_schema()

    def row_groups(self, schema: pa.Schema) -> list[Callable[[], RowGroup]]:
        """What makes the row group."""
        return [partial(self._row_group, schema, rows) for rows in self._rows]

    def release(self) -> None:
        """There is no memory to be given back."""

    def _row_group(self, schema: pa.Schema, rows: ProductRows) -> RowGroup:
        n_rows = len(rows.grad_grad)
        samples = [_Key("batch", rows.batch_size, i) for i in range(n_rows - 1)]
        keys = _key_columns(schema, [*samples, _Key("mean", rows.batch_size, 0)])
        length, there = np.array([n_rows], np.int64), np.array([False])
        lists = {
            name: ListColumn(pa.float64(), [Cut(row, length, there) for row in matrix])
            for name, matrix in zip(("grad_grad", "update_update", "update_grad"), rows.matrices, strict=True)
        }
        return RowGroup({"step": number_array(np.full(n_rows, rows.step, np.int64)), **keys}, lists)


@dataclass(frozen=True)
class _Key:
    """What tells a sample from the others of its step."""

    source: str
    batch_size: int | None
    sample: int


def _key_columns(schema: pa.Schema, keys: Sequence[_Key], repeats: int = 1) -> dict[str, pa.Array]:
    """``source``, ``batch_size``, ``sample``, each ``repeats`` times."""
    codes = np.array([PROBE_SOURCES.index(key.source) for key in keys], np.int32)
    sizes = np.array([key.batch_size or 0 for key in keys], np.int64)
    unknown = np.array([key.batch_size is None for key in keys])
    numbers = np.array([key.sample for key in keys], np.int32)
    codes, sizes, unknown, numbers = (np.repeat(each, repeats) for each in (codes, sizes, unknown, numbers))
    return {
        "source": dictionary_array(schema.field("source").type, codes, PROBE_SOURCES),
        "batch_size": number_array(sizes, null=unknown),
        "sample": number_array(numbers),
    }
