"""The figure of a metric that has none of its own, such as another package's: every quantity against the step."""

from __future__ import annotations

import pandas as pd

from trajectory_tools.errors import MissingData
from trajectory_tools.reports.curves import Panel, make_curves
from trajectory_tools.reports.figure import Figure, FigureMaker

__all__ = ["ABOUT", "FIGURES"]

ABOUT = "A metric that brings no figures of its own."

MAX_PANELS = 9


def quantities(frame: pd.DataFrame) -> Figure:
    """One panel for each combination of the metric's key columns."""
    if not {"step", "value"} <= set(frame.columns):
        raise MissingData(f"no figure is known for a frame with the columns {', '.join(frame.columns)}")
    keys = [
        name
        for name in frame.columns
        if isinstance(frame[name].dtype, pd.CategoricalDtype) and name not in ("run", "label", "seed")
    ]
    parts = (
        [(" ".join(map(str, key)), part) for key, part in frame.groupby(keys, observed=True, sort=False)]
        if keys
        else [("value", frame)]
    )
    curves = make_curves(Panel(name, part, "value", "auto") for name, part in parts[:MAX_PANELS])
    left_out = (f"The first {MAX_PANELS} of {len(parts)} quantities are shown.",) if len(parts) > MAX_PANELS else ()
    return Figure(
        title="All quantities against the step",
        shows="Each of the metric's quantities against the step.",
        how_to_read="The metric's own documentation says what its quantities mean.",
        formula="see the metric's documentation",
        data=curves.data,
        paint=curves.paint,
        notes=(*curves.notes, *left_out),
    )


FIGURES: dict[str, FigureMaker] = {"All quantities against the step": quantities}
