"""What a reader should know before trusting a run's numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from trajectory_tools.metrics import Analysis
from trajectory_tools.metrics.histogram import WHOLE
from trajectory_tools.reports.described import hyperparameters
from trajectory_tools.reports.words import several
from trajectory_tools.run import KILLED, Run

__all__ = ["cautions"]

NOUN = {"param": "parameters", "grad": "gradients", "update": "updates"}
NOTED_WAIT = 0.5
"""Seconds that a training may wait for the recorder before it is said."""


def cautions(label: str, runs: Sequence[Run], analyses: Mapping[str, Analysis]) -> list[str]:
    """Sentences about the label's runs, each starting with the run it is about."""
    found = [f"{_called(run, runs)}{text}" for run in runs for text in _of_run(run, analyses)]
    found = _joined(found)
    if label != runs[0].label:
        found.append(
            f"the label {runs[0].label!r} is also that of runs with other parameters or another optimizer, which are"
            " told apart and not averaged"
        )
    options = list(dict.fromkeys(hyperparameters(run) for run in runs))
    if len(options) > 1:
        found.append(f"runs with different hyperparameters carry this label and are averaged: {' | '.join(options)}")
    lengths = sorted({run.n_steps for run in runs})
    if len(lengths) > 1:
        found.append(
            f"its runs differ in length ({lengths[0]:,} to {lengths[-1]:,} steps); means are over those that are there"
        )
    return found


def _called(run: Run, runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        return ""
    return f"{run.path.name}: " if run.seed is None else f"seed {run.seed}: "


def _joined(texts: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def _of_run(run: Run, analyses: Mapping[str, Analysis]) -> list[str]:
    texts = []
    if run.status != "finished":
        cause = next((str(s["error"]) for s in reversed(run.metadata["sessions"]) if s.get("error")), "")
        said = {
            "recording": "it is still being recorded",
            KILLED: "it was killed: what was recorded shortly before is missing",
            "interrupted": "it was interrupted",
            "failed": "it failed",
        }
        texts.append(said.get(run.status, f"its status is {run.status!r}") + (f": {cause}" if cause else ""))
    if not run.n_steps:
        return [*texts, "it has no recorded steps"]
    if run.skipped:
        listed = "; ".join(str(finding) for finding in run.skipped)
        texts.append(f"{several(len(run.skipped), 'damaged part')} left out: {listed}")
    texts += _partly_recorded(run)
    if any("optimizer" in session for session in run.metadata["sessions"]):
        texts.append(
            "it was resumed with another optimizer or other hyperparameters; run.json has those of each session"
        )
    tuned = run.metadata.get("tuning")
    if isinstance(tuned, Mapping) and int(tuned.get("steps", run.n_steps)) < run.n_steps:
        texts.append(
            f"its learning rate was chosen for the loss of the first {tuned['steps']:,} of its {run.n_steps:,} steps;"
            " another may end lower"
        )
    waited = sum(float(session.get("wait_seconds") or 0) for session in run.metadata["sessions"])
    if waited >= NOTED_WAIT:
        texts.append(f"the training waited {waited:.1f} s for the recorder")
    return texts + _nonfinite_tensors(run, analyses.get("dynamics")) + _nonfinite_scalars(run, analyses.get("loss"))


def _partly_recorded(run: Run) -> list[str]:
    """What of the trajectory its tensors leave out."""
    texts = []
    if run.selection and run.columns:
        texts.append(f"its tensors hold {run.selection}, and metrics of them are of these alone")
    if run.columns and len(run.steps) < run.n_steps:
        schedule = run.metadata.get("schedule", "schedule unknown")
        texts.append(f"its tensors are of {len(run.steps):,} of {run.n_steps:,} steps ({schedule})")
    return texts


def _nonfinite_tensors(run: Run, analysis: Analysis | None) -> list[str]:
    if analysis is None or analysis.frame.empty:
        return []
    rows = _of(run, analysis.frame)
    rows = rows[(rows["quantity"] == "nonfinite") & (rows["parameter"] == WHOLE) & (rows["value"] > 0)]
    return [
        f"{several(int(part['value'].sum()), 'value')} of the {NOUN.get(str(kind), str(kind))} NaN or infinite,"
        f" at {several(part['step'].nunique(), 'step')}, first at step {part['step'].min():,}"
        for kind, part in rows.groupby("kind", observed=True, sort=False)
    ]


def _nonfinite_scalars(run: Run, analysis: Analysis | None) -> list[str]:
    if analysis is None or analysis.frame.empty:
        return []
    rows = _of(run, analysis.frame)
    rows = rows[~np.isfinite(rows["value"])]
    return [
        f"the {quantity} is NaN or infinite at {several(len(part), 'step')}, first at step {part['step'].min():,}"
        for quantity, part in rows.groupby("quantity", observed=True, sort=False)
    ]


def _of(run: Run, frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["run"] == run.name]
