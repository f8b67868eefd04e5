"""``traj show``: what a run holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trajectory_tools.cli.arguments import Json, SkipDamaged
from trajectory_tools.cli.output import next_command, print_json, print_table

if TYPE_CHECKING:
    from trajectory_tools.run import Run


def show(
    run: Annotated[Path, typer.Argument(help="The run folder.", show_default=False)],
    skip_damaged: SkipDamaged = False,
    json: Json = False,
) -> None:
    """Show what a run holds: steps, parameters, optimizer, symmetries, sessions, and the command that made it."""
    import pandas as pd

    from trajectory_tools.reports.described import hyperparameters, weights
    from trajectory_tools.run import open_run

    opened = open_run(run, damaged="skip" if skip_damaged else "error")
    if json:
        print_json({**opened.metadata, "status": opened.status, "steps": opened.n_steps, "bytes": opened.nbytes})
        return
    metadata = opened.metadata
    facts = {
        "run": opened.name,
        "label": opened.label,
        "seed": opened.seed,
        "status": opened.status,
        "problem": opened.problem,
        "data": metadata.get("problem", {}).get("data"),
        "optimizer": metadata.get("optimizer", {}).get("class"),
        "hyperparameters": hyperparameters(opened),
        **({"weights": weights(opened)} if weights(opened) else {}),
        "steps": opened.n_steps,
        "tensors at": opened.span,
        "probes at": opened.probed_span,
        "saved": ", ".join(opened.columns),
        **({"selected": str(opened.selection)} if opened.selection else {}),
        "stats": _stats(opened),
        "size": f"{opened.nbytes / 1e6:,.2f} MB in {opened.n_parts} parts",
        "symmetries": "; ".join(group.label for group in opened.symmetries) or "none declared",
        "sessions": len(metadata["sessions"]),
        "waited": f"{sum(entry.get('wait_seconds', 0.0) for entry in metadata['sessions']):.2f} s for the writer",
        "created": metadata.get("created_at"),
        "command": metadata.get("command"),
        "commit": metadata.get("environment", {}).get("git_commit"),
    }
    print_table(pd.DataFrame({"": list(facts), "value": [None if v is None else str(v) for v in facts.values()]}))
    print()
    print_table(
        pd.DataFrame(
            {
                "parameter": [param["name"] for param in metadata["params"]],
                "shape": ["x".join(map(str, param["shape"])) or "scalar" for param in metadata["params"]],
                "dtype": [param["dtype"] for param in metadata["params"]],
                "values": [param["numel"] for param in metadata["params"]],
                **(
                    {"recorded": [param.get("recorded", param["numel"]) for param in metadata["params"]]}
                    if opened.selection
                    else {}
                ),
                "also": [", ".join(param["aliases"]) for param in metadata["params"]],
            }
        )
    )
    if opened.n_steps:
        next_command("traj", "report", run, "-o", "report.html")


def _stats(run: Run) -> str:
    if run.parts("stats"):
        return "norms, extrema, zeros, non-finite of every step (run.stats())"
    return "on, and no step was recorded" if run.metadata.get("stats") and not run.n_steps else "none"
