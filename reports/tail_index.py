"""Figures of how heavy the tails of the noise are, beside what Gaussian noise gives."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd

from trajectory_tools.errors import MissingData
from trajectory_tools.metrics.verdict import Verdict, verdicts
from trajectory_tools.reports.curves import Panel, make_curves
from trajectory_tools.reports.figure import Figure, FigureMaker, rounded
from trajectory_tools.reports.panels import MAX_PANELS, NOUN, Layer, batch, paint_panels
from trajectory_tools.reports.words import first_few, number, one_line

__all__ = ["ABOUT", "FIGURES", "verdict_sentence"]

ABOUT = (
    "How heavy the tails of the noise are: what differs between the mini-batches at one step, with the parameters and"
    " the optimizer's state held. The tail index α is 2 for Gaussian noise and smaller for heavier tails; beside each"
    " estimate stands what the same estimator says of Gaussian noise of the same covariance."
)
NULL = "Gaussian noise of the same covariance, 5 to 95 %"
SURROGATE = "updates that the optimizer makes from Gaussian gradients of the same covariance, 5 to 95 %"
PHRASES = {
    "indistinguishable from": "indistinguishable from",
    "heavier than": "heavier tails than",
    "lighter than": "lighter tails than",
}
INTERVALS = (
    "The band in the label's colour is the 95 % bootstrap interval over mini-batches; of several runs all are means."
)


def pooled(frame: pd.DataFrame) -> Figure:
    """The paper's estimator, with both nulls."""
    layers = (
        Layer("pooled_block_null", NULL, "null"),
        Layer("pooled_block_surrogate", SURROGATE, "surrogate"),
        Layer("pooled_block", "estimate", "label"),
    )
    data, titles, notes = _data(frame, layers, kinds=("update", "grad"))
    return Figure(
        title="Tail index, all coordinates in one row (the paper's estimator)",
        shows="α of the noise of updates and gradients at the probed steps, and what the same estimator says of"
        " Gaussian noise.",
        how_to_read="Do not compare α with 2 here: all coordinates go into one row, and coordinates of different scale"
        " look like heavy tails, also where each is Gaussian. Compare it with the grey band. Inside, the noise cannot"
        " be told from Gaussian noise of the same covariance by this estimator; below, its tails are heavier; above,"
        " lighter. The dotted line asks the same of the optimizer: where the updates lie there, their α is what it"
        f" makes of any Gaussian gradients. {INTERVALS}",
        formula="1/α̂ = (mean log|Y| − mean log|X|) / log m; X all coordinates of all centred samples in one row, Y"
        " sums of blocks of m, m the largest divisor of their number up to its root (Mohammadi 2014, Corollary 2.4;"
        " Simsekli et al. 2019; as in Sobotka et al. 2023)",
        data=data,
        paint=partial(paint_panels, layers, titles, "α", None),
        finding=verdict_sentence(verdicts(frame)),
        notes=notes,
    )


def single_updates(frame: pd.DataFrame) -> Figure:
    """Per coordinate and on projections, of the updates."""
    return _single(frame, "update")


def single_gradients(frame: pd.DataFrame) -> Figure:
    """Per coordinate and on projections, of the gradients."""
    return _single(frame, "grad")


