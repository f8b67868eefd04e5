"""Several optimizers as one: the pieces of a step that each of them made."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trajectory_tools.recorder.capture import Captured
from trajectory_tools.store.rows import RowLayout, StepRows
from trajectory_tools.store.stats_rows import StatsLayout, StepStats

__all__ = ["Joint"]


class Joint:
    """Puts together what was captured of consecutive stretches of parameters; ``layout`` is that of all their rows.

    What is still being copied from a GPU is waited for.
    """

    def __init__(self, layout: RowLayout) -> None:
        self._layout = layout
        self._stats: dict[tuple[StatsLayout, ...], tuple[StatsLayout, NDArray[np.intp]]] = {}

    def step(self, step: int, pieces: Sequence[Captured]) -> Captured:
        """One step of all."""
        rows = [piece.rows for piece in pieces if piece.rows is not None]
        stats = [piece.stats for piece in pieces if piece.stats is not None]
        return Captured(
            self._joined_rows(step, rows) if len(rows) == len(pieces) else None,
            self._joined_stats(step, stats) if len(stats) == len(pieces) else None,
        )

    def _joined_rows(self, step: int, pieces: Sequence[StepRows]) -> StepRows:
        for piece in pieces:
            if piece.ready is not None:
                piece.ready()
        columns = dict.fromkeys(column for piece in pieces for column in piece.values)
        nothing, dtype = np.empty(0, self._layout.dtype), np.dtype(self._layout.dtype)
        values = {
            column: np.concatenate([piece.values.get(column, nothing) for piece in pieces]).astype(dtype, copy=False)
            for column in columns
        }
        present = {
            column: np.concatenate([_present(piece, column) for piece in pieces])
            for column in columns
            if any(column in piece.present or column not in piece.values for piece in pieces)
        }
        for piece in pieces:
            if piece.release is not None:
                piece.release()
        return StepRows(step, self._layout, values, present)

    def _joined_stats(self, step: int, stats: Sequence[StepStats]) -> StepStats:
        for each in stats:
            if each.ready is not None:
                each.ready()
        key = tuple(each.layout for each in stats)
        if key not in self._stats:
            self._stats[key] = _joined_layout(key)
        layout, order = self._stats[key]
        return StepStats(step, layout, np.concatenate([each.pieces for each in stats], axis=1)[:, order])


def _joined_layout(layouts: Sequence[StatsLayout]) -> tuple[StatsLayout, NDArray[np.intp]]:
    """The layout of all, and the order in which its pieces stand among those of the single ones."""
    names = [name for layout in layouts for name in layout.names]
    owners, before = [], 0
    for layout in layouts:
        kind, parameter = np.divmod(layout.owner, max(len(layout.names), 1))
        owners.append(kind * len(names) + before + parameter)
        before += len(layout.names)
    owner = np.concatenate(owners)
    order = np.argsort(owner, kind="stable")
    return StatsLayout(tuple(names), owner[order], np.concatenate([layout.grads for layout in layouts])), order


def _present(piece: StepRows, column: str) -> NDArray[np.bool_]:
    n = len(piece.layout.names)
    return piece.present.get(column, np.full(n, column in piece.values))
