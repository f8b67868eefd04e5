"""The figures of one problem, metric by metric; what could not be made says why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType

import pandas as pd

from trajectory_tools.errors import TrajectoryError
from trajectory_tools.metrics import Analysis
from trajectory_tools.reports import (
    covariance,
    dynamics,
    generic,
    histogram,
    loss,
    symmetry,
    tail_index,
    temporal_covariance,
)
from trajectory_tools.reports.figure import Figure
from trajectory_tools.reports.style import RunStyle
from trajectory_tools.reports.svg import draw
from trajectory_tools.run import Run

__all__ = ["Drawn", "Section", "Skipped", "make_sections", "of_runs"]

FAMILIES: dict[str, ModuleType] = {
    "loss": loss,
    "symmetry": symmetry,
    "histogram": histogram,
    "dynamics": dynamics,
    "tail_index": tail_index,
    "covariance": covariance,
    "temporal_covariance": temporal_covariance,
}


@dataclass(frozen=True)
class Drawn:
    """A figure and its SVG, in stand-in colours."""

    key: str
    figure: Figure
    svg: str


@dataclass(frozen=True)
class Skipped:
    """A figure that there is not, and why."""

    key: str
    title: str
    reason: str


@dataclass(frozen=True)
class Section:
    """One metric's part of a problem."""

    key: str
    name: str
    about: str
    figures: tuple[Drawn | Skipped, ...]
    skipped: tuple[tuple[str, tuple[str, ...]], ...]
    """(Reason, the runs that the metric has no numbers of for it.)"""


def of_runs(analysis: Analysis, runs: Sequence[Run]) -> Analysis:
    """The analysis of these runs only."""
    names = {run.name for run in runs}
    frame = analysis.frame
    if not frame.empty:
        frame = frame[frame["run"].isin(names)]
        categories = [name for name in frame if isinstance(frame[name].dtype, pd.CategoricalDtype)]
        frame = frame.assign(**{name: frame[name].cat.remove_unused_categories() for name in categories})
    return replace(
        analysis, frame=frame, skipped={run: reason for run, reason in analysis.skipped.items() if run in names}
    )


def make_sections(analyses: Mapping[str, Analysis], style: RunStyle, key: str) -> Iterator[Section]:
    """One section for each metric, in the order of the analyses."""
    for name, analysis in analyses.items():
        family = FAMILIES.get(name, generic)
        section_key = f"{key}-{_slug(name)}"
        reasons: dict[str, list[str]] = {}
        for run, reason in analysis.skipped.items():
            reasons.setdefault(reason, []).append(run)
        figures = () if analysis.frame.empty else tuple(_make(family, analysis.frame, style, section_key))
        yield Section(
            section_key, name, family.ABOUT, figures, tuple((why, tuple(runs)) for why, runs in reasons.items())
        )


def _make(family: ModuleType, frame: pd.DataFrame, style: RunStyle, key: str) -> Iterator[Drawn | Skipped]:
    for title, make in family.FIGURES.items():
        figure_key = f"{key}-{_slug(make.__name__)}"
        try:
            figure = make(frame)
            yield Drawn(figure_key, figure, draw(figure, style, figure_key))
        except TrajectoryError as reason:
            yield Skipped(figure_key, title, str(reason))
        except Exception as error:  # one figure that fails must not take the others with it
            yield Skipped(figure_key, title, f"drawing it failed ({type(error).__name__}: {error})")


def _slug(name: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in name.lower())