def _single(frame: pd.DataFrame, kind: str) -> Figure:
    views = ("coordinates", "projections")
    parts: list[pd.DataFrame] = []
    titles: dict[str, str] = {}
    notes: list[str] = []
    layers = (
        Layer("ecf_null", f"{NULL} (characteristic function)", "null"),
        Layer("ecf", "characteristic function", "label"),
        Layer("mcculloch", "quantiles", "second"),
    )
    for view in views:
        renamed = frame.assign(quantity=frame["quantity"].astype(str).str.replace(f"_{view}", "", regex=False))
        renamed = renamed[frame["quantity"].astype(str).str.contains(view)]
        data, of_view, said = _data(renamed, layers, kinds=(kind,))
        parts.append(data.assign(panel=data["panel"] + f", {view}"))
        titles |= {f"{panel}, {view}": f"{title}\n{view}" for panel, title in of_view.items()}
        notes += [note for note in said if note not in notes]
    found = verdicts(frame[frame["kind"] == kind], "ecf_projections")
    return Figure(
        title=f"Tail index of single coordinates and of projections: {NOUN[kind]}",
        shows=f"α of the {NOUN[kind]} coordinate by coordinate across the mini-batches, and of their projections on"
        " random directions: medians over coordinates and directions.",
        how_to_read="No coordinate is mixed with another here, so Gaussian noise has α = 2 (with few mini-batches a"
        " little less, as the grey band says), and an α below the band says that the tails are heavier, or the values"
        " more concentrated (many equal or near 0), than those of Gaussian noise of that covariance. On projections"
        f" many coordinates are summed, which makes light of tails that they do not share. {INTERVALS}",
        formula="characteristic function: the slope of log(−log|φ̂(t)|²) in log t (Koutrouvelis 1980); quantiles:"
        " (Q.95 − Q.05) / (Q.75 − Q.25) looked up (McCulloch 1986)",
        data=pd.concat(parts, ignore_index=True),
        paint=partial(paint_panels, layers, titles, "α", 2.05),
        finding=verdict_sentence(found, "On projections, by the characteristic function – "),
        notes=tuple(notes),
    )


def laws(frame: pd.DataFrame) -> Figure:
    """Likelihood under Student's t and α-stable laws beside the Gaussian's."""
    panels = []
    for kind, noun in NOUN.items():
        for law, name in (("student", "Student's t"), ("stable", "α-stable")):
            rows = frame[(frame["kind"] == kind) & (frame["quantity"] == f"{law}_gain")]
            for size, part in rows.groupby("batch_size"):
                of_batch = f", {batch(int(size))}" if rows["batch_size"].nunique() > 1 else ""
                ylabel = "nats per sample"
                panels.append(Panel(f"{noun}, {name}{of_batch}", part, ylabel, line=(0.0, "a Gaussian")))
    gains = frame[frame["quantity"].isin(["student_gain", "stable_gain"])]
    if not np.isfinite(gains["value"]).any():
        raise MissingData(_reasons(gains) or "no probe has this comparison")
    curves = make_curves(panels)
    gains = frame[(frame["kind"] == "update") & frame["quantity"].isin(["student_gain", "stable_gain"])]
    means = gains.groupby(["label", "quantity"], observed=True)["value"].mean().unstack("quantity")
    said = []
    for label, row in means.dropna().iterrows():
        best = "Student's t" if row["student_gain"] >= row["stable_gain"] else "an α-stable law"
        best = "a Gaussian" if max(row["student_gain"], row["stable_gain"]) <= 0 else best
        said.append(f"{one_line(str(label), 40)} {best}")
    return Figure(
        title="Gaussian, Student's t or α-stable",
        shows="How much more likely the samples' projections are under heavy-tailed laws than under a Gaussian.",
        how_to_read="Above the dashed line the law with heavy tails is preferred, after it has paid for its shape;"
        " exactly as far below it as one shape costs, the fit has chosen the Gaussian within the law. Where both are"
        " above, the higher one fits better: Student's t with many degrees of freedom has tails that no α-stable law"
        " has.",
        formula="(log-likelihood − that of a Gaussian − 1 for the shape of each projection) / samples, each projection"
        " with its own location and scale (AIC / 2, Akaike 1974)",
        data=curves.data,
        paint=curves.paint,
        finding=f"Preferred for the updates, in the mean: {'; '.join(first_few(said))}." if said else "",
        notes=curves.notes,
    )


FIGURES: dict[str, FigureMaker] = {
    "Tail index, all coordinates in one row (the paper's estimator)": pooled,
    "Tail index of single coordinates and of projections: updates": single_updates,
    "Tail index of single coordinates and of projections: gradients": single_gradients,
    "Gaussian, Student's t or α-stable": laws,
}


