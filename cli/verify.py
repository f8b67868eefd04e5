"""``traj verify``: whether a run's files are still what was committed."""

from __future__ import annotations

import typer

from trajectory_tools.cli.arguments import Json, RunFolders
from trajectory_tools.cli.output import next_command, print_json, say


def verify(runs: RunFolders, json: Json = False) -> None:
    """Check that every committed part of the runs is what was committed.

    There, of its size, of its sha256, readable, of this run. Exit code 1 where one is not.
    """
    from trajectory_tools.run import find_runs
    from trajectory_tools.store.verify import verify as check

    damaged, n_parts = [], 0
    for run in find_runs(runs):
        findings = check(run.path, run.run_id)
        damaged += [
            {"run": run.name, "file": f.part.file, "steps": [f.part.first_step, f.part.last_step], "problem": f.problem}
            for f in findings
            if f.damaged
        ]
        n_parts += len(findings)
        say(f"{run.name}: {len(findings)} parts, {sum(f.damaged for f in findings)} damaged")
    if json:
        print_json(damaged)
    else:
        for entry in damaged:
            first, last = entry["steps"]
            print(f"{entry['run']}/{entry['file']} (steps {first} to {last}): {entry['problem']}")
    if n_parts:
        next_command("traj", "analyze", *runs, *(["--skip-damaged"] if damaged else []))
    if damaged:
        raise typer.Exit(1)
