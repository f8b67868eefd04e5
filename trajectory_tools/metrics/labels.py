"""What runs are compared with, and called beside each other: those of one label are one curve."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Sequence
from pathlib import Path

from trajectory_tools.run import Run

__all__ = ["compared_under", "told_apart"]


def compared_under(runs: Sequence[Run]) -> dict[str, str]:
    """Run (its name) → the problem whose runs it is compared with: its own.

    Optimizers of one program that hold different parameters (a GAN's two) are no rivals: where the runs
    ``optimizer-0``, ``optimizer-1``, ... of a folder do, they, and those of the same problem in other folders, are
    problems of their own: ``gan.py, optimizer-0`` and so on.
    """
    places = {run.name: _optimizer_folder(run.path) for run in runs}
    shapes: defaultdict[Path, list[object]] = defaultdict(list)
    for run in runs:
        if (place := places[run.name]) is not None:
            shapes[place.parent].append(run.shapes)
    differ = {folder for folder, found in shapes.items() if any(each != found[0] for each in found)}
    apart = {run.problem for run in runs if (place := places[run.name]) is not None and place.parent in differ}
    return {
        run.name: f"{run.problem}, {place.name}"
        if (place := places[run.name]) and run.problem in apart
        else run.problem
        for run in runs
    }


def _optimizer_folder(path: Path) -> Path | None:
    """The folder of one of a program's several optimizers that a run is, or lies in as one of its ranks."""
    folder = path.parent if re.fullmatch(r"rank-\d+", path.name) else path
    return folder if re.fullmatch(r"optimizer-\d+", folder.name) else None


def told_apart(runs: Sequence[Run]) -> dict[str, str]:
    """Run (its name) → its label; what is no run of the same experiment has another one.

    Runs of one problem (``compared_under``) and label whose parameters (names or shapes) or optimizer class differ, as
    of scripts of one name that were all recorded to a folder ``run``, are called ``run (Adam, 57 values)`` and so on;
    where that is not enough, with the folder of the first run of each kind: ``run (Adam, 57 values, gan/run)``.
    """
    problems = compared_under(runs)
    kinds: dict[tuple[str, str], dict[Hashable, list[Run]]] = {}
    for run in runs:
        kind = (frozenset(run.shapes.items()), str(run.metadata.get("optimizer", {}).get("class")))
        kinds.setdefault((problems[run.name], run.label), {}).setdefault(kind, []).append(run)
    labels: dict[str, str] = {}
    for (_, label), by_kind in kinds.items():
        said = [f"{of_kind[0].optimizer}, {of_kind[0].n_values:,} values" for of_kind in by_kind.values()]
        for what, of_kind in zip(said, by_kind.values(), strict=True):
            folder = f", {of_kind[0].name}" if said.count(what) > 1 else ""
            own = label if len(by_kind) == 1 else f"{label} ({what}{folder})"
            labels |= {run.name: own for run in of_kind}
    return labels
