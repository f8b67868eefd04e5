"""The ``stats`` of a run as arrays: what is known of every step, whatever was recorded of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trajectory_tools.run import Run
from trajectory_tools.store.schema import VALUE_COLUMNS

__all__ = ["StatsTable", "read_stats"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class StatsTable:
    """``steps``: (steps,). ``norm`` and ``nonfinite``: parameter → param, grad, update → (steps,), NaN where null."""

    steps: NDArray[np.int64]
    norm: Mapping[str, Mapping[str, Floats]]
    nonfinite: Mapping[str, Mapping[str, Floats]]


def read_stats(run: Run) -> StatsTable | None:
    """The norms and the counts of values that are not finite; ``None`` for a run without stats."""
    if not run.parts("stats"):
        return None
    wanted = [f"{kind}_{stat}" for stat in ("norm", "nonfinite") for kind in VALUE_COLUMNS]
    table = run.query_arrow(f"SELECT step, CAST(name AS VARCHAR) AS name, {', '.join(wanted)} FROM stats")
    steps, rows = np.unique(table["step"].to_numpy(), return_inverse=True)
    encoded = table["name"].combine_chunks().dictionary_encode()
    codes, names = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
    found = {}
    for column in wanted:
        values = np.full((len(names), len(steps)), np.nan)
        values[codes, rows] = table[column].cast("float64").fill_null(np.nan).to_numpy()
        found[column] = values

    def by_parameter(stat: str) -> dict[str, dict[str, Floats]]:
        return {name: {kind: found[f"{kind}_{stat}"][i] for kind in VALUE_COLUMNS} for i, name in enumerate(names)}

    return StatsTable(steps, by_parameter("norm"), by_parameter("nonfinite"))
