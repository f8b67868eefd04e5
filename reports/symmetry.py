"""Figures of symmetry breaking: how far updates leave what gradients must keep to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trajectory_tools.errors import MissingData
from trajectory_tools.metrics.summary import chances, median_shares
from trajectory_tools.reports.axes import add_legend, grid_of_axes, log_axis
from trajectory_tools.reports.curves import Panel, make_curves
from trajectory_tools.reports.figure import Figure, FigureMaker, rounded
from trajectory_tools.reports.style import RunStyle
from trajectory_tools.reports.words import first_few, listed, number, one_line, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

__all__ = ["ABOUT", "FIGURES", "KEPT"]

ABOUT = (
    "Some changes of the parameters leave the loss as it is; a gradient has no part along them, so plain SGD does not"
    " move along them but for rounding. What an optimizer makes of the gradient (momentum, a division, a sign) may"
    " have."
)
GENERATORS = (
    "ξⱼ is the direction of the symmetry for unit j: (w_in[j], b[j], −w_out[:,j]) for rescale, (w[j], b[j]) for scale,"
    " ones in column j for translation; v = gₜ for gradients and v = −uₜ for updates."
)
MAX_GROUPS = 6
UNIT_STEPS = 4

KEPT = 1e-4
"""A share below this part of chance is called rounding: float32 leaves up to 1e-11, batch normalization's ε 1e-10."""


def signed_sum(frame: pd.DataFrame) -> Figure:
    """|Σ_j ⟨v, ξ_j⟩| of the updates, as Sobotka et al. plot it."""
    curves = make_curves(
        Panel(
            name,
            _part(frame, group, "update", "deviation"),
            "|Σⱼ ⟨u, ξⱼ⟩|",
            "log",
            reference=_part(frame, group, "grad", "deviation"),
            title=title_of(group, name),
        )
        for group, name in shown_groups(frame).items()
    )
    medians = frame[_is(frame, "update", "deviation")].groupby(["group", "label"], observed=True)["value"].median()
    return Figure(
        title="Signed sum of the symmetry's constraint",
        shows="How far the updates violate what the symmetry prescribes for gradients, summed with sign over the"
        " units.",
        how_to_read="Gradients lie at the level of rounding (grey), and so does an optimizer that keeps the symmetry."
        " Units can cancel each other and the number grows with the size of the updates, so compare levels by orders"
        " of magnitude here, and shares in the next figure.",
        formula=f"|Σⱼ ⟨v, ξⱼ⟩|. {GENERATORS} (Kunin et al. 2021; as in Sobotka et al. 2023)",
        data=curves.data,
        paint=curves.paint,
        finding=_sentence(medians, lambda value, _: number(value, 2), "Median over the steps"),
        notes=(*curves.notes, *_left_out(frame)),
    )


def share(frame: pd.DataFrame) -> Figure:
    """The share of the update along the symmetry, beside chance."""
    chance = chances(frame)
    curves = make_curves(
        Panel(
            name,
            _part(frame, group, "update", "share"),
            "share of ‖u‖² along the symmetry",
            "log",
            line=(chance[group], "chance"),
            reference=_part(frame, group, "grad", "share"),
            title=title_of(group, name),
        )
        for group, name in shown_groups(frame).items()
    )
    medians = median_shares(frame)["share"]
    return Figure(
        title="Share of the update along the symmetry, against chance",
        shows="Which part of the squared update lies along the symmetry's directions, where a gradient has nothing.",
        how_to_read="1 would be an update that does nothing else. The dashed line is what a random direction has in"
        " the mean: above it the optimizer seeks the symmetry's directions out, below it avoids them, and at the level"
        " of the gradients (grey) it keeps the symmetry. Rounding weighs more as updates get small beside the weights,"
        " so that level may rise with time.",
        formula=f"Σⱼ ⟨v, ξⱼ⟩² / ‖ξⱼ‖² / ‖v‖² over the group's own parameters; chance = number of ξⱼ / number of"
        f" parameters. {GENERATORS}",
        data=curves.data,
        paint=curves.paint,
        finding=_verdict(medians, chance),
        notes=(*curves.notes, *_left_out(frame)),
    )


