"""Options of ``traj record`` that say what of a network is recorded: each is the Recorder's argument of its name."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from trajectory_tools.cli.record_script import OF_PROBLEMS
from trajectory_tools.errors import BadArgument

__all__ = ["SELECTING", "Budget", "Match", "Projection", "SelectionSeed", "Stats", "Subsample", "recorder_options"]

SELECTING = ("match", "subsample", "projection", "selection_seed", "stats", "budget")
"""Their names."""

Match = Annotated[
    str | None,
    typer.Option(metavar="REGEX", help="Record the tensors of those parameters only in whose name this is found."),
]
Subsample = Annotated[
    str | None,
    typer.Option(metavar="SHARE", help="Record a random choice of coordinates: 0.01, 1% or a number such as 10000."),
]
Projection = Annotated[
    int | None, typer.Option(metavar="K", help="Record K random projections of each parameter in its place.")
]
SelectionSeed = Annotated[int, typer.Option(help="Chooses the coordinates, or the projection.")]
Stats = Annotated[
    bool, typer.Option(help="Record norms, extrema and counts of zeros and NaN of every parameter at every step.")
]
Budget = Annotated[
    str | None,
    typer.Option(
        metavar="BYTES",
        help="Choose what to record such that the run takes at most this: 2GB, 500MB.",
        rich_help_panel=OF_PROBLEMS,  # a script does not say how many steps it will make
    ),
]


def recorder_options(
    *,
    match: str | None = None,
    subsample: str | None = None,
    projection: int | None = None,
    selection_seed: int = 0,
    stats: bool = True,
    budget: str | None = None,
) -> dict[str, Any]:
    """The Recorder's arguments; those that were not given are left out. A budget needs ``steps`` beside it."""
    options: dict[str, Any] = {
        "match": match,
        "subsample": None if subsample is None else as_share(subsample),
        "projection": projection,
        "selection_seed": selection_seed or None,
        "stats": None if stats else False,
        "budget": budget,
    }
    return {name: value for name, value in options.items() if value is not None}


def as_share(text: str) -> float:
    """0.01 and 1% are shares, 10000 is a number of coordinates."""
    try:
        if text.endswith("%"):
            return float(text[:-1]) / 100
        return int(text) if text.isdecimal() else float(text)
    except ValueError as error:
        raise BadArgument(
            f"--subsample is {text!r}; give a share such as 0.01 or 1%, or a number of coordinates"
        ) from error
