"""Figures of how gradients and updates vary over the mini-batches of one step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from trajectory_tools.errors import MissingData
from trajectory_tools.reports.curves import Average, Panel, Scale, make_curves
from trajectory_tools.reports.figure import Figure, FigureMaker
from trajectory_tools.reports.panels import NOUN, batch
from trajectory_tools.reports.words import listed, number

__all__ = ["ABOUT", "FIGURES"]

ABOUT = (
    "How gradients and updates vary over the mini-batches of one step, with the parameters and the optimizer's state"
    " held: the size of their covariance, over how many directions it is spread, and how large a batch the"
    " gradient's noise asks for. Every number holds for the batch size that it names."
)
YLABELS = {
    "overlap": "overlap",
    "overlap_halves": "overlap",
    "cosine": "cosine",
    "noise_scale": "training samples",
    "trace_per_sample": "tr(Σ₁)",
    "gradient_square": "|G|²",
    "paper_eigenvalue": "λ_max",
    "paper_trace": "trace",
}
SIGMA = "Σ = Σₖ (xₖ − x̄)(xₖ − x̄)ᵀ / (K − 1) over the K mini-batches"


def size(frame: pd.DataFrame) -> Figure:
    """λ_max and trace."""
    wanted = [(kind, quantity) for kind in ("update", "grad") for quantity in ("eigenvalue_1", "trace")]
    names = {"eigenvalue_1": "λ_max", "trace": "trace"}
    panels = _panels(frame, wanted, names, scale="log")
    curves = make_curves(panels)
    return Figure(
        title="Size of the covariance: λ_max and trace",
        shows="The largest eigenvalue and the trace of the covariance of updates and gradients at the probed steps.",
        how_to_read="The trace is the mean squared distance of one mini-batch's update from the mean update, λ_max the"
        " part of it along the direction that varies most. Both fall with the batch size, and grow with the square of"
        " the step's length: an optimizer with longer steps varies more.",
        formula=SIGMA,
        data=curves.data,
        paint=curves.paint,
        finding=_medians(frame, "update", "eigenvalue_1", "Median λ_max of the updates"),
        notes=curves.notes,
    )


def spread(frame: pd.DataFrame) -> Figure:
    """Participation ratio and effective rank, overlap of subspaces, cosine."""
    names = {
        "participation_ratio": "participation ratio",
        "effective_rank": "effective rank",
        "overlap": "overlap with the probe before",
        "overlap_halves": "overlap of two halves",
        "cosine": "cosine of mean update and −gradient",
    }
    wanted = [("update", q) for q in names]
    panels = _panels(frame, wanted, names)
    curves = make_curves(panels)
    most = int(frame["n"][frame["quantity"] == "participation_ratio"].max()) - 1
    return Figure(
        title="Directions of the updates' covariance",
        shows="Over how many directions the updates vary, whether these stay the same from probe to probe, and whether"
        " the mean update goes down the mean gradient.",
        how_to_read="Participation ratio and effective rank lie between 1 and the number of mini-batches − 1"
        f" ({most:,} here), and come out low where that is small. The overlap of leading subspaces is 1 for the same"
        " and next to 0 for random ones; noise of estimation alone brings it down to about what the two halves of one"
        " step's samples have. The cosine is 1 where the optimizer follows the gradient.",
        formula=f"(Σλ)² / Σλ²; exp(−Σ p log p), p = λ / Σλ; ‖U Vᵀ‖² / k; ⟨ū, −ḡ⟩ / (‖ū‖ ‖ḡ‖). {SIGMA}",
        data=curves.data,
        paint=curves.paint,
        finding=_medians(frame, "update", "participation_ratio", "Median participation ratio of the updates"),
        notes=curves.notes,
    )


def noise(frame: pd.DataFrame) -> Figure:
    """The gradient noise scale, with what it is made of."""
    names = {
        "noise_scale": "noise scale",
        "trace_per_sample": "noise of one sample, tr(Σ₁)",
        "gradient_square": "squared gradient, |G|²",
    }
    curves = make_curves(_panels(frame, [("grad", q) for q in names], names, scale="auto"))
    rows = _of(frame, "grad", "noise_scale")
    unknown = int((~np.isfinite(rows["value"])).sum())
    notes = curves.notes
    if unknown:
        notes = (
            *notes,
            f"At {unknown} of {len(rows)} probes the mean gradient cannot be told from 0, and there is no noise scale.",
        )
    medians = rows.groupby("label", observed=True)[["value", "low", "high"]].median().dropna(subset="value")
    said = {
        label: f"{number(row['value'], 2)} ({number(row['low'], 2)} to {number(row['high'], 2)})"
        for label, row in medians.iterrows()
    }
    return Figure(
        title="Gradient noise scale",
        shows="The batch size at which the noise of the gradient is as large as the gradient itself.",
        how_to_read="With batches much smaller than it, averaging more samples pays almost in full; with much larger"
        " ones hardly. It usually rises as the gradient falls. The intervals (in the sentence above and in the"
        " metric's frame) are a jackknife's over mini-batches.",
        formula="tr(Σ₁) / |G|², Σ₁ = batch size × Σ, |G|² = ‖ḡ‖² − tr(Σ) / K (McCandlish et al. 2018, appendix A.1)",
        data=curves.data,
        paint=curves.paint,
        finding=f"Median over the probed steps, with the median 95 % interval, in training samples: {listed(said)}."
        if said
        else "",
        notes=notes,
    )


def paper(frame: pd.DataFrame) -> Figure:
    """The same sizes as the paper takes them."""
    names = {"paper_eigenvalue": "λ_max by power iteration", "paper_trace": "trace around the mean gradient's update"}
    curves = make_curves(_panels(frame, [("update", q) for q in names], names, scale="log"))
    return Figure(
        title="Size of the covariance as the paper takes it",
        shows="λ_max by power iteration and the trace, both around the update that the mean gradient makes.",
        how_to_read="For an optimizer that is linear in the gradient this is the covariance above; for others the"
        " update of the mean gradient is not the mean update, and their distance counts as variance here.",
        formula="Σₖ (uₖ − m)(uₖ − m)ᵀ / K, m the update of the mean gradient (as in Sobotka et al. 2023)",
        data=curves.data,
        paint=curves.paint,
        finding=_medians(frame, "update", "paper_eigenvalue", "Median λ_max of the updates"),
        notes=curves.notes,
    )


FIGURES: dict[str, FigureMaker] = {
    "Size of the covariance: λ_max and trace": size,
    "Directions of the updates' covariance": spread,
    "Gradient noise scale": noise,
    "Size of the covariance as the paper takes it": paper,
}


def _panels(
    frame: pd.DataFrame,
    wanted: Sequence[tuple[str, str]],
    names: dict[str, str],
    *,
    scale: Scale = "linear",
    average: Average = "geometric",
) -> list[Panel]:
    """A panel for each kind, quantity and batch size that has a number; ``MissingData`` with the notes if none has."""
    panels = []
    several = frame["batch_size"].nunique() > 1
    for kind, quantity in wanted:
        rows = _of(frame, kind, quantity)
        for batch_size, part in rows.groupby("batch_size"):
            if not np.isfinite(part["value"]).any():
                continue
            noun = f"{NOUN[kind]}, " if len({k for k, _ in wanted}) > 1 else ""
            name = f"{noun}{names[quantity]}" + (f", {batch(int(batch_size))}" if several else "")
            panels.append(Panel(name, part, YLABELS.get(quantity, names[quantity]), scale, average))
    if not panels:
        notes = [str(note) for kind, q in wanted for note in _of(frame, kind, q)["note"].unique() if note]
        raise MissingData("; ".join(dict.fromkeys(notes)) or "no probe has these numbers")
    return panels


def _of(frame: pd.DataFrame, kind: str, quantity: str) -> pd.DataFrame:
    return frame[(frame["kind"] == kind) & (frame["quantity"] == quantity)]


def _medians(frame: pd.DataFrame, kind: str, quantity: str, what: str) -> str:
    """For the smallest batch size that all labels share; numbers of several batch sizes are not compared."""
    rows = _of(frame, kind, quantity)
    rows = rows[np.isfinite(rows["value"])]
    labels = rows.groupby("batch_size")["label"].nunique()
    if rows.empty:
        return ""
    chosen = int(labels.idxmax())
    medians = rows[rows["batch_size"] == chosen].groupby("label", observed=True)["value"].median().dropna()
    said = listed({label: number(value, 2) for label, value in medians.items()})
    return f"{what} ({batch(chosen)}): {said}."
