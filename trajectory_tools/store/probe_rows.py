"""The rows of ``probes`` and ``probe_products`` on their way into Arrow."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trajectory_tools.store.arrow import dictionary_array, list_array, number_array
from trajectory_tools.store.rows import StepRows, list_column, row_spans
from trajectory_tools.store.schema import PROBE_SOURCES, ROW_GROUP_VALUES, probe_products_schema, probes_schema

__all__ = ["ProbeBatch", "ProbeRows", "ProductBatch", "ProductRows"]

ROW_BYTES = 2048  # about what a sample's arrays take in memory beside their values


@dataclass(frozen=True)
class ProbeRows:
    """One sample of a probe: its gradient and its update, as ``rows`` holds them.

    ``source``, ``batch_size``, ``sample``: see ``probes_schema``. ``coordinates`` (for each of the layout's rows, which
    elements of the parameter the row holds) belong to the mean of a sketch.
    """

    rows: StepRows
    source: str
    batch_size: int | None
    sample: int
    coordinates: Sequence[NDArray[np.int64]] | None = None


class ProbeBatch:
    """Samples of one layout, of one step or of several."""

    def __init__(self) -> None:
        self.born = time.monotonic()
        self.nbytes = 0
        self._samples: list[ProbeRows] = []

    def takes(self, sample: ProbeRows, max_bytes: int) -> bool:
        """Whether the sample belongs in this batch."""
        layout = sample.rows.layout
        group_bytes = ROW_GROUP_VALUES * np.dtype(layout.dtype).itemsize * max(len(sample.rows.values), 1)
        return layout is self._samples[0].rows.layout and self.nbytes + self.size(sample) <= min(group_bytes, max_bytes)

    @staticmethod
    def size(sample: ProbeRows) -> int:
        """Bytes that the sample takes in memory."""
        return sample.rows.nbytes + ROW_BYTES

    def add(self, sample: ProbeRows) -> None:
        """Append the sample."""
        self._samples.append(sample)
        self.nbytes += self.size(sample)

    def schema(self, previous: pa.Schema | None) -> pa.Schema:
        """The columns of the part that this batch goes to."""
        return probes_schema(self._samples[0].rows.layout.dtype)

    def tables(self, schema: pa.Schema) -> Iterator[pa.Table]:
        """The rows, as row groups."""
        for start, stop in row_spans([sample.rows for sample in self._samples]):
            yield _probe_table(schema, self._samples, start, stop)


def _probe_table(schema: pa.Schema, samples: Sequence[ProbeRows], start: int, stop: int) -> pa.Table:
    """The rows ``start:stop`` of each sample."""
    layout, n_rows = samples[0].rows.layout, stop - start
    keys = _Keys(samples, n_rows)
    columns = [
        number_array(np.repeat(np.array([sample.rows.step for sample in samples], np.int64), n_rows)),
        dictionary_array(schema.field("name").type, np.tile(layout.codes[start:stop], len(samples)), layout.names),
        number_array(np.tile(layout.offsets[start:stop], len(samples))),
        *keys.columns(schema),
    ]
    for name in ("grad", "update"):
        cuts = [sample.rows.cut(name, start, stop) for sample in samples]
        columns.append(list_column(schema.field(name).type, cuts))
    none = [np.empty(0, np.int64)] * n_rows
    chosen = [each for s in samples for each in (none if s.coordinates is None else s.coordinates[start:stop])]
    null = np.repeat([sample.coordinates is None for sample in samples], n_rows)
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
            keys = _Keys([*samples, _Key("mean", rows.batch_size, 0)])
            lists = [
                list_array(schema.field(name).type, [matrix.ravel()], np.full(n_rows, n_rows), np.zeros(n_rows, bool))
                for name, matrix in zip(("grad_grad", "update_update", "update_grad"), rows.matrices, strict=True)
            ]
            steps = number_array(np.full(n_rows, rows.step, np.int64))
            yield pa.table([steps, *keys.columns(schema), *lists], schema=schema)


@dataclass(frozen=True)
class _Key:
    source: str
    batch_size: int | None
    sample: int


@dataclass(frozen=True)
class _Keys:
    """What tells the samples of a step apart, each ``repeats`` times."""

    samples: Sequence[ProbeRows | _Key]
    repeats: int = 1

    def columns(self, schema: pa.Schema) -> list[pa.Array]:
        """``source``, ``batch_size``, ``sample``."""
        codes = np.array([PROBE_SOURCES.index(sample.source) for sample in self.samples], np.int32)
        sizes = np.array([sample.batch_size or 0 for sample in self.samples], np.int64)
        unknown = np.array([sample.batch_size is None for sample in self.samples])
        numbers = np.array([sample.sample for sample in self.samples], np.int32)
        codes, sizes, unknown, numbers = (np.repeat(each, self.repeats) for each in (codes, sizes, unknown, numbers))
        return [
            dictionary_array(schema.field("source").type, codes, PROBE_SOURCES),
            number_array(sizes, null=unknown),
            number_array(numbers),
        ]
