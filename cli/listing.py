"""``traj list``: the runs below a folder, and what there is to record and to compute."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trajectory_tools.cli.arguments import Json
from trajectory_tools.cli.output import next_command, print_json, print_table

if TYPE_CHECKING:
    import pandas as pd

    from trajectory_tools.run import Run


def list_runs(
    folder: Annotated[Path, typer.Argument(help="Where to look for runs.")] = Path("runs"),
    problems: Annotated[bool, typer.Option("--problems", help="List the built-in problems instead.")] = False,
    optimizers: Annotated[bool, typer.Option("--optimizers", help="List the optimizers instead.")] = False,
    metrics: Annotated[bool, typer.Option("--metrics", help="List the metrics instead.")] = False,
    json: Json = False,
) -> None:
    """List the runs below a folder."""
    table = _entries(problems, optimizers, metrics) if problems or optimizers or metrics else _runs(folder)
    if json:
        print_json(table.to_dict(orient="records"))
        return
    print_table(table)
    if not (problems or optimizers or metrics):
        next_command("traj", "show", table["run"].iloc[0])


def _runs(folder: Path) -> pd.DataFrame:
    import pandas as pd

    from trajectory_tools.errors import NotARun
    from trajectory_tools.run import find_runs

    if not folder.exists():
        raise NotARun(f"no runs: there is no folder {folder}; `traj record digits-mlp` makes a run in runs/")
    return pd.DataFrame([_row(run) for run in find_runs([folder])])


def _row(run: Run) -> dict[str, object]:
    from trajectory_tools.errors import DamagedPart

    row: dict[str, object] = {
        "run": run.name,
        "label": run.label,
        "seed": None if run.seed is None else str(run.seed),
        "problem": run.problem,
        "optimizer": run.optimizer,
    }
    try:
        return row | {"steps": run.n_steps, "MB": run.nbytes / 1e6, "status": run.status}
    except DamagedPart:
        return row | {"steps": None, "MB": run.nbytes / 1e6, "status": "damaged: see traj verify"}


def _entries(problems: bool, optimizers: bool, metrics: bool) -> pd.DataFrame:
    import pandas as pd

    from trajectory_tools.metrics import metrics as all_metrics
    from trajectory_tools.optimizers import OPTIMIZERS
    from trajectory_tools.problems import PROBLEMS

    kinds: dict[str, Mapping[str, type]] = {
        "problem": PROBLEMS if problems else {},
        "optimizer": OPTIMIZERS if optimizers else {},
        "metric": all_metrics() if metrics else {},
    }
    return pd.DataFrame(
        [
            {"": kind, "name": name, "what it is": (entry.__doc__ or "").strip().splitlines()[0]}
            for kind, entries in kinds.items()
            for name, entry in entries.items()
        ]
    )
