"""One number of a run, read from a metric's tidy frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pandas as pd

from trajectory_tools.errors import MissingData
from trajectory_tools.metrics.histogram import WHOLE

__all__ = ["Reading"]


@dataclass(frozen=True)
class Reading:
    """A metric's quantity over some iterations: its mean, or its greatest value.

    Iterations are counted from 1, as papers do: iteration i is the recorded step i − 1, and the last of a run of n
    steps is iteration n. Those between ``first`` and ``last`` (both included) count that were recorded.

    Args:
        metric: the metric's name, and ``quantity`` one of its quantities.
        first, last: the iterations.
        kind: ``update`` or ``grad``, where the metric tells them apart.
        symmetry: the kind of symmetry group, where the metric has groups; the problem has one of that kind.
        take: the mean, or the greatest value, over these iterations.
    """

    metric: str
    quantity: str
    first: int
    last: int
    kind: str = ""
    symmetry: str = ""
    take: Literal["mean", "max"] = "mean"

    def of(self, frame: pd.DataFrame) -> pd.Series[float]:
        """The number of each run in the metric's frame, by (label, seed); NaN where one of its values is NaN.

        Raises ``MissingData`` where no run has a value in these iterations.
        """
        rows = frame[(frame["quantity"] == self.quantity) & frame["step"].between(self.first - 1, self.last - 1)]
        if self.kind:
            rows = rows[rows["kind"] == self.kind]
        if self.symmetry:
            rows = rows[rows["group"].astype(str).str.startswith(f"{self.symmetry} ")]
        if "parameter" in rows:
            rows = rows[rows["parameter"] == WHOLE]
        if rows.empty:
            raise MissingData(f"no {self} in these runs; record them again with --force")
        values = rows.groupby([rows["label"].astype(str), rows["seed"].astype(int)])["value"]
        return values.agg(lambda v: v.mean(skipna=False) if self.take == "mean" else v.max(skipna=False))

    def __str__(self) -> str:
        of = " ".join(word for word in (self.symmetry, self.quantity) if word) + (
            f" of the {self.kind}" if self.kind else ""
        )
        if self.first == self.last:
            return f"{of}, iteration {self.first}"
        return f"{of}, {'mean' if self.take == 'mean' else 'greatest'} of iterations {self.first}-{self.last}"
