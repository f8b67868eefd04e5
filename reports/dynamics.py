"""Figures of how the parameters move."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pandas as pd

from trajectory_tools.errors import MissingData
from trajectory_tools.metrics.histogram import WHOLE
from trajectory_tools.metrics.summary import distances, final_distances
from trajectory_tools.reports.axes import add_legend, grid_of_axes, log_axis, step_axis
from trajectory_tools.reports.curves import ARITHMETIC_BAND, Panel, averaged, draw_curve, make_curves, thinned
from trajectory_tools.reports.figure import Figure, FigureMaker, rounded
from trajectory_tools.reports.style import MUTED, RunStyle
from trajectory_tools.reports.words import listed, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

__all__ = ["ABOUT", "FIGURES"]

ABOUT = "How large the steps are, which way they point, and how far they lead; of the whole network."


def sizes(frame: pd.DataFrame) -> Figure:
    """‖u‖, ‖u‖/‖θ‖ and ‖g‖."""
    curves = make_curves(
        [
            Panel("update norm", _of(frame, "update", "norm"), "‖u‖", "log", "arithmetic"),
            Panel(
                "ratio", _of(frame, "update", "ratio"), "‖u‖ / ‖θ‖", "log", "arithmetic", title="update-to-weight ratio"
            ),
            Panel("gradient norm", _of(frame, "grad", "norm"), "‖g‖", "log", "arithmetic"),
        ]
    )
    return Figure(
        title="Size of the updates",
        shows="How long each step is, how long beside the weights that it changes, and how long the gradient was.",
        how_to_read="A ratio near 10⁻³ changes the weights slowly, near 1 it replaces them. Lion's steps keep their"
        f" length, as each element moves by the learning rate; SGD's shrink with the gradient. {ARITHMETIC_BAND}",
        formula="‖uₜ‖₂, ‖uₜ‖₂ / ‖θₜ‖₂ and ‖gₜ‖₂ over all parameters",
        data=curves.data,
        paint=curves.paint,
        finding=_by_label(_of(frame, "update", "ratio"), "Median update-to-weight ratio:"),
        notes=curves.notes,
    )


def directions(frame: pd.DataFrame) -> Figure:
    """Cosines with the previous update and with the negative gradient."""
    limits = (-1.05, 1.05)
    curves = make_curves(
        [
            Panel(
                "previous",
                _of(frame, "update", "cos_previous"),
                "cos(uₜ, uₜ₋₁)",
                limits=limits,
                title="with the step before",
            ),
            Panel(
                "descent",
                _of(frame, "update", "cos_descent"),
                "cos(uₜ, −gₜ)",
                limits=limits,
                title="with steepest descent",
            ),
        ]
    )
    return Figure(
        title="Direction of the updates",
        shows="The cosine between successive updates, and between the update and the negative gradient.",
        how_to_read="With the step before: 1 goes straight on, 0 turns by a right angle, −1 goes back. With steepest"
        " descent: 1 for plain SGD, less where an optimizer leaves the gradient's direction, below 0 where it steps"
        " uphill for this mini-batch.",
        formula="cos(a, b) = ⟨a, b⟩ / (‖a‖ ‖b‖) over all parameters",
        data=curves.data,
        paint=curves.paint,
        finding=_by_label(_of(frame, "update", "cos_descent"), "Median cosine with steepest descent:")
        or _by_label(_of(frame, "update", "cos_previous"), "Median cosine with the step before:"),
        notes=curves.notes,
    )


def path(frame: pd.DataFrame) -> Figure:
    """Displacement against path length."""
    wide = distances(frame)
    if wide.empty:
        raise MissingData("the path length needs the updates of every step from the first recorded one on, and param")
    straightness = make_curves(
        [
            Panel(
                "straightness",
                wide.assign(value=wide["displacement"] / wide["path_length"]),
                "displacement / path",
                limits=(0, 1.05),
            )
        ]
    )
    log = bool((wide[["path_length", "displacement"]] > 0).all(axis=None))
    lengths = []
    for quantity in ("path_length", "displacement"):
        data, _ = thinned(wide.assign(value=wide[quantity]), log=log)
        lengths.append(averaged(data, log=log).set_index(["label", "step"])["value"].rename(quantity))
    data = straightness.data.drop(columns="panel").merge(
        rounded(pd.concat(lengths, axis=1).reset_index()), on=["label", "step"]
    )
    data = data.rename(columns={"value": "straightness"})
    ends = final_distances(frame)
    ratio = (ends["displacement"] / ends["path_length"]).groupby(level="label", observed=True).mean()
    said = listed({label: number(value, 2) for label, value in ratio.dropna().items()})
    return Figure(
        title="Path length against displacement",
        shows="How far the parameters are from where they began, beside how long the way was.",
        how_to_read="On the dashed diagonal a run goes straight; further below it a run turns, circles or shakes."
        " Left: means over the runs of a label. Right: the quotient against the step.",
        formula="path length Σ ‖uₛ‖ over s ≤ t, displacement ‖θₜ₊₁ − θ_first‖",
        data=data,
        paint=partial(_paint_path, log),
        finding=f"Displacement as a part of the path, at the end: {said}." if said else "",
        notes=straightness.notes,
    )


FIGURES: dict[str, FigureMaker] = {
    "Size of the updates": sizes,
    "Direction of the updates": directions,
    "Path length against displacement": path,
}


def _of(frame: pd.DataFrame, kind: str, quantity: str) -> pd.DataFrame:
    return frame[(frame["parameter"] == WHOLE) & (frame["kind"] == kind) & (frame["quantity"] == quantity)]


def _by_label(part: pd.DataFrame, start: str) -> str:
    medians = part.groupby("label", observed=True)["value"].median().dropna()
    said = listed({label: number(value, 2) for label, value in medians.items()})
    return f"{start} {said}." if said else ""


def _paint_path(log: bool, canvas: Canvas, data: pd.DataFrame, style: RunStyle) -> None:
    left, right = grid_of_axes(canvas, 2, height=3.0)
    for label in style.labels:
        part = data[data["label"] == label]
        draw_curve(
            left, part[["path_length"]].assign(value=part["displacement"]), label, style, log=log, x="path_length"
        )
        draw_curve(right, part.rename(columns={"straightness": "value"}), label, style, log=False)
    ends = [float(data["path_length"].min()), float(data["path_length"].max())]
    left.plot(ends, ends, color=MUTED, linewidth=1, linestyle=(0, (4, 2)), zorder=1)
    left.set(xlabel="path length", ylabel="displacement", title="displacement against path length")
    if log and ends[1] > 10 * ends[0]:
        left.set(xscale="log", yscale="log")
        log_axis(left, "x")
        log_axis(left, "y")
    right.set(ylabel="displacement / path length", title="straightness", ylim=(0, 1.05))
    step_axis(right)
    add_legend(canvas, data["label"], style)
