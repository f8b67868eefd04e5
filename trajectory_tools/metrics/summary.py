"""What a comparison comes to: the numbers that matter most, of each run or label, and all of them in one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from trajectory_tools.metrics.compute import Analysis
from trajectory_tools.metrics.histogram import WHOLE
from trajectory_tools.metrics.labels import compared_under, told_apart
from trajectory_tools.metrics.verdict import verdicts
from trajectory_tools.run import Run

__all__ = ["LAST_STEPS", "chances", "distances", "final_distances", "final_values", "median_shares", "summarize"]

LAST_STEPS = 10
"""The final loss is the mean over so many last steps: one mini-batch is noisy."""


def summarize(runs: Sequence[Run], analyses: Mapping[str, Analysis]) -> pd.DataFrame:
    """A row for each problem and label: problem, label, seeds, steps (of the longest); then, where they were computed,

    - ``loss`` and ``loss sd``: ``final_values``, mean and sd over seeds;
    - ``<kind> share`` and ``<kind> / chance`` for each kind of symmetry: ``median_shares``, and how many times what a
      random direction has; the mean over groups of that kind;
    - ``update/weight``: the median over steps of ‖u‖/‖θ‖;
    - ``path/displacement``: the quotient of ``final_distances``, 1 for a straight line;
    - ``non-finite``: NaN or infinite values among all params, grads and updates;
    - ``α updates`` and ``α null``: the updates' tail index by the paper's estimator, mean over the probed steps, and
      what it says of Gaussian noise of the same covariance; ``tails``: the verdict (``metrics.verdict``), and
      how many of the probes that have an α lie outside of the null's band;
    - ``noise scale`` of the gradients, in training samples, and ``λ_max updates``: medians over the probed steps.

    Where several batch sizes were probed, these hold for the largest.
    """
    labels, problems = told_apart(runs), compared_under(runs)
    table = pd.DataFrame(
        {
            "run": [run.name for run in runs],
            "problem": [problems[run.name] for run in runs],
            "label": [labels[run.name] for run in runs],
            "steps": [run.n_steps for run in runs],
        }
    )
    frames = {name: analysis.frame for name, analysis in analyses.items() if not analysis.frame.empty}
    if "loss" in frames:
        table = table.join(final_values(frames["loss"]).droplevel("label").rename("loss"), on="run")
    if "dynamics" in frames:
        table = table.join(_dynamics(frames["dynamics"]), on="run")
    if "non-finite" in table:
        table["non-finite"] = table["non-finite"].fillna(0)
    grouped = table.drop(columns="run").groupby(["problem", "label"], sort=False)
    summary = grouped.mean()
    summary["steps"] = grouped["steps"].max()
    summary.insert(0, "seeds", grouped.size())
    if "loss" in summary:
        summary.insert(summary.columns.get_loc("loss") + 1, "loss sd", grouped["loss"].std())
    if "symmetry" in frames:
        summary = summary.join(_symmetry(frames["symmetry"], dict(zip(table["run"], table["problem"], strict=True))))
    problems = dict(zip(table["run"], table["problem"], strict=True))
    if "tail_index" in frames:
        summary = summary.join(_tails(frames["tail_index"], problems))
    if "covariance" in frames:
        summary = summary.join(_noise(frames["covariance"], problems))
    return summary.reset_index()


def final_values(frame: pd.DataFrame, quantity: str = "loss") -> pd.Series[float]:
    """(label, run) → mean over the run's last ``LAST_STEPS`` logged steps; NaN where one of them is NaN."""
    part = frame[frame["quantity"] == quantity].sort_values("step")
    last = part.groupby(["label", "run"], observed=True).tail(LAST_STEPS)
    return last.groupby(["label", "run"], observed=True)["value"].agg(lambda values: values.mean(skipna=False))


def median_shares(frame: pd.DataFrame) -> pd.DataFrame:
    """(group, label) → the median over steps and runs of the updates' ``share``, and ``chance``; of one problem."""
    rows = frame[(frame["kind"] == "update") & (frame["quantity"] == "share")]
    table = rows.groupby(["group", "label"], observed=True)["value"].median().rename("share").to_frame()
    return table.assign(chance=table.index.get_level_values("group").map(chances(frame)).astype(float))


