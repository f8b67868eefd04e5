"""Tidy frames of what was probed: a number holds for one batch size, and says where there is none and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from trajectory_tools.errors import MissingData
from trajectory_tools.run import Run

__all__ = ["ProbeRow", "probe_frame", "require_probes"]


@dataclass(frozen=True)
class ProbeRow:
    """One number of one probed step; ``batch_size`` is 0 where it is not known, ``note`` says why a number is NaN."""

    step: int
    kind: str
    quantity: str
    batch_size: int
    value: float
    low: float = np.nan
    high: float = np.nan
    n: int = 0
    note: str = ""


def probe_frame(rows: Iterable[ProbeRow]) -> pd.DataFrame:
    """step, kind, quantity (categorical), batch_size, value, low, high, n, note (categorical), in the rows' order.

    ``MissingData`` with the notes where not one number is known.
    """
    frame = pd.DataFrame(
        list(rows), columns=["step", "kind", "quantity", "batch_size", "value", "low", "high", "n", "note"]
    )
    if not np.isfinite(frame["value"]).any():
        reasons = [note for note in dict.fromkeys(frame["note"]) if note]
        raise MissingData("; ".join(reasons) or "no probe holds any sample")
    types = {
        "step": "int64",
        "batch_size": "int64",
        "value": "float64",
        "low": "float64",
        "high": "float64",
        "n": "int64",
    }
    frame = frame.astype(types)
    for name in ("kind", "quantity", "note"):
        frame[name] = pd.Categorical(frame[name], categories=list(dict.fromkeys(frame[name])))
    return frame


def require_probes(run: Run) -> None:
    """``MissingData`` where the run's noise was never probed."""
    if not run.parts("probes"):
        raise MissingData(
            "its noise was not probed; call rec.probe(loss_fn, batches) in your loop, or record a built-in problem with"
            " --probe-every 20"
        )
