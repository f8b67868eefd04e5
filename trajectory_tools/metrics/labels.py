"""What runs are compared with, and called beside each other: those of one label are one curve."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from pathlib import Path

from trajectory_tools.run import Run

__all__ = ["compared_under", "told_apart"]


def compared_under(runs: Sequence[Run]) -> dict[str, str]:
    """Run (its name) → the problem whose runs it is compared with: its own.

    Optimizers of one program that hold different parameters (a GAN's two) are no rivals: the runs ``optimizer-0``,
    ``optimizer-1``, ... of one folder are then problems of their own, ``gan.py, optimizer-0`` and so on.
    """
    beside: defaultdict[Path, list[Run]] = defaultdict(list)
    for run in runs:
        if run.path.name.startswith("optimizer-"):
            beside[run.path.parent].append(run)
    differ = {folder for folder, found in beside.items() if any(run.shapes != found[0].shapes for run in found)}
    apart = {run.name for folder in differ for run in beside[folder]}
    return {run.name: f"{run.problem}, {run.path.name}" if run.name in apart else run.problem for run in runs}


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
