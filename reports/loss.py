"""Figures of the loss and of whatever else was logged."""

from __future__ import annotations

import pandas as pd

from trajectory_tools.reports.curves import Panel, make_curves
from trajectory_tools.reports.figure import Figure, FigureMaker
from trajectory_tools.reports.words import one_line, plus_minus, several

__all__ = ["ABOUT", "FIGURES", "final_values"]

ABOUT = "What was logged at every step: the training loss, and the learning rate and other scalars where they change."

MAX_PANELS = 9
FINAL_STEPS = 10


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
        shows="The loss of the mini-batch that each step was made from, and the other scalars that were logged.",
        how_to_read="Lower is better; a band that widens says that the seeds part ways. The loss of one mini-batch is"
        " noisy: differences smaller than the jitter of a curve mean nothing. The line is the mean of the runs, also on"
        " a logarithmic axis; there the band ends at the lowest run where mean − standard deviation is lower still. A"
        " learning rate that stays the same is left out.",
        formula="L(θₜ) on the mini-batch of step t, before the step",
        data=curves.data,
        paint=curves.paint,
        finding=_finding(frame),
        notes=notes,
    )


FIGURES: dict[str, FigureMaker] = {"Training loss": training_loss}


def final_values(frame: pd.DataFrame, quantity: str = "loss") -> pd.Series[float]:
    """(label, run) → mean over the run's last ten logged steps; NaN where one of them is NaN."""
    part = frame[frame["quantity"] == quantity].sort_values("step")
    last = part.groupby(["label", "run"], observed=True).tail(FINAL_STEPS)
    return last.groupby(["label", "run"], observed=True)["value"].agg(lambda values: values.mean(skipna=False))


def _finding(frame: pd.DataFrame) -> str:
    final = final_values(frame)
    if final.empty:
        return "No loss was logged: call rec.log(loss=loss) in the loop."
    by_label = final.groupby(level="label", observed=True)
    ranked = by_label.mean().dropna().sort_values()
    steps = min(FINAL_STEPS, frame["step"].nunique())
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
