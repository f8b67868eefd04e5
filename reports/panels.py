"""Small multiples of probed quantities: one panel for each label, kind and batch size, so that bands do not overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from trajectory_tools.reports.axes import columns_of, grid_of_axes, step_axis
from trajectory_tools.reports.style import MUTED, RunStyle
from trajectory_tools.reports.words import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

__all__ = ["MAX_PANELS", "NOUN", "Layer", "batch", "paint_panels"]

MAX_PANELS = 12
LEAST_SPAN = 0.2
"""Of a panel's y axis: differences that mean nothing should not look large."""

NOUN = {"update": "updates", "grad": "gradients"}


@dataclass(frozen=True)
class Layer:
    """What is drawn of one series: a line and the band around it.

    ``look``: "label" in the label's colour; "second" the same colour, dashed; "null" a grey band; "surrogate" a
    grey line, dotted, with its range as bars.
    """

    series: str
    name: str
    look: str


def batch(size: int) -> str:
    """``batch 128``, ``single samples``."""
    return {0: "batch size unknown", 1: "single samples"}.get(size, f"batch {size:,}")


def paint_panels(  # noqa: PLR0917
    layers: Sequence[Layer],
    titles: Mapping[str, str],
    ylabel: str,
    top: float | None,
    canvas: Canvas,
    data: pd.DataFrame,
    style: RunStyle,
) -> None:
    """``data``: panel, label, series, step, value, low, high; the panels in the order of ``titles``."""
    grid = grid_of_axes(canvas, len(titles), height=2.4)
    for axes, (panel, title) in zip(grid, titles.items(), strict=True):
        part = data[data["panel"] == panel]
        for layer in layers:
            _draw(axes, part[part["series"] == layer.series], layer, style)
        axes.set_title(title)
        step_axis(axes)
        low, high = axes.get_ylim()
        middle = (low + high) / 2
        half = max(high - low, LEAST_SPAN) / 2
        axes.set_ylim(middle - half, middle + half if top is None else top)
    for axes in grid[:: columns_of(len(titles))]:
        axes.set_ylabel(ylabel)
    _legend(canvas, [layer for layer in layers if (data["series"] == layer.series).any()])


def _draw(axes: Axes, part: pd.DataFrame, layer: Layer, style: RunStyle) -> None:
    if part.empty:
        return
    color = MUTED if layer.look in ("null", "surrogate") else style.color(str(part["label"].iloc[0]))
    marker = "." if len(part) <= 30 else ""
    if layer.look == "surrogate":
        axes.plot(part["step"], part["value"], ":", color=color, linewidth=1.1, zorder=2.2)
        axes.vlines(part["step"], part["low"], part["high"], color=color, linewidth=0.8, zorder=2.2)
        return
    alpha = 0.25 if layer.look == "null" else 0.16
    axes.fill_between(part["step"], part["low"], part["high"], color=color, alpha=alpha, linewidth=0.6)
    if layer.look != "null":
        dashes = (0, (4, 2)) if layer.look == "second" else "solid"
        axes.plot(part["step"], part["value"], color=color, linewidth=1.2, linestyle=dashes, marker=marker)
    elif len(part) == 1:  # a band of one step has no width
        axes.vlines(part["step"], part["low"], part["high"], color=color, linewidth=6, alpha=alpha)


def _legend(canvas: Canvas, layers: Sequence[Layer]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Line2D | Patch] = []
    for layer in layers:
        name = one_line(layer.name, 90)
        if layer.look == "null":
            handles.append(Patch(color=MUTED, alpha=0.25, linewidth=0, label=name))
        else:
            line: Any = {"label": "solid", "second": (0, (4, 2)), "surrogate": "dotted"}[layer.look]
            handles.append(Line2D([], [], color=MUTED, linewidth=1.4, linestyle=line, label=name))
    width = sum(0.6 + 0.075 * len(layer.name) for layer in layers)
    columns = len(handles) if width < canvas.get_size_inches()[0] else 1
    rows = len(handles) // columns
    canvas.set_size_inches(canvas.get_size_inches()[0], canvas.get_size_inches()[1] + 0.19 * (rows - 1))
    canvas.legend(handles=handles, loc="outside upper left", ncols=columns, borderaxespad=0.2)
