"""``traj demo``: SGD, Adam, Lion and a learned optimizer on real data, from nothing to a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trajectory_tools.cli.arguments import Force
from trajectory_tools.cli.output import next_command, progress, say
from trajectory_tools.errors import OutputExists


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder for the runs and the report.")] = Path(
        "demo"
    ),
    seeds: Annotated[int, typer.Option(min=1, help="Seeds for each optimizer.")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each run.")] = 200,
    force: Force = False,
) -> None:
    """Record SGD, SGD with momentum, Adam, Lion and L2O on handwritten digits, and write the report.

    Each learning rate is tuned; L2O, the learned optimizer, has none. The network is a small perceptron, once with
    leaky ReLU, once with batch normalization.
    """
    from trajectory_tools.experiments.comparison import DEMO, record_comparison
    from trajectory_tools.metrics import analyze
    from trajectory_tools.reports import write_report
    from trajectory_tools.run import find_runs

    report = output / "report.html"
    if output.exists() and any(output.iterdir()) and not force:
        raise OutputExists(f"{output} is not empty; choose another folder with -o, or replace it with --force")
    with progress("recording", len(DEMO) * seeds) as advance:
        folders = []
        for folder in record_comparison(DEMO, output, seeds=seeds, steps=steps, replace=force, say=say):
            say(f"recorded {folder}")
            folders.append(folder)
            advance()
    say("analyzing ...")
    runs = find_runs(folders)
    analyze(runs)
    print(write_report(runs, report, title="SGD, Adam, Lion and L2O on handwritten digits", force=force))
    say(f"open {report.resolve().as_uri()} in a browser")
    first = min(run.path for run in runs if run.label == "Adam")
    next_command("traj", "query", first, "SELECT step, loss FROM scalars WHERE step < 5")
