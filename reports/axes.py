"""Axes as all figures have them: a grid of small multiples, ticks in plain text, the legend."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import numpy as np

from trajectory_tools.reports.style import MUTED, RunStyle
from trajectory_tools.reports.words import number, one_line, power_of_ten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

__all__ = ["WIDTH", "add_legend", "columns_of", "grid_of_axes", "log_axis", "step_axis", "symlog_axis"]

WIDTH = 10.0
"""Of every figure, in inches."""


def grid_of_axes(canvas: Canvas, count: int, *, height: float = 2.5, share: bool = False) -> list[Axes]:
    """``count`` axes in rows; ``share`` gives them one x and one y axis."""
    columns = columns_of(count)
    rows = -(-count // columns)
    canvas.set_size_inches(WIDTH, rows * (height if columns > 1 else height + 0.4) + 0.3)
    shared: Literal["all", "none"] = "all" if share else "none"
    grid = canvas.subplots(rows, columns, squeeze=False, sharex=shared, sharey=shared).ravel()
    for axes in grid[count:]:
        axes.remove()
    if share:
        for axes in grid[:count]:
            axes.tick_params(labelbottom=True)
    return list(grid[:count])


def columns_of(count: int) -> int:
    """Into how many columns ``grid_of_axes`` puts so many axes: three, but four axes are two by two."""
    return 2 if count == 4 else max(1, min(3, count))


def step_axis(axes: Axes) -> None:
    """The x axis counts steps."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def log_axis(axes: Axes, which: Literal["x", "y"]) -> None:
    """Ticks of a logarithmic axis: powers of ten, and 1, 2, 5 where it spans less than two."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis = axes.yaxis if which == "y" else axes.xaxis
    low, high = axes.get_ylim() if which == "y" else axes.get_xlim()
    wide = high / low >= 100
    axis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0), numticks=7))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(value) if wide else number(value)))


def symlog_axis(axes: Axes) -> None:
    """A y axis that is logarithmic on both sides of 0 where the curves' sizes differ by more than a hundredfold."""
    from matplotlib.ticker import FuncFormatter, NullLocator, SymmetricalLogLocator

    reach = [np.nanmax(np.abs(np.asarray(line.get_ydata(), float))) for line in axes.lines if np.size(line.get_ydata())]
    sizes = [size for size in reach if size > 0]
    if not sizes or max(sizes) / min(sizes) < 100:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
        return
    threshold = 10.0 ** np.floor(np.log10(min(sizes)))
    axes.set_yscale("symlog", linthresh=threshold)
    locator = SymmetricalLogLocator(base=10, linthresh=threshold)
    locator.set_params(numticks=7)
    axes.yaxis.set_major_locator(locator)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(value)))


def add_legend(canvas: Canvas, present: Iterable[str], style: RunStyle) -> None:
    """The labels that the data has, above the axes; what is no label of a run is grey."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    found = dict.fromkeys(present)
    handles: list[Line2D | Patch] = []
    for label in [one for one in style.labels if one in found]:
        dashes = style.dashes(label)
        handles.append(
            Line2D(
                [],
                [],
                color=style.color(label),
                linewidth=1.6,
                linestyle=(0, dashes) if dashes else "solid",
                label=one_line(label, 40),
            )
        )
    handles += [Patch(color=MUTED, alpha=0.25, linewidth=0, label=name) for name in found if name not in style.labels]
    widths = [0.6 + 0.075 * len(str(handle.get_label())) for handle in handles]  # inches, at the legend's font size
    columns = len(handles) if sum(widths) < WIDTH else max(1, int(WIDTH / max(widths)))
    rows = -(-len(handles) // columns)
    canvas.set_size_inches(WIDTH, canvas.get_size_inches()[1] + 0.19 * (rows - 1))
    canvas.legend(handles=handles, loc="outside upper left", ncols=columns, borderaxespad=0.2)
