"""Whether tails are heavier or lighter than those of Gaussian noise of the same covariance, run by run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from trajectory_tools.estimators.null import PART

__all__ = ["Verdict", "beside_null", "verdicts"]

CERTAINTY = 0.95


@dataclass(frozen=True)
class Verdict:
    """What an estimator's α at the probed steps of a label's runs says beside its null.

    ``alpha``, ``null``: the means over steps and runs of the estimate and of its null's median. ``outside``: at how
    many of ``probes`` probes the estimate lies outside of the null's 5 to 95 %. ``said``: "indistinguishable from"
    where so many would lie outside for Gaussian noise too (with 95 % certainty, each of them with a probability of 10
    %), else "heavier than" or "lighter than", by the side on which more of them lie, the tails "of Gaussian noise of
    the same covariance".
    """

    alpha: float
    null: float
    outside: int
    probes: int
    said: str

    @property
    def distinguishable(self) -> bool:
        """Whether the tails are not those of Gaussian noise."""
        return self.said != "indistinguishable from"

    @property
    def explained(self) -> float:
        """The part of the distance from 2 that Gaussian noise of the same covariance has as well."""
        return (2 - self.null) / (2 - self.alpha) if self.alpha < 2 else np.nan


def beside_null(frame: pd.DataFrame, quantity: str, *, second: str = "null") -> pd.DataFrame:
    """The estimates with their null: a row for each run, step, kind and batch size.

    Columns: run, label, step, kind, batch_size, value, low, high, null, null_low, null_high (NaN where there is none).
    """
    keys = ["run", "label", "step", "kind", "batch_size"]
    found = frame[frame["quantity"] == quantity][[*keys, "value", "low", "high"]]
    null = frame[frame["quantity"] == f"{quantity}_{second}"][[*keys, "value", "low", "high"]]
    null = null.rename(columns={"value": "null", "low": "null_low", "high": "null_high"})
    return found.merge(null, on=keys, how="left")


def verdicts(
    frame: pd.DataFrame, quantity: str = "pooled_block", *, keys: Sequence[str] = ("label", "kind", "batch_size")
) -> dict[tuple[object, ...], Verdict]:
    """The keys' values → their verdict, where both estimates and nulls are known."""
    from scipy.stats import binom

    table = beside_null(frame, quantity)
    table = table[np.isfinite(table["value"]) & np.isfinite(table["null_low"])]
    found = {}
    for key, part in table.groupby(list(keys), observed=True, sort=False):
        below = int((part["value"] < part["null_low"]).sum())
        above = int((part["value"] > part["null_high"]).sum())
        usual = int(binom.ppf(CERTAINTY, len(part), 1 - PART))
        said = "indistinguishable from"
        if below + above > usual:
            said = "heavier than" if below >= above else "lighter than"
        found[key] = Verdict(float(part["value"].mean()), float(part["null"].mean()), below + above, len(part), said)
    return found
