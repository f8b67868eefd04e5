"""Several optimizers as one: the pieces of a step that each of them made."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trajectory_tools.store.rows import RowLayout, StepRows

__all__ = ["joined"]


def joined(step: int, layout: RowLayout, pieces: Sequence[StepRows]) -> StepRows:
    """One step's rows from those of consecutive stretches of the layout's parameters.

    What is still being copied from a GPU is waited for.
    """
    for piece in pieces:
        if piece.ready is not None:
            piece.ready()
    columns = dict.fromkeys(column for piece in pieces for column in piece.values)
    nothing = np.empty(0, layout.dtype)
    values = {
        column: np.concatenate([piece.values.get(column, nothing) for piece in pieces]).astype(layout.dtype, copy=False)
        for column in columns
    }
    present = {
        column: np.concatenate([_present(piece, column) for piece in pieces])
        for column in columns
        if any(column in piece.present or column not in piece.values for piece in pieces)
    }
    return StepRows(step, layout, values, present)


def _present(piece: StepRows, column: str) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    n = len(piece.layout.names)
    return piece.present.get(column, np.full(n, column in piece.values))
