"""Figures of how large the elements of updates and gradients are."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from trajectory_tools.errors import MissingData
from trajectory_tools.metrics.histogram import WHOLE
from trajectory_tools.reports.axes import add_legend, grid_of_axes
from trajectory_tools.reports.figure import Figure, FigureMaker, rounded
from trajectory_tools.reports.style import GRID, RunStyle
from trajectory_tools.reports.words import listed, number, one_line, power_of_ten, several

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

__all__ = ["ABOUT", "FIGURES", "histogram_figure"]

ABOUT = "How the sizes of single elements are distributed at chosen steps, on one axis for all runs."

MAX_LAYERS = 6
MAX_STEPS = 6
BINS_PER_DECADE = 5
COVERED = 0.995
"""At least this part of every label's nonzero elements lies on the axis, if ``MAX_DECADES`` are enough for that."""

MAX_DECADES = 12

SYMBOL = {"update": "u", "grad": "g"}
NOUN = {"update": "updates", "grad": "gradients"}


def updates(frame: pd.DataFrame) -> Figure:
    """|u| in the whole network."""
    return _over_steps(frame, "update")


def gradients(frame: pd.DataFrame) -> Figure:
    """|g| in the whole network."""
    return _over_steps(frame, "grad")


def layers(frame: pd.DataFrame) -> Figure:
    """|u| of each parameter, at the last step that all runs share."""
    names = [str(name) for name in frame["parameter"].unique() if name != WHOLE]
    if len(names) > MAX_LAYERS:
        raise MissingData(f"there are {len(names)} parameters, and single ones are shown up to {MAX_LAYERS}")
    step = common_steps(frame)[-1]
    rows = frame[(frame["kind"] == "update") & (frame["step"] == step) & (frame["parameter"] != WHOLE)]
    return histogram_figure(
        rows.assign(panel=rows["parameter"].astype(str)),
        "update",
        names,
        title=f"Sizes of the updates, parameter by parameter, at step {step:,}",
        shows=f"The distribution of |u| within each parameter at step {step:,}, the last that all runs share.",
    )


FIGURES: dict[str, FigureMaker] = {
    "Sizes of the updates": updates,
    "Sizes of the gradients": gradients,
    "Sizes of the updates, parameter by parameter": layers,
}


def common_steps(frame: pd.DataFrame) -> list[int]:
    """The steps of the histograms that every run has; ``MissingData`` where there are none."""
    runs = frame.groupby("step")["run"].nunique()
    steps = [int(step) for step in runs.index[runs == frame["run"].nunique()]]
    if not steps:
        raise MissingData("the runs have no step of a histogram in common")
    return steps


def _over_steps(frame: pd.DataFrame, kind: str) -> Figure:
    steps = common_steps(frame)[-MAX_STEPS:]
    rows = frame[(frame["kind"] == kind) & (frame["parameter"] == WHOLE) & frame["step"].isin(steps)]
    return histogram_figure(
        rows.assign(panel="step " + rows["step"].astype(str)),
        kind,
        [f"step {step}" for step in steps],
        title=f"Sizes of the {NOUN[kind]}",
        shows=f"The distribution of |{SYMBOL[kind]}| over all elements of the network, at the steps that all runs"
        " share.",
    )


def histogram_figure(
    rows: pd.DataFrame, kind: str, panels: Sequence[str], *, title: str = "", shows: str = ""
) -> Figure:
    """The sizes of ``kind``'s elements: rows of the metric with a column ``panel``, drawn in this order of panels."""
    counts = rows[rows["quantity"] == "count"]
    if counts.empty:
        raise MissingData(f"the {kind} was not recorded; record with --save {kind}")
    symbol = SYMBOL[kind]
    table = _shares(counts)
    notes = []
    if broken := int(counts["value"][counts["high"].isna()].sum()):
        notes.append(f"{several(broken, 'element')} NaN or infinite, left out.")
    table, below = _cut(table)
    if below > 0:
        notes.append(f"Up to {number(100 * below, 2)} % of a label's elements are smaller than the axis shows.")
    last = panels[-1] if title.startswith("Sizes of the") and panels[-1].startswith("step ") else ""
    return Figure(
        title=title,
        shows=shows,
        how_to_read="The height is the part of all elements that falls into a bin, on a logarithmic axis: a tail to"
        " the right that falls slowly is a heavy tail, a single spike an optimizer that moves every element by the"
        " same amount. The bars at the left edge are the elements that are exactly 0. Lines are means over the runs of"
        " a label.",
        formula=f"elements with low ≤ |{symbol}ᵢ| < high / all elements; {BINS_PER_DECADE} bins a decade",
        data=rounded(table),
        paint=partial(_paint, panels, symbol),
        finding=_finding(table[table["panel"] == last], symbol, last) if last else "",
        notes=tuple(notes),
    )


def _shares(counts: pd.DataFrame) -> pd.DataFrame:
    """panel, label, low, high, share: a bin's part of the elements, bins joined in pairs, mean over the runs."""
    finite = counts[counts["high"].notna()]
    exponent = np.floor(np.log10(finite["low"].where(finite["low"] > 0)) * BINS_PER_DECADE + 1e-6)
    low = 10.0 ** (exponent / BINS_PER_DECADE)
    high = 10.0 ** ((exponent + 1) / BINS_PER_DECADE)
    joined = finite.assign(
        label=finite["label"].astype(str),
        low=low.fillna(0.0),
        high=high.fillna(finite["high"]),
        share=finite["value"] / finite["n"],
    )
    n_runs = joined.groupby("label")["run"].nunique()
    table = joined.groupby(["panel", "label", "low", "high"], sort=False)["share"].sum().reset_index()
    table["share"] /= table["label"].map(n_runs)
    order = {label: i for i, label in enumerate(joined["label"].unique())}
    return table.sort_values(["panel", "label", "low", "high"], key=lambda c: c.map(order) if c.name == "label" else c)


