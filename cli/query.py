"""``traj query``: SQL over a run."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from trajectory_tools.cli.arguments import SkipDamaged
from trajectory_tools.cli.output import next_command, print_table
from trajectory_tools.errors import BadArgument


class Format(StrEnum):
    """How the answer is printed."""

    table = "table"
    csv = "csv"
    json = "json"


def query(
    run: Annotated[Path, typer.Argument(help="The run folder.", show_default=False)],
    sql: Annotated[str, typer.Argument(help="SQL over the tables scalars and tensors.", show_default=False)],
    format: Annotated[Format, typer.Option(help="How to print the answer.")] = Format.table,
    skip_damaged: SkipDamaged = False,
) -> None:
    """Answer SQL over a run, with DuckDB; a query sees the run alone, and no other file.

    `scalars`  step, loss, lr, wall_time, record_seconds, skipped, n_evals, and what you logged

    `tensors`  step, name, offset, param, grad, update (lists of numbers)

    `probes`   step, name, offset, source, batch_size, sample, grad, update, coordinates

    `traj query runs/adam "SELECT step, loss FROM scalars WHERE step < 10"`

    `traj query runs/adam "SELECT step, list_max(update) FROM tensors WHERE name = '0.bias'"`
    """
    from trajectory_tools.run import open_run

    if not sql.strip():
        raise BadArgument("the query is empty; give one such as 'SELECT step, loss FROM scalars'")
    opened = open_run(run, damaged="skip" if skip_damaged else "error")
    answer = opened.query(sql)
    if format is Format.csv:
        answer.to_csv(sys.stdout, index=False)
    elif format is Format.json:
        print(answer.to_json(orient="records", indent=2))
    else:
        print_table(answer)
    if opened.n_steps:
        next_command("traj", "report", run, "-o", "report.html", *(["--skip-damaged"] if skip_damaged else []))