def drift(frame: pd.DataFrame) -> Figure:
    """How far the conserved quantity has moved since the first recorded step."""
    changes = _drift(frame)
    curves = make_curves(
        Panel(
            name,
            changes[changes["group"] == group],
            "Q(θₜ₊₁) − Q(θ_first)",
            "symlog",
            title=title_of(group, name),
        )
        for group, name in shown_groups(frame).items()
    )
    last = changes[changes["step"] == changes.groupby("run", observed=True)["step"].transform("max")]
    ends = last.groupby(["group", "label"], observed=True)["value"].mean()
    return Figure(
        title="Drift of the conserved quantity",
        shows="How far the quantity that gradient flow would conserve has moved since the first recorded step.",
        how_to_read="Under gradient flow every curve would stay at 0. SGD's finite steps move Q only by the difference"
        " of the squared update's two halves (nothing for translation); what moves further breaks the symmetry. Where"
        " the curves differ by more than a hundredfold, the axis is logarithmic on both sides of 0 and linear around"
        " it.",
        formula="Q = ‖A‖² − ‖B‖² for rescale (A the incoming, B the outgoing parameters), ‖A‖² for scale, Σ A for"
        " translation; ΔQ = 2(⟨A, u_A⟩ − ⟨B, u_B⟩) + (‖u_A‖² − ‖u_B‖²), exact for any optimizer",
        data=curves.data,
        paint=curves.paint,
        finding=_sentence(
            ends, lambda value, _: ("+" if value > 0 else "") + number(value, 2), "Mean change of Q by the last step"
        ),
        notes=(*curves.notes, *_left_out(frame)),
    )


def units(frame: pd.DataFrame) -> Figure:
    """⟨u, ξ_j⟩ of each single unit of one run of each label."""
    rows = frame[_is(frame, "update", "unit")]
    first_runs = frame.groupby("label", observed=True)["run"].first()
    rows = rows[rows["run"].isin(first_runs)]
    steps = _spread(_common_steps(rows))
    groups = shown_groups(frame)
    rows = rows[rows["step"].isin(steps) & rows["group"].isin(groups) & np.isfinite(rows["value"])]
    if rows.empty:
        raise MissingData("no finite numbers of single units were recorded")
    data = rows[["group", "label", "step", "unit", "value"]].astype({"group": str, "label": str})
    medians = (
        data[data["step"] == steps[-1]].groupby(["group", "label"], sort=False)["value"].agg(lambda v: v.abs().median())
    )
    data = data.rename(columns={"group": "panel"}).assign(panel=data["group"].map(groups), value=data["value"].abs())
    zeros = int((data["value"] == 0).sum())
    seeds = frame.drop_duplicates("run").set_index("run")["seed"].astype(str)[list(first_runs)].unique()
    runs = f"seed {seeds[0]}" if len(seeds) == 1 and seeds[0] != "None" else "the first run"
    return Figure(
        title="The constraint unit by unit",
        shows=f"How far each single unit's constraint is violated by the update at some steps ({runs} of each label).",
        how_to_read="Each dot is one unit, from left to right in their order. Nothing cancels here: where all of an"
        " optimizer's dots lie low, every unit keeps its symmetry.",
        formula=f"|⟨uₜ, ξⱼ⟩|. {GENERATORS}",
        data=rounded(data),
        paint=partial(_paint_units, groups),
        finding=_sentence(medians, lambda value, _: number(value, 2), f"Median over the units at step {steps[-1]:,}"),
        notes=(
            *([f"{zeros:,} of {len(data):,} dots are exactly 0, drawn at the lower edge."] if zeros else []),
            *_left_out(frame),
        ),
    )


FIGURES: dict[str, FigureMaker] = {
    "Signed sum of the symmetry's constraint": signed_sum,
    "Share of the update along the symmetry, against chance": share,
    "Drift of the conserved quantity": drift,
    "The constraint unit by unit": units,
}


def shown_groups(frame: pd.DataFrame) -> dict[str, str]:
    """Group → what the data calls it: its kind, numbered where there are several.

    In their order; where there are many, the six whose updates have the largest share.
    """
    groups = [str(group) for group in frame["group"].unique()]
    kinds = [group.partition(" ")[0] for group in groups]
    names = {
        group: kind if kinds.count(kind) == 1 else f"{kind} {kinds[: i + 1].count(kind)}"
        for i, (group, kind) in enumerate(zip(groups, kinds, strict=True))
    }
    if len(groups) > MAX_GROUPS:
        shares = frame[_is(frame, "update", "share")].groupby("group", observed=True)["value"].median()
        largest = set(shares.sort_values(ascending=False).index[:MAX_GROUPS])
        groups = [group for group in groups if group in largest]
    return {group: names[group] for group in groups}


def title_of(group: str, name: str) -> str:
    """``rescale 0.weight+0.bias → 2.weight``, or ``rescale 2: …`` where the group is called so."""
    kind, _, parameters = group.partition(" ")
    return group if name == kind else f"{name}: {parameters}"


def _sentence(values: pd.Series[float], said: Callable[[float, str], str], what: str) -> str:
    """What each label has in the first group; the others have their panels."""
    values = values.dropna()
    if values.empty:
        return ""
    group = str(values.index[0][0])
    of_group = values.xs(group, level=0)
    return f"{what} in {group}: {listed({label: said(float(value), group) for label, value in of_group.items()})}."


