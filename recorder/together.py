"""Several optimizers as one: the pieces of a step that each of them made."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trajectory_tools.recorder.capture import Captured
from trajectory_tools.store.rows import RowLayout, StepRows
from trajectory_tools.store.stats_rows import joined_stats

__all__ = ["joined"]


def joined(step: int, layout: RowLayout, pieces: Sequence[Captured]) -> Captured:
    """One step, from what was captured of consecutive stretches of the layout's parameters.

    What is still being copied from a GPU is waited for.
    """
    rows = [piece.rows for piece in pieces if piece.rows is not None]
    stats = [piece.stats for piece in pieces if piece.stats is not None]
    return Captured(
        _joined_rows(step, layout, rows) if len(rows) == len(pieces) else None,
        joined_stats(step, stats) if len(stats) == len(pieces) else None,
    )


def _joined_rows(step: int, layout: RowLayout, pieces: Sequence[StepRows]) -> StepRows:
    for piece in pieces:
        if piece.ready is not None:
            piece.ready()
    columns = dict.fromkeys(column for piece in pieces for column in piece.values)
    nothing, dtype = np.empty(0, layout.dtype), np.dtype(layout.dtype)
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
    return StepRows(step, layout, values, present)


def _present(piece: StepRows, column: str) -> NDArray[np.bool_]:
    n = len(piece.layout.names)
    return piece.present.get(column, np.full(n, column in piece.values))
