"""The rows of ``probes`` and ``probe_products`` on their way into Arrow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trajectory_tools.store.arrow import dictionary_array, list_array, number_array
from trajectory_tools.store.rows import Floats, RowLayout, StepRows, list_column, row_spans
from trajectory_tools.store.schema import PROBE_SOURCES, ROW_GROUP_VALUES, probe_products_schema, probes_schema

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

    @property
    def samples(self) -> Iterator[StepRows]:
        """One by one."""
        mask = {} if self.present is None else {"grad": self.present}
        for grad, update in zip(self.grad, self.update, strict=True):
            yield StepRows(self.step, self.layout, {"grad": grad, "update": update}, mask)


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

    def tables(self, schema: pa.Schema) -> Iterator[pa.Table]:
        """The rows, as row groups."""
        samples = [sample for rows in self._rows for sample in rows.samples]
        for start, stop in row_spans(samples):
            yield self._table(schema, samples, start, stop)
        for rows in self._rows:  # Parquet has them now
            if rows.release is not None:
                rows.release()

    def _table(self, schema: pa.Schema, samples: Sequence[StepRows], start: int, stop: int) -> pa.Table:
        """The rows ``start:stop`` of each sample."""
        layout, n_rows = samples[0].layout, stop - start
        keys = [_Key(rows.source, rows.batch_size, rows.first + i) for rows in self._rows for i in range(len(rows))]
        columns = [
            number_array(np.repeat(np.array([sample.step for sample in samples], np.int64), n_rows)),
            dictionary_array(schema.field("name").type, np.tile(layout.codes[start:stop], len(samples)), layout.names),
            number_array(np.tile(layout.offsets[start:stop], len(samples))),
            *_key_columns(schema, keys, n_rows),
        ]
        for name in ("grad", "update"):
            cuts = [sample.cut(name, start, stop) for sample in samples]
            columns.append(list_column(schema.field(name).type, cuts))
        none = [np.empty(0, np.int64)] * n_rows
        of_samples = [rows.coordinates for rows in self._rows for _ in range(len(rows))]
        chosen = [each for of_one in of_samples for each in (none if of_one is None else of_one[start:stop])]
        null = np.repeat([of_one is None for of_one in of_samples], n_rows)
        lengths = np.array([len(each) for each in chosen], np.int64)
        columns.append(list_array(schema.field("coordinates").type, chosen, lengths, null))
        return pa.table(columns, schema=schema)


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

    def tables(self, schema: pa.Schema) -> Iterator[pa.Table]:
        """A row group."""
        for rows in self._rows:
            n_rows = len(rows.grad_grad)
            samples = [_Key("batch", rows.batch_size, i) for i in range(n_rows - 1)]
            keys = _key_columns(schema, [*samples, _Key("mean", rows.batch_size, 0)])
            lists = [
                list_array(schema.field(name).type, [matrix.ravel()], np.full(n_rows, n_rows), np.zeros(n_rows, bool))
                for name, matrix in zip(("grad_grad", "update_update", "update_grad"), rows.matrices, strict=True)
            ]
            steps = number_array(np.full(n_rows, rows.step, np.int64))
            yield pa.table([steps, *keys, *lists], schema=schema)


@dataclass(frozen=True)
class _Key:
    """What tells a sample from the others of its step."""

    source: str
    batch_size: int | None
    sample: int


def _key_columns(schema: pa.Schema, keys: Sequence[_Key], repeats: int = 1) -> list[pa.Array]:
    """``source``, ``batch_size``, ``sample``, each ``repeats`` times."""
    codes = np.array([PROBE_SOURCES.index(key.source) for key in keys], np.int32)
    sizes = np.array([key.batch_size or 0 for key in keys], np.int64)
    unknown = np.array([key.batch_size is None for key in keys])
    numbers = np.array([key.sample for key in keys], np.int32)
    codes, sizes, unknown, numbers = (np.repeat(each, repeats) for each in (codes, sizes, unknown, numbers))
    return [
        dictionary_array(schema.field("source").type, codes, PROBE_SOURCES),
        number_array(sizes, null=unknown),
        number_array(numbers),
    ]
