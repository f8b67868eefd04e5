"""Curves against the step: one panel for each quantity or group, one line with a band for each label."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from trajectory_tools.errors import MissingData
from trajectory_tools.reports.axes import add_legend, columns_of, grid_of_axes, log_axis, step_axis, symlog_axis
from trajectory_tools.reports.figure import Painter, rounded
from trajectory_tools.reports.style import GRID, MUTED, RunStyle
from trajectory_tools.reports.words import number, several, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

__all__ = [
    "ARITHMETIC_BAND",
    "GRADIENTS",
    "MAX_POINTS",
    "Curves",
    "Panel",
    "averaged",
    "draw_curve",
    "make_curves",
    "thinned",
]

MAX_POINTS = 300
"""Points of a curve as wide as the page; a longer run is thinned."""

ARITHMETIC_BAND = (
    "The line is the mean of the runs, also on a logarithmic axis; there the band ends at a third of the mean where"
    " mean − standard deviation is lower."
)
LOWEST = 1 / 3
"""Of an arithmetic mean on a logarithmic axis: a band that reaches 0 would cover everything below."""

GRADIENTS = "gradients (middle half of all runs)"
"""What the grey band of reference is called among the labels."""

Average = Literal["geometric", "arithmetic"]
Scale = Literal["linear", "log", "symlog", "auto"]


@dataclass(frozen=True)
class Panel:
    """One panel: ``frame`` has run, label, step and value; ``reference`` the same of the gradients.

    ``name`` is what the data calls the panel, ``title`` what stands above it (the name unless told). ``scale`` "auto"
    is logarithmic where values are positive and differ much; ``average`` is geometric there, or that of the values
    themselves. ``line`` is a level to compare with, and what to call it.
    """

    name: str
    frame: pd.DataFrame
    ylabel: str
    scale: Scale = "linear"
    average: Average = "geometric"
    line: tuple[float, str] | None = None
    limits: tuple[float, float] | None = None
    reference: pd.DataFrame | None = None
    title: str = ""


@dataclass(frozen=True)
class Curves:
    """What ``make_curves`` hands to a ``Figure``: the averaged data, what to say of it, and how to paint it."""

    data: pd.DataFrame
    notes: tuple[str, ...]
    paint: Painter


def make_curves(panels: Iterable[Panel]) -> Curves:
    """Thin and average each panel's frame; a panel without a finite value becomes a note, no panel at all an error."""
    kept, frames = [], []
    notes: dict[str, list[str]] = {}
    panels = list(panels)
    points = MAX_POINTS // columns_of(len(panels))
    for panel in panels:
        finite = np.isfinite(panel.frame["value"])
        if not finite.any():
            why = f"none of its {several(len(finite), 'value')} is finite" if len(finite) else "it was not recorded"
            notes.setdefault(f"skipped: {why}.", []).append(panel.name)
            continue
        if missing := int(np.isinf(panel.frame["value"]).sum()):
            notes.setdefault(f"{several(missing, 'infinite value')} left out.", []).append(panel.name)
        scale = panel.scale
        if scale == "auto":
            scale = _fitting_scale(panel.frame["value"][finite])
        log = scale == "log"
        geometric = log and panel.average == "geometric"
        data, steps_a_point = thinned(panel.frame, log=geometric, points=points)
        if steps_a_point > 1:
            text = f"thinned: each point is the mean of {steps_a_point} consecutive recorded steps."
            notes.setdefault(text, []).append(panel.name)
        curves = averaged(data, log=geometric)
        if log and not geometric:
            curves["low"] = curves["low"].clip(lower=LOWEST * curves["value"])
        if log and (zeros := int((curves["value"] == 0).sum())):
            text = f"{several(zeros, 'point')} at exactly 0, marked at the lower edge."
            notes.setdefault(text, []).append(panel.name)
        if panel.reference is not None and len(panel.reference):
            curves = pd.concat([curves, _range_of(thinned(panel.reference, log=True, points=points)[0])])
        curves.insert(0, "panel", panel.name)
        frames.append(curves)
        kept.append(replace(panel, frame=panel.frame.iloc[:0], reference=None, scale=scale))
    said = tuple(f"{', '.join(names)}: {text}" for text, names in notes.items())
    if not kept:
        raise MissingData(" ".join(said) or "there is nothing to plot")
    return Curves(rounded(pd.concat(frames)), said, partial(paint_curves, kept))


