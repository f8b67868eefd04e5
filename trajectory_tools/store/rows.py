"""The rows of ``tensors`` on their way into Parquet: values of whole steps, laid out once, used at every step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trajectory_tools.store.arrow import dictionary_array, number_array
from trajectory_tools.store.list_column import Cut, ListColumn
from trajectory_tools.store.schema import MAX_ROW_VALUES, ROW_GROUP_VALUES, VALUE_COLUMNS, tensors_schema
from trajectory_tools.store.table_file import RowGroup

__all__ = ["Floats", "RowLayout", "StepRows", "row_groups", "row_spans"]

Floats = NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True)
class RowLayout:
    """How one step's parameters stand in rows: which parameter, from which element on, how many elements."""

    names: tuple[str, ...]
    codes: NDArray[np.int32]
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    dtype: str

    @cached_property
    def all_there(self) -> NDArray[np.bool_]:
        """The mask of null rows where there is none."""
        return np.zeros(len(self), bool)

    @classmethod
    def of(cls, numels: Mapping[str, int], dtype: str = "float32") -> RowLayout:
        """Rows for parameters of these sizes, in order; a large one is split into rows of ``MAX_ROW_VALUES``."""
        rows = [
            (code, offset, min(MAX_ROW_VALUES, numel - offset))
            for code, numel in enumerate(numels.values())
            for offset in range(0, max(numel, 1), MAX_ROW_VALUES)
        ]
        codes, offsets, lengths = (np.array(column) for column in zip(*rows, strict=True)) if rows else ([], [], [])
        return cls(
            tuple(numels),
            np.asarray(codes, np.int32),
            np.asarray(offsets, np.int64),
            np.asarray(lengths, np.int64),
            dtype,
        )

    def __len__(self) -> int:
        return len(self.codes)


@dataclass(frozen=True)
class StepRows:
    """One step: each recorded column's values, concatenated in the layout's order.

    ``present[column]`` is a mask over the layout's parameters: the values of an absent one are not in the array and its
    rows become null. A column that is missing from ``values`` is null in every row. ``ready`` is called by the writer
    before it looks at the values (a copy from a GPU may still be under way), ``release`` when it needs them no more.
    ``held`` is the size of the memory that they are a part of, where that is more.
    """

    step: int
    layout: RowLayout
    values: Mapping[str, Floats]
    present: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    ready: Callable[[], None] | None = None
    release: Callable[[], None] | None = None
    held: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes that wait in memory until the row is written."""
        return max(self.held, sum(values.nbytes for values in self.values.values()))

    def cut(self, column: str, start: int, stop: int) -> Cut:
        """The column's values in the layout's rows ``start:stop``."""
        if column in self.values and column not in self.present and stop - start == len(self.layout):
            return Cut(self.values[column], self.layout.lengths, self.layout.all_there)
        recorded = column in self.values
        null = np.full(len(self.layout), not recorded)
        if recorded and column in self.present:
            null = ~self.present[column][self.layout.codes]
        lengths = np.where(null, 0, self.layout.lengths)
        begin = int(lengths[:start].sum())
        lengths, null = lengths[start:stop], null[start:stop]
        values = self.values[column] if recorded else np.empty(0, self.layout.dtype)
        return Cut(values[begin : begin + int(lengths.sum())], lengths, null)


def row_groups(steps: Sequence[StepRows]) -> list[Callable[[], RowGroup]]:
    """Whole steps, for consecutive steps of one layout; one step that is larger than a row group is cut."""
    return [partial(_row_group, steps, start, stop) for start, stop in row_spans(steps[0].layout, len(steps))]


def row_spans(layout: RowLayout, n_steps: int) -> Iterator[tuple[int, int]]:
    """The layout's rows (start, stop) that each of the row groups of so many steps takes."""
    ends = np.cumsum(layout.lengths)
    start = 0
    while start < len(layout):
        limit = (ends[start - 1] if start else 0) + ROW_GROUP_VALUES
        whole = n_steps > 1 or ends[-1] <= limit
        stop = len(layout) if whole else max(start + 1, int(np.searchsorted(ends, limit, side="right")))
        yield start, stop
        start = stop


def _row_group(steps: Sequence[StepRows], start: int, stop: int) -> RowGroup:
    """The rows ``start:stop`` of each step, once their values have arrived."""
    for rows in steps:
        if rows.ready is not None:
            rows.ready()
    layout = steps[0].layout
    schema = tensors_schema(layout.dtype)
    keys = {
        "step": number_array(np.repeat(np.array([rows.step for rows in steps], np.int64), stop - start)),
        "name": dictionary_array(
            schema.field("name").type, np.tile(layout.codes[start:stop], len(steps)), layout.names
        ),
        "offset": number_array(np.tile(layout.offsets[start:stop], len(steps))),
    }
    value_type = pa.type_for_alias(layout.dtype)
    lists = {
        name: ListColumn(value_type, [rows.cut(name, start, stop) for rows in steps], steps=True)
        for name in VALUE_COLUMNS
    }
    return RowGroup(keys, lists)
