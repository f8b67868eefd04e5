"""The summary against the numbers that it summarizes, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from trajectory_tools.experiments.recording import Experiment
from trajectory_tools.metrics import analyze
from trajectory_tools.metrics.summary import LAST_STEPS, summarize
from trajectory_tools.problems import make_problem
from trajectory_tools.run import find_runs


def test_one_row_for_each_problem_and_label(tmp_path):
    problem = make_problem("digits-mlp", hidden=(4,), activation="relu")
    for seed in range(2):
        Experiment(problem, "adam").record(tmp_path / f"adam/{seed}", seed=seed, steps=14, label="Adam")
    Experiment(make_problem("quadratic"), "sgd", {"lr": 0.001}).record(tmp_path / "q", seed=0, steps=3, label="Adam")
    runs = find_runs([tmp_path])
    analyses = analyze(runs, saved=False)
    table = summarize(runs, analyses).set_index("problem")
    row = table.loc[next(run.problem for run in runs if "digits" in run.problem)]
    assert (row["seeds"], row["steps"]) == (2, 14)
    losses = [run.scalars()["loss"].tail(LAST_STEPS).mean() for run in runs if "digits" in run.problem]
    assert row["loss"] == pytest.approx(np.mean(losses), rel=1e-12)
    assert row["loss sd"] == pytest.approx(np.std(losses, ddof=1), rel=1e-12)
    frame = analyses["symmetry"].frame
    shares = frame[(frame["kind"] == "update") & (frame["quantity"] == "share")]
    for kind, generators, size in (("rescale", 4, 4 * 64 + 4 + 40), ("translation", 5, 50)):
        median = np.median(shares[shares["group"].astype(str).str.startswith(kind)]["value"])
        assert row[f"{kind} share"] == pytest.approx(median, rel=1e-12)
        assert row[f"{kind} / chance"] == pytest.approx(median * size / generators, rel=1e-12)
    assert np.isnan(table.loc["quadratic", "rescale share"])
    path = sum(np.linalg.norm(run.array("update", "theta"), axis=1).sum() for run in runs if run.problem == "quadratic")
    quadratic = next(run for run in runs if run.problem == "quadratic")
    end = quadratic.array("update", "theta").sum(axis=0)
    assert table.loc["quadratic", "path/displacement"] == pytest.approx(path / np.linalg.norm(end), rel=1e-5)