def thinned(frame: pd.DataFrame, *, log: bool = False, points: int = MAX_POINTS) -> tuple[pd.DataFrame, int]:
    """(The frame with at most ``points`` steps, how many steps one point holds).

    Consecutive recorded steps are averaged run by run, on a logarithmic axis geometrically, and stand at the first one.
    """
    steps = np.unique(frame["step"])
    stride = -(-len(steps) // points)
    if stride <= 1:
        return frame, 1
    first = steps[np.searchsorted(steps, frame["step"]) // stride * stride]
    groups = frame.assign(step=first, value=_logged(frame["value"], log)).groupby(
        ["run", "label", "step"], observed=True, sort=False
    )
    result = groups["value"].mean().reset_index()
    return result.assign(value=_unlogged(result["value"], log)), stride


def averaged(frame: pd.DataFrame, *, log: bool = False) -> pd.DataFrame:
    """Mean ± standard deviation (n − 1) over the runs of a label, at each step: label, step, value, low, high, runs.

    With ``log`` both are those of the logarithm, so that the band stays positive (the geometric mean); exact zeros do
    not enter, and where all runs have one, so has the result. Values that are not finite do not enter either.
    """
    groups = (
        frame[["label", "step"]]
        .assign(logged=_logged(frame["value"], log), zero=frame["value"] == 0)
        .groupby(["label", "step"], observed=True)
    )
    result = groups.agg(
        value=("logged", "mean"), sd=("logged", "std"), runs=("logged", "count"), zero=("zero", "all")
    ).reset_index()
    low, high = (_unlogged(result["value"] + sign * result["sd"], log) for sign in (-1, 1))
    value = _unlogged(result["value"], log)
    if log:
        value = value.mask(result["zero"], 0.0)
    return result[["label", "step"]].assign(
        label=result["label"].astype(str), value=value, low=low, high=high, runs=result["runs"]
    )


def _fitting_scale(values: pd.Series[float]) -> Scale:
    """Logarithmic where nothing is negative, next to nothing 0, and the rest spans more than a factor of 20."""
    positive = values[values > 0]
    if (values < 0).any() or len(positive) < 0.9 * len(values):
        return "linear"
    return "log" if positive.max() > 20 * positive.min() else "linear"


def _range_of(frame: pd.DataFrame) -> pd.DataFrame:
    """The middle half of all runs at each step: quartiles and median."""
    positive = frame.assign(value=frame["value"].where(frame["value"] > 0))
    values = positive.groupby("step")["value"]
    quartiles = {name: values.quantile(q) for name, q in (("value", 0.5), ("low", 0.25), ("high", 0.75))}
    return pd.DataFrame({**quartiles, "runs": values.count()}).reset_index().assign(label=GRADIENTS)


def _logged(values: pd.Series[float], log: bool) -> pd.Series[float]:
    finite = values.where(np.isfinite(values))
    return np.log10(finite.where(finite > 0)) if log else finite


def _unlogged(values: pd.Series[float], log: bool) -> pd.Series[float]:
    return 10.0**values if log else values


def paint_curves(panels: Sequence[Panel], canvas: Canvas, data: pd.DataFrame, style: RunStyle) -> None:
    """One axes for each panel, and the legend above."""
    grid = grid_of_axes(canvas, len(panels))
    for axes, panel in zip(grid, panels, strict=True):
        part = data[data["panel"] == panel.name]
        reference = part[part["label"] == GRADIENTS]
        if len(reference):
            axes.fill_between(
                reference["step"], reference["low"], reference["high"], color=MUTED, alpha=0.25, linewidth=0.6
            )
        for label in style.labels:
            draw_curve(axes, part[part["label"] == label], label, style, log=panel.scale == "log")
        _finish(axes, panel, part)
    add_legend(canvas, data["label"], style)


def draw_curve(axes: Axes, curve: pd.DataFrame, label: str, style: RunStyle, *, log: bool, x: str = "step") -> None:
    """The label's line and band."""
    if curve.empty:
        return
    color, dashes = style.color(label), style.dashes(label)
    shown = curve["value"].where(curve["value"] > 0) if log else curve["value"]
    (line,) = axes.plot(curve[x], shown, color=color, linewidth=1.2, marker="." if len(curve) <= 12 else "")
    if dashes:
        line.set_linestyle((0, dashes))
    if "low" in curve and curve["low"].notna().any():
        axes.fill_between(curve[x], curve["low"], curve["high"], color=color, alpha=0.16, linewidth=0)
    zeros = curve[x][curve["value"] == 0] if log else curve[x][:0]
    if len(zeros):
        axes.plot(zeros, np.zeros(len(zeros)), "|", color=color, transform=axes.get_xaxis_transform(), zorder=3)


def _focus(axes: Axes, part: pd.DataFrame) -> None:
    """Leave out what only lower edges of bands reach: gradients and losses vanish by tens of orders of magnitude."""
    of_reference = part["label"] == GRADIENTS
    levels = pd.concat([part["value"][~of_reference], part["high"][of_reference]])
    if (levels > 0).any():
        axes.set_ylim(bottom=max(axes.get_ylim()[0], float(levels[levels > 0].min()) / 5))


def _finish(axes: Axes, panel: Panel, part: pd.DataFrame) -> None:
    title = wrapped(panel.title or panel.name)
    axes.set_ylabel(panel.ylabel)
    step_axis(axes)
    if panel.line is not None:
        level, name = panel.line
        axes.axhline(level, color=MUTED, linewidth=1, linestyle=(0, (4, 2)), zorder=1.5)
        title += f"\n– – {name}: {number(level)}"
    axes.set_title(title)
    if panel.scale == "log":
        axes.set_yscale("log")
        _focus(axes, part)
        log_axis(axes, "y")
    elif panel.scale == "symlog":
        symlog_axis(axes)
        axes.axhline(0, color=GRID, linewidth=0.8, zorder=0)
    if panel.limits is not None:
        axes.set_ylim(panel.limits)
