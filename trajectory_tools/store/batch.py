"""Rows that are written together, as one row group: what the training hands over, and the row groups made from it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trajectory_tools.store.arrow import NUMPY_TYPES, number_array
from trajectory_tools.store.probe_rows import ProbeBatch, ProductBatch
from trajectory_tools.store.rows import RowLayout, StepRows, row_groups
from trajectory_tools.store.schema import ROW_GROUP_VALUES, scalars_schema, tensors_schema
from trajectory_tools.store.stats_rows import StatsBatch
from trajectory_tools.store.table_file import RowGroup

__all__ = ["STEP_ROW_BYTES", "Batch", "ScalarBatch", "ScalarRow", "TensorBatch"]

SCALAR_ROWS = 4096
SCALAR_ROW_BYTES = 512  # about what a row's dict and floats take in memory
STEP_ROW_BYTES = 2048  # about what a step's arrays take in memory beside their values

ScalarRow = Mapping[str, float | int | bool | None]


class TensorBatch:
    """Consecutive steps of one layout."""

    def __init__(self, layout: RowLayout) -> None:
        self.born = time.monotonic()
        self.nbytes = 0
        self._layout = layout
        self._steps: list[StepRows] = []

    def takes(self, rows: StepRows, max_bytes: int) -> bool:
        """Whether the step belongs in this batch."""
        group_bytes = ROW_GROUP_VALUES * np.dtype(rows.layout.dtype).itemsize * max(len(rows.values), 1)
        return self._layout is rows.layout and self.nbytes + self.size(rows) <= min(group_bytes, max_bytes)

    @staticmethod
    def size(rows: StepRows) -> int:
        """Bytes that the step takes in memory."""
        return rows.nbytes + STEP_ROW_BYTES

    def add(self, rows: StepRows) -> None:
        """Append the step."""
        self._steps.append(rows)
        self.nbytes += self.size(rows)

    def schema(self, previous: pa.Schema | None) -> pa.Schema:
        """The columns of the part that this batch goes to; ``previous`` are those of the batch before it."""
        return tensors_schema(self._layout.dtype)

    def row_groups(self, schema: pa.Schema) -> list[Callable[[], RowGroup]]:
        """What makes each row group, on any thread."""
        return row_groups(self._steps)

    def release(self) -> None:
        """Give their memory back: Parquet has them."""
        for step in self._steps:
            if step.release is not None:
                step.release()


class ScalarBatch:
    """Scalars of consecutive steps."""

    def __init__(self) -> None:
        self.born = time.monotonic()
        self.nbytes = 0
        self._rows: list[ScalarRow] = []
        self._names: dict[str, None] = {}

    def takes(self, row: ScalarRow, max_bytes: int) -> bool:
        """Whether the row belongs in this batch."""
        return len(self._rows) < SCALAR_ROWS

    @staticmethod
    def size(row: ScalarRow) -> int:
        """Bytes that the row takes in memory."""
        return SCALAR_ROW_BYTES

    def add(self, row: ScalarRow) -> None:
        """Append the row."""
        self._rows.append(row)
        self._names |= dict.fromkeys(row)
        self.nbytes += SCALAR_ROW_BYTES

    def schema(self, previous: pa.Schema | None) -> pa.Schema:
        """The columns of ``previous``, and one for each name that comes up here for the first time."""
        known = previous if previous is not None else scalars_schema()
        new = [name for name in self._names if name not in known.names]
        return pa.schema([*known, *(pa.field(name, pa.float64()) for name in new)])

    def row_groups(self, schema: pa.Schema) -> list[Callable[[], RowGroup]]:
        """What makes the row group."""
        return [partial(self._row_group, schema)]

    def release(self) -> None:
        """There is no memory to be given back."""

    def _row_group(self, schema: pa.Schema) -> RowGroup:
        """The rows; a name that a row lacks, or that is None there, is null."""
        columns = {}
        for field in schema:
            values = [row.get(field.name) for row in self._rows]
            null = np.array([value is None for value in values])
            numbers: NDArray[Any] = np.array(
                [0 if value is None else value for value in values], NUMPY_TYPES[field.type]
            )
            columns[field.name] = number_array(numbers, null=null)
        return RowGroup(columns)


Batch = TensorBatch | ScalarBatch | StatsBatch | ProbeBatch | ProductBatch
