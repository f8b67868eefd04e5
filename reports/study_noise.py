"""The study's figure of the noise: each tail index beside its nulls, and the largest eigenvalue."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from trajectory_tools.experiments.study.claims import Number
from trajectory_tools.experiments.study.figures import AGREE, ALPHA_END, NULL_END, SECOND_NULL_END
from trajectory_tools.experiments.study.reproduction import Reproduction, SettingResult
from trajectory_tools.reports.curves import Panel, make_curves
from trajectory_tools.reports.figure import Figure, Painter
from trajectory_tools.reports.style import RunStyle

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

__all__ = ["noise_answer", "noise_figure"]

TAIL_PANELS = {
    "α of updates": ("update", "pooled_block"),
    "α of updates: Gaussian null": ("update", "pooled_block_null"),
    "α of updates: Gaussian gradients, same optimizer": ("update", "pooled_block_surrogate"),
    "α of gradients": ("grad", "pooled_block"),
    "α of gradients: Gaussian null": ("grad", "pooled_block_null"),
}
"""Panel → kind and quantity of the tail index."""


def noise_figure(result: SettingResult) -> Figure:
    """One panel for each tail index and each null, on one scale, and one for the largest eigenvalue."""
    curves = make_curves(_panels(result))
    return Figure(
        title="",
        shows="",
        how_to_read="A tail index below 2 says heavy tails only where it is below what Gaussian noise gives: compare"
        " the upper left panel with those beside it. Bands are one standard deviation over the seeds.",
        formula="1/α = (mean log|Y| − mean log|X|) / log m, Y sums of m neighbours in X, all coordinates of all centred"
        " samples; λ_max of Σ (uₖ − m)(uₖ − m)ᵀ / K, m the update of the mean gradient",
        data=curves.data,
        paint=partial(_paint, curves.paint),
        notes=curves.notes,
    )


def noise_answer(reproduction: Reproduction) -> str:
    """What the second null says of the learned optimizer's α, in one sentence; empty for other figures."""
    if reproduction.figure.shows != ("noise",):
        return ""
    values = reproduction.settings[0].values
    ours, null, second = (values[Number("L2O", column)].mean() for column in (ALPHA_END, NULL_END, SECOND_NULL_END))
    part = max(ours, second) / min(ours, second) - 1
    more = "no more than" if part <= AGREE else "more than" if ours > second else "less than"
    return (
        f"The learned optimizer's α of {ours:.3f} is {more} what the same optimizer makes of Gaussian gradients of the"
        f" same covariance, {second:.3f} ({100 * part:.1f} % apart); Gaussian noise of the updates' own covariance has"
        f" {null:.3f}."
    )


def _panels(result: SettingResult) -> Iterator[Panel]:
    tails = result.frames["tail_index"]
    found = {
        name: tails[(tails["kind"] == kind) & (tails["quantity"] == quantity)]
        for name, (kind, quantity) in TAIL_PANELS.items()
    }
    values = np.concatenate([frame["value"].to_numpy(float) for frame in found.values()])
    low, high = np.nanmin(values), np.nanmax(values)
    limits = (low - 0.05 * (high - low), high + 0.05 * (high - low))
    for name, frame in found.items():
        yield Panel(name, _counted(frame), "α", limits=limits)
    spread = result.frames["covariance"]
    largest = spread[(spread["kind"] == "update") & (spread["quantity"] == "paper_eigenvalue")]
    yield Panel("λ_max of updates", _counted(largest), "λ_max", "log")


def _counted(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with iterations, from 1 on, in the place of steps."""
    return frame.assign(step=frame["step"] + 1)


def _paint(paint: Painter, canvas: Canvas, data: pd.DataFrame, style: RunStyle) -> None:
    paint(canvas, data, style)
    for axes in canvas.axes:
        axes.set_xlabel("iteration")
