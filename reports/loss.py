"""Figures of the loss and of whatever else was logged."""

from __future__ import annotations

import pandas as pd

from trajectory_tools.metrics.summary import LAST_STEPS, final_values
from trajectory_tools.reports.curves import ARITHMETIC_BAND, Panel, make_curves
from trajectory_tools.reports.figure import Figure, FigureMaker
from trajectory_tools.reports.words import one_line, plus_minus, several

__all__ = ["ABOUT", "FIGURES"]

ABOUT = "What was logged at every step: the training loss, and the learning rate and other scalars where they change."

MAX_PANELS = 9


def training_loss(frame: pd.DataFrame) -> Figure:
    """The loss of each mini-batch, and the other logged scalars that change."""
    names = [name for name in frame["quantity"].unique() if name == "loss" or not _is_constant(frame, name)]
    names.sort(key=lambda name: name != "loss")
    curves = make_curves(
        Panel(name, frame[frame["quantity"] == name], name if name != "lr" else "learning rate", "auto", "arithmetic")
        for name in names[:MAX_PANELS]
    )
    notes = curves.notes
    if len(names) > MAX_PANELS:
        notes = (*notes, f"The first {MAX_PANELS} of {len(names)} logged scalars are shown.")
    return Figure(
        title="Training loss",
        shows="The loss of the mini-batch that each step was made from, or what was logged as the loss (a Trainer of"
        " Transformers logs its mean since it last did), and the other scalars that were logged.",
        how_to_read="Lower is better; a band that widens says that the seeds part ways. The loss of one mini-batch is"
        f" noisy: differences smaller than the jitter of a curve mean nothing. {ARITHMETIC_BAND} A learning rate that"
        " stays the same is left out.",
        formula="L(θₜ) on the mini-batch of step t, before the step",
        data=curves.data,
        paint=curves.paint,
        finding=_finding(frame),
        notes=notes,
    )


FIGURES: dict[str, FigureMaker] = {"Training loss": training_loss}


def _finding(frame: pd.DataFrame) -> str:
    final = final_values(frame)
    if final.empty:
        return "No loss was logged: call rec.log(loss=loss) in the loop."
    by_label = final.groupby(level="label", observed=True)
    ranked = by_label.mean().dropna().sort_values()
    steps = min(LAST_STEPS, frame["step"].nunique())
    over = f"over the last {steps} steps" if steps > 1 else "at the only step"
    if ranked.empty:
        return f"No run ends with a finite loss ({several(len(final), 'run')})."
    best, worst = ranked.index[0], ranked.index[-1]
    lowest, highest = (plus_minus(by_label.get_group(label)) for label in (best, worst))
    if best == worst:
        return f"{one_line(best)} has a loss of {lowest} {over}."
    return f"{one_line(best)} ends lowest, with a loss of {lowest} {over}; {one_line(worst)} highest, with {highest}."


def _is_constant(frame: pd.DataFrame, name: str) -> bool:
    """Whether each run keeps one value throughout."""
    values = frame[frame["quantity"] == name].groupby("run", observed=True)["value"]
    return name.startswith("lr") and bool((values.nunique(dropna=False) <= 1).all())