def _verdict(shares: pd.Series[float], chance: Mapping[str, float]) -> str:
    """Who keeps the first group's symmetry and who breaks it."""
    shares = shares.dropna()
    if shares.empty:
        return ""
    group = str(shares.index[0][0])
    level = chance[group]
    of_group = shares.xs(group, level=0)
    kept, broken = [], []
    for label, value in of_group.items():
        if value < KEPT * level:
            kept.append(f"{one_line(label, 40)} ({number(value, 2)})")
        else:
            broken.append(f"{one_line(label, 40)} ({number(value, 2)}, {number(value / level, 2)} × chance)")
    said = [
        f"{verb} by {', '.join(first_few(who))}"
        for verb, who in (("kept but for rounding", kept), ("broken", broken))
        if who
    ]
    return (
        f"The symmetry {group} is {', and '.join(said)}: median shares of the update, where chance is {number(level)}."
    )


def _is(frame: pd.DataFrame, kind: str, quantity: str) -> pd.Series[bool]:
    return (frame["kind"] == kind) & (frame["quantity"] == quantity)


def _part(frame: pd.DataFrame, group: str, kind: str, quantity: str) -> pd.DataFrame:
    return frame[(frame["group"] == group) & _is(frame, kind, quantity)]


def _left_out(frame: pd.DataFrame) -> tuple[str, ...]:
    n_groups = frame["group"].nunique()
    if n_groups <= MAX_GROUPS:
        return ()
    return (f"Of {n_groups} groups the {MAX_GROUPS} are shown in which the updates have the largest share.",)


def _drift(frame: pd.DataFrame) -> pd.DataFrame:
    """Q after each recorded step, minus Q before the run's first recorded one; right also where steps were left out."""
    keys = ["run", "label", "group", "step"]
    before = frame[_is(frame, "update", "conserved")].set_index(keys)["value"]
    change = frame[_is(frame, "update", "conserved_change")].set_index(keys)["value"]
    table = pd.DataFrame({"before": before, "change": change}).reset_index().sort_values("step", kind="stable")
    start = table.groupby(["run", "group"], observed=True)["before"].transform("first")
    return table.assign(value=table["before"] + table["change"] - start)


def _common_steps(rows: pd.DataFrame) -> NDArray[np.int64]:
    """The steps that all of the runs have, or, where there are none, those that some have."""
    runs = rows.groupby("step")["run"].nunique()
    common = runs.index[runs == rows["run"].nunique()]
    return np.asarray(common if len(common) else runs.index, np.int64)


def _spread(steps: NDArray[np.int64]) -> list[int]:
    """Up to four of the steps, from the first to the last, spaced evenly on a logarithmic axis."""
    if not len(steps):
        return []
    wanted = np.geomspace(1, steps[-1] - steps[0] + 1, UNIT_STEPS) + steps[0] - 1
    return sorted({int(steps[np.abs(steps - one).argmin()]) for one in wanted})


def _paint_units(groups: Mapping[str, str], canvas: Canvas, data: pd.DataFrame, style: RunStyle) -> None:
    steps = sorted(data["step"].unique())
    labels = [label for label in style.labels if (data["label"] == label).any()]
    lane = 0.84 / len(labels)
    panels = [(group, name) for group, name in groups.items() if (data["panel"] == name).any()]
    for axes, (group, name) in zip(grid_of_axes(canvas, len(panels)), panels, strict=True):
        part = data[data["panel"] == name]
        width = max(part["unit"].max() + 1, 2)
        for position, label in enumerate(labels):
            dots = part[part["label"] == label]
            center = np.searchsorted(steps, dots["step"]) + (position - (len(labels) - 1) / 2) * lane
            x = center + (dots["unit"] / (width - 1) - 0.5) * lane * 0.8
            color, zero = style.color(label), dots["value"] == 0
            _dots(axes, x[~zero], dots["value"][~zero], color)
            if zero.any():
                edge = axes.get_xaxis_transform()
                axes.plot(x[zero], dots["value"][zero], "|", color=color, markersize=4, transform=edge)
        axes.set_title(wrapped(title_of(group, name)))
        axes.set_ylabel("|⟨u, ξⱼ⟩| of one unit")
        axes.set_xlabel("step")
        axes.set_xticks(range(len(steps)), [f"{step:,}" for step in steps])
        axes.tick_params(axis="x", length=0)
        if (part["value"] > 0).any():
            axes.set_yscale("log")
            log_axis(axes, "y")
    add_legend(canvas, labels, style)


def _dots(axes: Axes, x: pd.Series[float], y: pd.Series[float], color: str) -> None:
    """Dots as round ends of lines of no length: one path for all, a quarter of the size of as many markers."""
    gap = np.full(len(x), np.nan)
    xs, ys = (np.column_stack([one, one, gap]).ravel() for one in (x, y))
    axes.plot(xs, ys, "-", color=color, linewidth=2.2, solid_capstyle="round")
