"""``traj report``: one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trajectory_tools.cli.arguments import Force, RunFolders, SkipDamaged
from trajectory_tools.cli.output import say


def report(
    runs: RunFolders,
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file to write.")] = Path("report.html"),
    title: Annotated[str | None, typer.Option(help="The report's heading.")] = None,
    metric: Annotated[
        list[str] | None, typer.Option("--metric", "-m", help="Only this metric; can be repeated. (default: all)")
    ] = None,
    skip_damaged: SkipDamaged = False,
    force: Force = False,
) -> None:
    """Show runs side by side in one HTML file that works offline.

    Runs of one problem are compared with each other; runs of one label are one curve with a band over their seeds.
    """
    from trajectory_tools.reports import write_report
    from trajectory_tools.run import find_runs

    found = find_runs(runs, damaged="skip" if skip_damaged else "error")
    path = write_report(found, output, title=title, metrics=metric or None, force=force)
    print(path)
    say(f"next: open {path.resolve().as_uri()} in a browser")
