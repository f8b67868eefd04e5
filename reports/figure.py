"""What a figure of the report is: its words, its data, and how it is painted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from trajectory_tools.reports.style import RunStyle

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

__all__ = ["Figure", "FigureMaker", "rounded"]

Painter = Callable[["Canvas", pd.DataFrame, RunStyle], None]


@dataclass(frozen=True)
class Figure:
    """One figure. Making it computes what it plots; nothing is drawn before ``reports.svg.draw``.

    ``data`` is what is plotted, all of it and nothing else; ``paint`` puts it on an empty matplotlib figure.
    """

    title: str
    shows: str
    how_to_read: str
    formula: str
    data: pd.DataFrame
    paint: Painter = field(repr=False, compare=False)
    finding: str = ""
    """One sentence that the data says."""
    notes: tuple[str, ...] = ()
    """What was left out, thinned or is otherwise not as one would expect."""


FigureMaker = Callable[[pd.DataFrame], Figure]
"""From a metric's tidy frame, the runs of one problem; ``MissingData`` where there is nothing to plot."""


def rounded(frame: pd.DataFrame, digits: int = 4) -> pd.DataFrame:
    """The frame with its floats rounded to significant digits: what is plotted is then what the CSV says."""
    result = frame.reset_index(drop=True).copy()
    for name in result.columns:
        if result[name].dtype == np.float64:
            result[name] = [float(f"{value:.{digits - 1}e}") for value in result[name]]
    return result
