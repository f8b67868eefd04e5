"""The rows of ``stats`` on their way into Parquet: numbers of pieces of parameters, put together by the writer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trajectory_tools.store.arrow import NUMPY_TYPES, dictionary_array, number_array
from trajectory_tools.store.schema import STATS, stats_schema
from trajectory_tools.store.table_file import RowGroup

__all__ = ["SQUARES", "StatsBatch", "StatsLayout", "StepStats", "joined_stats"]

SQUARES, MIN, MAX, ZEROS, NONFINITE = range(5)
"""The rows of the numbers of pieces: Σx², least and greatest finite value (NaN for none), zeros, NaN and Inf."""

MAX_ROWS = 2**16
OBJECT_BYTES = 600  # about what a step takes in memory beside its numbers


@dataclass(frozen=True, eq=False)
class StatsLayout:
    """What the pieces are pieces of.

    ``owner``: (pieces,), ascending: k · n_parameters + i for a piece of parameter i, where k is 0 for param, 1 for
    update, 2 for grad. ``grads``: (n_parameters,), whose gradient there is.
    """

    names: tuple[str, ...]
    owner: NDArray[np.intp]
    grads: NDArray[np.bool_]

    @cached_property
    def starts(self) -> NDArray[np.intp]:
        """The first piece of each owner that has one (an empty tensor has none)."""
        return np.flatnonzero(np.diff(self.owner, prepend=-1))

    def combined(self, pieces: NDArray[np.float64]) -> NDArray[np.float64]:
        """(steps, 5, pieces) → (steps, 5, 3, n_parameters): the numbers of each kind and parameter."""
        out = np.zeros((len(pieces), 5, 3 * len(self.names)))
        out[:, MIN : MAX + 1] = np.nan
        if len(self.starts):
            at = self.owner[self.starts]
            for rows, join in (
                (slice(SQUARES, SQUARES + 1), np.add),
                (slice(MIN, MIN + 1), np.fmin),
                (slice(MAX, MAX + 1), np.fmax),
                (slice(ZEROS, NONFINITE + 1), np.add),
            ):
                out[:, rows, at] = join.reduceat(pieces[:, rows], self.starts, axis=2)
        return out.reshape(len(pieces), 5, 3, len(self.names))


@dataclass(frozen=True)
class StepStats:
    """One step's numbers: (5, pieces) float64. ``ready`` is called before they are looked at."""

    step: int
    layout: StatsLayout
    pieces: NDArray[np.float64]
    ready: Callable[[], None] | None = None


def joined_stats(step: int, parts: Sequence[StepStats]) -> StepStats:
    """One step's numbers of several sets of parameters (several optimizers), as one."""
    if len(parts) == 1:
        return parts[0]
    layout, order = _joined_layout(tuple(part.layout for part in parts))

    for part in parts:
        if part.ready is not None:
            part.ready()
    return StepStats(step, layout, np.concatenate([part.pieces for part in parts], axis=1)[:, order])


@lru_cache(maxsize=256)
def _joined_layout(layouts: tuple[StatsLayout, ...]) -> tuple[StatsLayout, NDArray[np.intp]]:
    """The layout of all, and the order that brings the pieces of one after the other into it."""
    names = tuple(name for layout in layouts for name in layout.names)
    owners, first = [], 0
    for layout in layouts:
        kind, parameter = np.divmod(layout.owner, max(len(layout.names), 1))
        owners.append(kind * len(names) + parameter + first)
        first += len(layout.names)
    owner = np.concatenate(owners)
    order = np.argsort(owner, kind="stable")
    return StatsLayout(names, owner[order], np.concatenate([layout.grads for layout in layouts])), order


class StatsBatch:
    """Consecutive steps of one layout."""

    def __init__(self, layout: StatsLayout) -> None:
        self.born = time.monotonic()
        self.nbytes = 0
        self._layout = layout
        self._steps: list[StepStats] = []

    def takes(self, stats: StepStats, max_bytes: int) -> bool:
        """Whether the step belongs in this batch."""
        full = (len(self._steps) + 1) * len(self._layout.names) > MAX_ROWS
        return self._layout is stats.layout and not full and self.nbytes + self.size(stats) <= max_bytes

    @staticmethod
    def size(stats: StepStats) -> int:
        """Bytes that the step takes in memory."""
        return stats.pieces.nbytes + OBJECT_BYTES

    def add(self, stats: StepStats) -> None:
        """Append the step."""
        self._steps.append(stats)
        self.nbytes += self.size(stats)

    def schema(self, previous: pa.Schema | None) -> pa.Schema:
        """The columns of ``stats``."""
        return stats_schema()

    def row_groups(self, schema: pa.Schema) -> list[Callable[[], RowGroup]]:
        """What makes the row group."""
        return [partial(self._row_group, schema)]

    def release(self) -> None:
        """There is no memory to be given back."""

    def _row_group(self, schema: pa.Schema) -> RowGroup:
        """The rows, once their numbers have arrived."""
        for step in self._steps:
            if step.ready is not None:
                step.ready()
        layout, n_steps, n = self._layout, len(self._steps), len(self._layout.names)
        with np.errstate(all="ignore"):
            found = layout.combined(np.stack([step.pieces for step in self._steps]))
            found[:, SQUARES] = np.sqrt(found[:, SQUARES])
        steps = np.repeat(np.array([step.step for step in self._steps], np.int64), n)
        codes = np.tile(np.arange(n, dtype=np.int32), n_steps)
        columns = {
            "step": number_array(steps),
            "name": dictionary_array(schema.field("name").type, codes, layout.names),
        }
        for kind, column in enumerate(("param", "update", "grad")):
            absent = np.tile(~layout.grads, n_steps) if column == "grad" else np.zeros(n_steps * n, bool)
            for row, (stat, dtype) in enumerate(STATS.items()):
                values = found[:, row, kind].reshape(-1)
                null = absent | np.isnan(values) if stat in ("min", "max") else absent
                numbers: NDArray[Any] = np.where(null, 0.0, values).astype(NUMPY_TYPES[dtype])
                columns[f"{column}_{stat}"] = number_array(numbers, null=null)
        return RowGroup(columns)