def chances(frame: pd.DataFrame) -> dict[str, float]:
    """Group → the share that a random direction has."""
    rows = frame[frame["quantity"] == "chance"].drop_duplicates("group")
    return {str(group): float(value) for group, value in zip(rows["group"], rows["value"], strict=True)}


def distances(frame: pd.DataFrame) -> pd.DataFrame:
    """run, label, step, path_length and displacement of the whole network, where both are known."""
    keys = ["run", "label", "step"]
    whole = frame[(frame["parameter"] == WHOLE) & (frame["kind"] == "update")]
    columns = {q: whole[whole["quantity"] == q].set_index(keys)["value"] for q in ("path_length", "displacement")}
    table = pd.DataFrame(columns).reset_index()
    return table[np.isfinite(table["path_length"]) & np.isfinite(table["displacement"])]


def final_distances(frame: pd.DataFrame) -> pd.DataFrame:
    """(label, run) → path length and displacement at the last step where they are known; empty where at none."""
    wide = distances(frame).sort_values("step")
    return wide.groupby(["label", "run"], observed=True)[["path_length", "displacement"]].last()


def _symmetry(frame: pd.DataFrame, problems: Mapping[str, str]) -> pd.DataFrame:
    of_problem = frame["run"].astype(str).map(problems)
    parts = {problem: median_shares(part) for problem, part in frame.groupby(of_problem, sort=False)}
    both = pd.concat(parts, names=["problem"]).reset_index().astype({"group": str, "label": str})
    both = both.assign(ratio=both["share"] / both["chance"], kind=both["group"].str.split(" ").str[0])
    means = both.groupby(["problem", "label", "kind"])[["share", "ratio"]].mean().unstack("kind")
    names = {"share": "{} share", "ratio": "{} / chance"}
    means.columns = [names[column].format(kind) for column, kind in means.columns]
    return means.reindex(columns=sorted(means.columns, reverse=True))


def _dynamics(frame: pd.DataFrame) -> pd.DataFrame:
    whole = frame[frame["parameter"] == WHOLE]
    columns = {}
    ratios = whole[(whole["kind"] == "update") & (whole["quantity"] == "ratio")]
    if not ratios.empty:
        columns["update/weight"] = ratios.groupby("run", observed=True)["value"].median()
    ends = final_distances(frame).droplevel("label")
    if not ends.empty:
        columns["path/displacement"] = ends["path_length"] / ends["displacement"].replace(0, np.nan)
    nonfinite = whole[whole["quantity"] == "nonfinite"]
    if not nonfinite.empty:
        columns["non-finite"] = nonfinite.groupby("run", observed=True)["value"].sum()
    return pd.DataFrame(columns)


def _largest_batch(frame: pd.DataFrame, problems: Mapping[str, str]) -> pd.DataFrame:
    """With the problem of each row, and of each run the rows of its largest batch size alone."""
    found = frame.assign(problem=frame["run"].astype(str).map(problems))
    return found[found["batch_size"] == found.groupby("run", observed=True)["batch_size"].transform("max")]


def _tails(frame: pd.DataFrame, problems: Mapping[str, str]) -> pd.DataFrame:
    rows = _largest_batch(frame, problems)
    rows = rows[rows["kind"] == "update"]
    parts = {
        (problem, str(label)): {
            "α updates": verdict.alpha,
            "α null": verdict.null,
            "tails": f"{verdict.said.split()[0]} ({verdict.outside} of {verdict.probes} outside)",
        }
        for problem, part in rows.groupby("problem", sort=False)
        for (label,), verdict in verdicts(part, keys=["label"]).items()
    }
    table = pd.DataFrame.from_dict(parts, orient="index", columns=["α updates", "α null", "tails"])
    return table.set_axis(pd.MultiIndex.from_tuples(parts or [("", "")][:0], names=["problem", "label"]))


def _noise(frame: pd.DataFrame, problems: Mapping[str, str]) -> pd.DataFrame:
    rows = _largest_batch(frame, problems).astype({"label": str})
    columns = {}
    for name, kind, quantity in (
        ("noise scale", "grad", "noise_scale"),
        ("λ_max updates", "update", "eigenvalue_1"),
    ):
        part = rows[(rows["kind"] == kind) & (rows["quantity"] == quantity)]
        if np.isfinite(part["value"]).any():
            columns[name] = part.groupby(["problem", "label"])["value"].median()
    return pd.DataFrame(columns) if columns else pd.DataFrame(index=rows.groupby(["problem", "label"]).size().index)
