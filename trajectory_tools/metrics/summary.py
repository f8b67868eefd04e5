"""A comparison in one table: a row for each problem and label, the mean over its seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from trajectory_tools.metrics.compute import Analysis
from trajectory_tools.metrics.histogram import WHOLE
from trajectory_tools.run import Run

__all__ = ["LAST_STEPS", "summarize"]

LAST_STEPS = 10
"""The final loss is the mean over so many last steps: one mini-batch is noisy."""


def summarize(runs: Sequence[Run], analyses: Mapping[str, Analysis]) -> pd.DataFrame:
    """Columns: problem, label, seeds, steps (of the longest); then, where they were computed,

    - ``loss`` and ``loss sd``: the training loss over the last ``LAST_STEPS`` steps, mean and sd over seeds;
    - ``<kind> share`` and ``<kind> / chance`` for each kind of symmetry: the share of the update along it, median over
      steps and seeds, and how many times what a random direction has; the mean over groups of that kind;
    - ``update/weight``: the median over steps of ‖u‖/‖θ‖;
    - ``path/displacement``: Σ‖u‖ over ‖θ_end − θ_first‖, 1 for a straight line;
    - ``non-finite``: NaN or infinite values among all params, grads and updates.
    """
    table = pd.DataFrame(
        {
            "run": [run.name for run in runs],
            "problem": [run.problem for run in runs],
            "label": [run.label for run in runs],
            "steps": [run.n_steps for run in runs],
        }
    )
    for name, numbers in (("loss", _loss), ("dynamics", _dynamics)):
        if name in analyses and not analyses[name].frame.empty:
            table = table.merge(numbers(analyses[name].frame), how="left", left_on="run", right_index=True)
    if "non-finite" in table:
        table["non-finite"] = table["non-finite"].fillna(0)
    grouped = table.drop(columns="run").groupby(["problem", "label"], sort=False)
    summary = grouped.mean()
    summary["steps"] = grouped["steps"].max()
    summary.insert(0, "seeds", grouped.size())
    if "loss" in summary:
        summary.insert(summary.columns.get_loc("loss") + 1, "loss sd", grouped["loss"].std())
    if "symmetry" in analyses and not analyses["symmetry"].frame.empty:
        problems = dict(zip(table["run"], table["problem"], strict=True))
        summary = summary.join(_symmetry(analyses["symmetry"].frame, problems))
    return summary.reset_index()


def _loss(frame: pd.DataFrame) -> pd.DataFrame:
    losses = frame[frame["quantity"] == "loss"]
    return losses.groupby("run", observed=True)["value"].agg(lambda v: v.tail(LAST_STEPS).mean()).to_frame("loss")


def _symmetry(frame: pd.DataFrame, problems: Mapping[str, str]) -> pd.DataFrame:
    frame = frame[["run", "label", "group", "kind", "quantity", "value"]].astype(
        {"run": str, "label": str, "group": str}
    )
    frame = frame.assign(problem=frame["run"].map(problems))
    by_group = ["problem", "label", "group"]
    shares = frame[(frame["kind"] == "update") & (frame["quantity"] == "share")].groupby(by_group)["value"].median()
    chances = frame[frame["quantity"] == "chance"].groupby(by_group)["value"].first()
    both = pd.DataFrame({"share": shares, "ratio": shares / chances}).reset_index()
    both["kind"] = both["group"].str.split(" ").str[0]
    means = both.groupby(["problem", "label", "kind"])[["share", "ratio"]].mean().unstack("kind")
    names = {"share": "{} share", "ratio": "{} / chance"}
    means.columns = [names[column].format(kind) for column, kind in means.columns]
    return means.reindex(columns=sorted(means.columns, reverse=True))


def _dynamics(frame: pd.DataFrame) -> pd.DataFrame:
    whole = frame[frame["parameter"] == WHOLE]
    by_run = whole.pivot_table(index=["run", "step"], columns=["kind", "quantity"], values="value", observed=True)
    columns = {}
    if ("update", "ratio") in by_run:
        columns["update/weight"] = by_run["update", "ratio"].groupby("run", observed=True).median()
    if {("update", "path_length"), ("update", "displacement")} <= set(by_run.columns):
        last = by_run["update"][["path_length", "displacement"]].groupby("run", observed=True).tail(1)
        ratio = last["path_length"] / last["displacement"].replace(0, np.nan)
        columns["path/displacement"] = ratio.groupby("run", observed=True).first()
    nonfinite = whole[whole["quantity"] == "nonfinite"]
    if not nonfinite.empty:
        columns["non-finite"] = nonfinite.groupby("run", observed=True)["value"].sum()
    return pd.DataFrame(columns)
