"""Reading tensors back as arrays: whole steps at a time, in memory that does not grow with the run."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from trajectory_tools.errors import DamagedPart
from trajectory_tools.store.parts import ADVICE, Part, first_line
from trajectory_tools.store.schema import ROW_GROUP_VALUES, VALUE_COLUMNS

__all__ = ["CHUNK_VALUES", "Chunk", "any_in", "read_chunks", "select_rows", "whole_steps"]

CHUNK_VALUES = ROW_GROUP_VALUES
"""About how many values of one column are in memory at a time; one step at the least."""

KEYS = ["step", "name", "offset"]

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Chunk:
    """Consecutive recorded steps with the same parameters present.

    ``steps``: (n,) int64. ``param``, ``grad``, ``update``: parameter → (n, *shape), float32 or float64; a parameter
    that was not recorded, or whose gradient was None at these steps, is missing from the mapping. ``scalars``: column →
    (n,), for metrics that read scalars in place of tensors.
    """

    steps: NDArray[np.int64]
    param: Mapping[str, NDArray[np.floating]] = field(default_factory=dict)
    grad: Mapping[str, NDArray[np.floating]] = field(default_factory=dict)
    update: Mapping[str, NDArray[np.floating]] = field(default_factory=dict)
    scalars: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.steps)

    def float64(self) -> Chunk:
        """The same chunk with every tensor as float64, so that sums over many elements are exact enough."""
        param, grad, update = (
            {name: values.astype(np.float64) for name, values in self.values(column).items()}
            for column in VALUE_COLUMNS
        )
        return Chunk(self.steps, param, grad, update, self.scalars)

    def values(self, column: str) -> Mapping[str, NDArray[np.floating]]:
        """The mapping of that column: ``param``, ``grad`` or ``update``."""
        return {"param": self.param, "grad": self.grad, "update": self.update}[column]


def read_chunks(
    folder: Path,
    run_id: str,
    parts: Sequence[Part],
    shapes: Shapes,
    *,
    columns: Collection[str] = VALUE_COLUMNS,
    steps: NDArray[np.int64] | None = None,
    before: Mapping[int, int] | None = None,
) -> Iterator[Chunk]:
    """The recorded steps in order, as chunks.

    ``steps`` keeps only these (sorted); parts and row groups without any of them are not read. ``before[session]`` is
    the step from which on a session was superseded by a later one.
    """
    for part in parts:
        end = (before or {}).get(part.id.session)
        if (end is not None and part.first_step >= end) or not any_in(steps, part.first_step, part.last_step):
            continue
        file = part.open(folder, run_id)
        try:
            for first, last, groups in whole_steps(file.metadata):
                if (end is None or first < end) and any_in(steps, first, last):
                    table = file.read_row_groups(groups, columns=[*KEYS, *columns])
                    yield from _chunks(select_rows(table, steps, end), columns, shapes)
        except (OSError, pa.ArrowException) as error:
            raise DamagedPart(f"{folder / part.file} cannot be read ({first_line(error)}); {ADVICE}") from error


def any_in(steps: NDArray[np.int64] | None, first: int, last: int) -> bool:
    """Whether one of the steps (sorted; None: all) lies between these two."""
    return steps is None or bool(np.searchsorted(steps, first) < np.searchsorted(steps, last, side="right"))


def whole_steps(metadata: pq.FileMetaData) -> Iterator[tuple[int, int, list[int]]]:
    """(first step, last step, row groups) of consecutive row groups that hold whole steps, about a chunk at a time."""
    groups: list[int] = []
    first = last = values = 0
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        span = group.column(0).statistics  # the first column is ``step``
        size = max(group.column(i).num_values for i in range(len(KEYS), group.num_columns))
        if groups and span.min > last and values + size > CHUNK_VALUES:
            yield first, last, groups
            groups, values = [], 0
        first = first if groups else span.min
        last = span.max
        groups.append(index)
        values += size
    if groups:
        yield first, last, groups


def select_rows(table: pa.Table, steps: NDArray[np.int64] | None, end: int | None) -> pa.Table:
    """The rows of these steps, as far as they come before ``end``."""
    found = table.column("step").to_numpy()
    keep = np.ones(len(found), bool) if steps is None else np.isin(found, steps)
    if end is not None:
        keep &= found < end
    return table if keep.all() else table.filter(pa.array(keep))


def _chunks(table: pa.Table, columns: Collection[str], shapes: Shapes) -> Iterator[Chunk]:
    """Cut rows into runs of steps that have the same rows, so that each run is a dense array."""
    if not table.num_rows:
        return
    table = table.unify_dictionaries().combine_chunks()
    step = table.column("step").to_numpy()
    names = table.column("name").chunk(0)
    if len(names.dictionary) <= names.indices.to_numpy().max():  # not every pyarrow checks a dictionary
        raise DamagedPart(f"a row's name is none of those that its part lists; {ADVICE}")
    keys = np.stack(
        [
            names.indices.to_numpy(),
            table.column("offset").to_numpy(),
            *(np.asarray(table.column(c).is_null()) for c in columns),
        ],
        axis=1,
    )
    starts = np.flatnonzero(np.diff(step, prepend=step[0] - 1))
    ends = np.append(starts[1:], len(step))
    dictionary = names.dictionary.to_pylist()
    for low, high in _runs(keys, starts, ends):
        rows = table.slice(starts[low], ends[high - 1] - starts[low])
        layout = keys[starts[low] : ends[low]]
        row_names = [dictionary[code] for code in layout[:, 0]]
        arrays = {
            column: _arrays(rows.column(column), row_names, layout[:, len(KEYS) - 1 + i] != 0, shapes, high - low)
            for i, column in enumerate(columns)
        }
        param, grad, update = (arrays.get(column, {}) for column in VALUE_COLUMNS)
        yield Chunk(step[starts[low:high]], param, grad, update)


def _runs(keys: NDArray[np.int64], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Spans (low, high) of steps whose rows have equal keys."""
    sizes = ends - starts
    if (sizes == sizes[0]).all():
        by_step = keys.reshape(len(starts), sizes[0], -1)
        differs = (by_step[1:] != by_step[:-1]).any(axis=(1, 2))
    else:
        pairs = [(keys[a:b], keys[b:c]) for a, b, c in zip(starts[:-1], ends[:-1], ends[1:], strict=True)]
        differs = np.array([not np.array_equal(left, right) for left, right in pairs])
    cuts = [0, *(np.flatnonzero(differs) + 1).tolist(), len(starts)]
    yield from pairwise(cuts)


def _arrays(
    column: pa.ChunkedArray, names: Sequence[str], null: NDArray[np.bool_], shapes: Shapes, n_steps: int
) -> dict[str, NDArray[np.floating]]:
    """Parameter → (n_steps, *shape), views of the column's values."""
    values = column.combine_chunks().flatten().to_numpy()
    present = list(dict.fromkeys(name for name, missing in zip(names, null, strict=True) if not missing))
    unknown = [name for name in present if name not in shapes]
    width = sum(int(np.prod(shapes[name])) for name in present if name in shapes)
    if unknown or values.size != n_steps * width:
        raise DamagedPart(
            f"rows of {', '.join(unknown or present)} do not fit the parameters that run.json lists; {ADVICE}"
        )
    by_step = values.reshape(n_steps, width)
    arrays = {}
    start = 0
    for name in present:
        stop = start + int(np.prod(shapes[name]))
        arrays[name] = by_step[:, start:stop].reshape(n_steps, *shapes[name])
        start = stop
    return arrays
