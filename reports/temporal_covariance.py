"""Figures of how gradients and updates vary from step to step."""

from __future__ import annotations

import pandas as pd

from trajectory_tools.reports.curves import Panel, make_curves
from trajectory_tools.reports.figure import Figure, FigureMaker
from trajectory_tools.reports.words import listed, number

__all__ = ["ABOUT", "FIGURES"]

ABOUT = (
    "How gradients and updates vary from step to step, within windows of the run: from the logged steps alone, without"
    " probes. The parameters move meanwhile, so this is not the noise of the mini-batches, and not to be compared with"
    " it."
)


def temporal(frame: pd.DataFrame) -> Figure:
    """Trace, λ_max, participation ratio and overlap of consecutive windows."""
    names = {
        "temporal_eigenvalue_1": ("λ_max over time", "log"),
        "temporal_trace": ("trace over time", "log"),
        "temporal_participation_ratio": ("participation ratio", "linear"),
        "temporal_overlap": ("overlap with the window before", "linear"),
    }
    kind = "update" if (frame["kind"] == "update").any() else "grad"
    panels = []
    for quantity, (name, scale) in names.items():
        rows = frame[(frame["kind"] == kind) & (frame["quantity"] == quantity)]
        if len(rows):
            panels.append(Panel(name, rows, name.partition(" over")[0], "log" if scale == "log" else "linear"))
    curves = make_curves(panels)
    medians = frame[(frame["kind"] == kind) & (frame["quantity"] == "temporal_trace")]
    said = {k: number(v, 2) for k, v in medians.groupby("label", observed=True)["value"].median().dropna().items()}
    return Figure(
        title="Temporal covariance of the updates" if kind == "update" else "Temporal covariance of the gradients",
        shows="The covariance over the steps of each window of the run: its trace, its largest eigenvalue, over how"
        " many directions it is spread, and whether they stay the same.",
        how_to_read="What changes on the way counts as variance here as well as noise, and steps with momentum are not"
        " independent. A point stands at its window's first step; of long windows evenly spaced steps are looked at.",
        formula="Σ_t (x_t − x̄)(x_t − x̄)ᵀ / (n − 1) over the n steps of a window; (Σλ)² / Σλ²; ‖U Vᵀ‖² / k",
        data=curves.data,
        paint=curves.paint,
        finding=f"Median temporal trace: {listed(said)}." if said else "",
        notes=curves.notes,
    )


FIGURES: dict[str, FigureMaker] = {"Temporal covariance": temporal}
