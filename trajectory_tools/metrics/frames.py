"""Tidy frames: one row per number, with what it is a number of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

__all__ = ["Series", "tidy"]


@dataclass(frozen=True)
class Series:
    """One quantity over the steps. ``value``, ``low``, ``high`` and ``n`` have the steps' length, or are one number.

    ``keys`` are the columns that tell this quantity from others: parameter or group, kind, quantity.
    """

    keys: dict[str, str]
    steps: NDArray[np.int64]
    value: ArrayLike
    low: ArrayLike = np.nan
    high: ArrayLike = np.nan
    n: ArrayLike = 1
    unit: ArrayLike = field(default=-1)
    """For a quantity of single units: which one."""


def tidy(series: Sequence[Series], keys: Sequence[str], *, units: bool = False) -> pd.DataFrame:
    """The series as rows: step, the key columns (categorical), [unit], value, low, high (float64), n (int64)."""
    lengths = [len(one.steps) for one in series]

    def column(name: str, dtype: type) -> NDArray[Any]:
        cells: list[NDArray[Any]] = [np.asarray(getattr(one, name), dtype) for one in series]
        spread = [np.broadcast_to(cell, length) for cell, length in zip(cells, lengths, strict=True)]
        return np.concatenate([np.empty(0, dtype), *spread])

    frame: dict[str, Any] = {"step": column("steps", np.int64)}
    for key in keys:
        categories = list(dict.fromkeys(one.keys[key] for one in series))
        codes = np.repeat([categories.index(one.keys[key]) for one in series], lengths).astype(np.int32)
        frame[key] = pd.Categorical.from_codes(codes, categories)
    if units:
        frame["unit"] = column("unit", np.int64)
    for name in ("value", "low", "high"):
        frame[name] = column(name, np.float64)
    frame["n"] = column("n", np.int64)
    return pd.DataFrame(frame)
