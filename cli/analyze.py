"""``traj analyze``: compute the metrics."""

from __future__ import annotations

from typing import Annotated

import typer

from trajectory_tools.cli.arguments import Json, RunFolders, SkipDamaged
from trajectory_tools.cli.output import next_command, print_json, print_table, say
from trajectory_tools.errors import TrajectoryError


def analyze(
    runs: RunFolders,
    metric: Annotated[
        list[str] | None, typer.Option("--metric", "-m", help="Only this metric; can be repeated. (default: all)")
    ] = None,
    skip_damaged: SkipDamaged = False,
    json: Json = False,
) -> None:
    """Compute what the runs' trajectories say.

    The numbers are saved in each run's `analysis/` folder (pandas reads them) and a summary is printed: one
    row for each label, mean over its seeds. `traj list --metrics` says which metrics there are.
    """
    from trajectory_tools.metrics import analyze as compute_all
    from trajectory_tools.metrics.summary import summarize
    from trajectory_tools.run import find_runs, with_steps

    found = find_runs(runs, damaged="skip" if skip_damaged else "error")
    for run in found:
        for finding in run.skipped:
            say(f"left out {finding.part.file} of {run.name}: {finding.problem}")
    recorded = with_steps(found)
    for run in found:
        if run not in recorded:
            say(f"left out {run.name}: no step was recorded")
    analyses = compute_all(recorded, metric or None)
    for analysis in analyses.values():
        by_reason: dict[str, list[str]] = {}
        for run_name, reason in analysis.skipped.items():
            by_reason.setdefault(reason, []).append(run_name)
        for reason, names in by_reason.items():
            of = names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
            failed = names[0] in analysis.failed
            say(f"skipped: {reason} ({of})" if failed else f"skipped: {analysis.metric} of {of}: {reason}")
    summary = summarize(recorded, analyses)
    if json:
        print_json(summary.to_dict(orient="records"))
    else:
        for problem, rows in summary.groupby("problem", sort=False):
            say(f"\n{problem}")
            print_table(rows.drop(columns="problem").dropna(axis="columns", how="all"))
    next_command("traj", "report", *runs, "-o", "report.html")
    if broken := [analysis for analysis in analyses.values() if analysis.failed]:
        which = ", ".join(analysis.metric for analysis in broken)
        error = TrajectoryError(f"{which} failed, as said above; everything else was computed and saved")
        for analysis in broken:
            error.add_note(next(iter(analysis.failed.values())))
        raise error