def _cut(table: pd.DataFrame) -> tuple[pd.DataFrame, float]:
    """The table without the far lower tail, and the largest part of a label's elements in a panel that went with it."""
    nonzero = table[table["high"] > 0]
    if nonzero.empty:
        return table, 0.0
    edges = []
    for _, one in nonzero.groupby(["panel", "label"]):
        below = one["share"].cumsum() / one["share"].sum()
        edges.append(one["low"][below > 1 - COVERED].iloc[0])
    edge = max(min(edges), nonzero["high"].max() / 10**MAX_DECADES)
    gone = (table["low"] < edge * 0.999) & (table["high"] > 0)
    lost = table[gone].groupby(["panel", "label"])["share"].sum()
    return table[~gone], float(lost.max()) if len(lost) else 0.0


def _finding(table: pd.DataFrame, symbol: str, where: str) -> str:
    parts = {}
    for label, one in table.groupby("label", sort=False):
        nonzero = one[one["high"] > 0]
        zero = float(one["share"][one["high"] == 0].sum())
        text = "zeros only"
        if len(nonzero):
            half = nonzero["share"].cumsum().searchsorted(nonzero["share"].sum() / 2)
            middle = nonzero.iloc[int(half)]
            text = f"about {number(float(np.sqrt(middle['low'] * middle['high'])), 2)}"
        parts[label] = text + (f" ({number(100 * zero, 2)} % exactly 0)" if zero else "")
    return f"Median nonzero |{symbol}| at {where}: {listed(parts)}." if parts else ""


def _paint(panels: Sequence[str], symbol: str, canvas: Canvas, data: pd.DataFrame, style: RunStyle) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator

    labels = [label for label in style.labels if (data["label"] == label).any()]
    nonzero = data[data["high"] > 0]
    first, last = (
        (
            np.floor(np.log10(nonzero["low"].min())),
            np.ceil(np.log10(nonzero["high"].where(nonzero["high"] < np.inf).max())),
        )
        if len(nonzero)
        else (-1.0, 0.0)
    )
    floor = min(10.0 ** np.floor(np.log10(data["share"].min())), 0.01)
    lane = 0.035 * (last - first + 1)
    zero_at = first - lane * (len(labels) + 2) / 2
    stride = max(1, int(np.ceil((last - first) / 5)))
    ticks = np.arange(last, first - 1, -stride)[::-1]
    grid = grid_of_axes(canvas, len(panels), height=2.1, share=True)
    for axes, panel in zip(grid, panels, strict=True):
        part = data[data["panel"] == panel]
        for position, label in enumerate(labels):
            bars = part[part["label"] == label]
            zero = bars["share"][bars["high"] == 0]
            if len(zero):
                axes.bar(
                    zero_at + (position - (len(labels) - 1) / 2) * lane,
                    zero.iloc[0] - floor,
                    width=lane * 0.8,
                    bottom=floor,
                    color=style.color(label),
                    linewidth=0,
                )
            _outline(axes, bars[bars["high"] > 0], label, style, floor)
        axes.axvline(first - lane / 2, color=GRID, linewidth=0.8)
        axes.set_title(one_line(panel, 44))
        axes.set_yscale("log")
        axes.set_ylim(floor, 1.3)
        axes.yaxis.set_major_locator(LogLocator(numticks=6))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(value)))
        axes.minorticks_off()
        axes.set_xlim(zero_at - lane * len(labels) / 2 - lane / 2, last + 0.1)
        axes.xaxis.set_major_locator(FixedLocator([zero_at, *ticks]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: power_of_ten(10.0**x) if x >= first - 0.01 else "0"))
    for axes in grid[::3]:
        axes.set_ylabel("part of the elements")
    for axes in grid[-3:]:
        axes.set_xlabel(f"|{symbol}|")
    add_legend(canvas, labels, style)


def _outline(axes: object, bars: pd.DataFrame, label: str, style: RunStyle, floor: float) -> None:
    """The histogram's upper edge, down to the floor where a bin is empty."""
    if bars.empty:
        return
    low = np.log10(bars["low"].where(bars["low"] > 0, bars["high"] / 10))
    high = np.log10(bars["high"].where(bars["high"] < np.inf, bars["low"] * 10))
    start = np.round(low * BINS_PER_DECADE).astype(int)
    heights = np.full(start.max() - start.min() + 1, floor)
    heights[start - start.min()] = np.maximum(bars["share"], floor)
    edges = (np.arange(len(heights) + 1) + start.min()) / BINS_PER_DECADE
    edges[-1] = max(edges[-1], high.max())
    dashes = style.dashes(label)
    axes.stairs(  # type: ignore[attr-defined]
        heights,
        edges,
        baseline=floor,
        color=style.color(label),
        linewidth=1.1,
        linestyle=(0, dashes) if dashes else "solid",
    )
