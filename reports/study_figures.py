"""What a figure of the study draws: the paper's quantity, beside it the normalised share, and the loss."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd

from trajectory_tools.experiments.study.reproduction import Reproduction, SettingResult
from trajectory_tools.metrics.histogram import WHOLE
from trajectory_tools.reports.curves import Panel, make_curves
from trajectory_tools.reports.figure import Figure, Painter
from trajectory_tools.reports.histogram import histogram_figure
from trajectory_tools.reports.study_noise import noise_answer, noise_figure
from trajectory_tools.reports.study_tables import chance, verdict_line
from trajectory_tools.reports.style import RunStyle

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

__all__ = ["study_figure"]

DEVIATION, SHARE = "|Σⱼ ⟨u, ξⱼ⟩|", "share of ‖u‖²"
COUNTED = "Iterations are counted from 1, as in the paper: iteration i is step i − 1 of the run."


def study_figure(reproduction: Reproduction) -> Figure:
    """The figure, painted from the recorded runs."""
    figure = reproduction.figure
    histograms = figure.shows == ("histogram",)
    if figure.shows == ("noise",):
        drawn = noise_figure(reproduction.settings[0])
    else:
        drawn = _histograms(reproduction.settings[0]) if histograms else _curves(reproduction)
    return replace(
        drawn,
        title=figure.title,
        shows=f"{figure.about} ({figure.source}.)",
        finding=f"{verdict_line(reproduction)} {noise_answer(reproduction)}".strip(),
        notes=(*drawn.notes, COUNTED),
    )


def _curves(reproduction: Reproduction) -> Figure:
    shows = reproduction.figure.shows
    several = len(reproduction.settings) > 1
    curves = make_curves(panel for result in reproduction.settings for panel in _panels(result, shows, several))
    said = {
        "deviation": "The deviation is the paper's quantity: 0 where the symmetry is kept; units can cancel in it, and"
        " large steps alone make it large.",
        "share": "The share is free of both: the part of the squared update that lies along the symmetry, where chance"
        " is what a random direction has.",
        "loss": "Lower losses are better.",
    }
    formulas = {
        "deviation": DEVIATION,
        "share": "Σⱼ ⟨u, ξⱼ⟩² / ‖ξⱼ‖² / ‖u‖²",
        "loss": "L(θₜ) on the mini-batch of iteration t, before its update",
    }
    return Figure(
        title="",
        shows="",
        how_to_read=" ".join([*(said[one] for one in shows), "Bands are one standard deviation over the seeds."]),
        formula="; ".join(formulas[one] for one in shows),
        data=curves.data,
        paint=partial(_paint, curves.paint),
        notes=curves.notes,
    )


def _panels(result: SettingResult, shows: tuple[str, ...], several: bool) -> Iterator[Panel]:
    """The setting's panels; its title stands above them where there are several settings."""
    symmetry = result.setting.symmetry
    prefix = f"{result.setting.title}: " * several
    for quantity in shows:
        frame = result.frames["loss" if quantity == "loss" else "symmetry"]
        rows = frame[frame["quantity"] == quantity]
        if quantity == "loss":
            yield Panel(f"{prefix}training loss", _counted(rows), "loss", "auto", "arithmetic")
            continue
        of_symmetry = rows["group"].astype(str).str.startswith(f"{symmetry} ")
        rows = _counted(rows[of_symmetry & (rows["kind"] == "update")])
        name = f"{prefix}{symmetry} {quantity}"
        if quantity == "deviation":
            yield Panel(name, rows, DEVIATION, "linear", "arithmetic")
        elif (level := chance(result)) is not None:
            yield Panel(name, rows, SHARE, "log", line=(level, "chance"))


def _histograms(result: SettingResult) -> Figure:
    frame = result.frames["histogram"]
    rows = _counted(frame[(frame["kind"] == "update") & (frame["parameter"] == WHOLE)])
    panels = [f"iteration {i}" for i in sorted(rows["step"].unique())]
    return histogram_figure(rows.assign(panel="iteration " + rows["step"].astype(str)), "update", panels)


def _counted(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with iterations, from 1 on, in the place of steps."""
    return frame.assign(step=frame["step"] + 1)


def _paint(paint: Painter, canvas: Canvas, data: pd.DataFrame, style: RunStyle) -> None:
    """As ``paint`` does; bands end where a deviation (0) and a share (1) do."""
    paint(canvas, data, style)
    for axes in canvas.axes:
        axes.set_xlabel("iteration")
        low, high = axes.get_ylim()
        if axes.get_ylabel() == DEVIATION:
            axes.set_ylim(bottom=max(low, -0.03 * high))
        if axes.get_ylabel() == SHARE:
            axes.set_ylim(top=min(high, 1.5))