def verdict_sentence(found: dict[tuple[object, ...], Verdict], of: str = "") -> str:
    """What follows, verdict by verdict; empty where nothing is known."""
    by_verdict: dict[str, list[str]] = {}
    for (label, kind, size), verdict in found.items():
        sizes = {key[2] for key in found if key[0] == label}
        which = f", {batch(int(str(size)))}" if len(sizes) > 1 else ""
        beside = f"α {number(verdict.alpha)}, null {number(verdict.null)}"
        if 0 < verdict.outside < verdict.probes:
            beside += f"; outside the null's band at {verdict.outside} of {verdict.probes} probes"
        text = f"{NOUN[str(kind)]} of {one_line(str(label), 40)}{which} ({beside})"
        by_verdict.setdefault(verdict.said, []).append(text)
    said = [
        f"{PHRASES[verdict]} Gaussian noise of the same covariance: {', '.join(first_few(who, 8))}"
        for verdict, who in by_verdict.items()
    ]
    sentences = ". ".join(one if of else one[0].upper() + one[1:] for one in said)
    return f"{of}{sentences}." if said else ""


def _reasons(rows: pd.DataFrame) -> str:
    """Why there is no number, each reason once; of too few samples how many there are and how many are needed."""
    notes = [note for note in dict.fromkeys(rows["note"].astype(str)) if note]
    found = [(note, re.fullmatch(r"not enough samples: (\d+), and (?:a )?(\S+) needs (\d+).*", note)) for note in notes]
    said = [note for note, match in found if not match]
    few = [match.groups() for _, match in found if match]
    if few:
        there = " or ".join(dict.fromkeys(n for n, _, _ in few))
        needs = ", ".join(dict.fromkeys(f"{what} needs {least}" for _, what, least in few))
        said.append(f"not enough samples: {there}, where {needs}")
    return "; ".join(said)


def _data(
    frame: pd.DataFrame, layers: Sequence[Layer], *, kinds: Sequence[str]
) -> tuple[pd.DataFrame, dict[str, str], tuple[str, ...]]:
    """panel, label, series, step, value, low, high, runs; panel → title; what was left out and why."""
    rows = frame[frame["quantity"].isin([layer.series for layer in layers]) & frame["kind"].isin(kinds)]
    estimates = {layer.series for layer in layers if layer.look in ("label", "second")}
    missing = rows[rows["quantity"].isin(estimates) & ~np.isfinite(rows["value"])]
    notes = [f"{said}."] if (said := _reasons(missing)) else []
    rows = rows[np.isfinite(rows["value"])]
    if rows.empty:
        raise MissingData(_reasons(missing) or "no probe has this estimate")
    sizes = rows["batch_size"].nunique()
    groups = rows.groupby(["label", "kind", "batch_size", "quantity", "step"], observed=True, sort=False)
    table = groups[["value", "low", "high"]].mean().join(groups["run"].nunique().rename("runs")).reset_index()
    table = table.astype({"label": str, "kind": str, "quantity": str}).rename(columns={"quantity": "series"})
    table["order"] = table["kind"].map({kind: i for i, kind in enumerate(kinds)})
    table = table.sort_values(["order", "batch_size"], kind="stable")
    table["panel"] = table["label"] + ": " + table["kind"].map(NOUN)
    if sizes > 1:
        table["panel"] += ", " + table["batch_size"].map(lambda size: batch(int(size)))
    panels = list(dict.fromkeys(table["panel"]))
    if len(panels) > MAX_PANELS:
        notes.append(f"The first {MAX_PANELS} of {len(panels)} panels are shown.")
        table = table[table["panel"].isin(panels[:MAX_PANELS])]
    titles = {panel: one_line(panel, 44) for panel in panels[:MAX_PANELS]}
    table = table.sort_values(["order", "panel", "series", "step"], kind="stable")
    columns = ["panel", "label", "batch_size", "series", "step", "value", "low", "high", "runs"]
    return rounded(table[columns]), titles, tuple(notes)
