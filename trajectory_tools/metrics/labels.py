"""What runs are called beside each other: those of one label are one curve, if they are runs of one experiment."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from trajectory_tools.run import Run

__all__ = ["told_apart"]


def told_apart(runs: Sequence[Run]) -> dict[str, str]:
    """Run (its name) → its label; what is no run of the same experiment has another one.

    Runs of one problem and label whose parameters (names or shapes) or optimizer class differ, as of scripts of one
    name that were all recorded to a folder ``run``, are called ``run (Adam, 57 values)`` and so on; where that is not
    enough, with the folder of the first run of each kind: ``run (Adam, 57 values, gan/run)``.
    """
    kinds: dict[tuple[str, str], dict[Hashable, list[Run]]] = {}
    for run in runs:
        kind = (frozenset(run.shapes.items()), str(run.metadata.get("optimizer", {}).get("class")))
        kinds.setdefault((run.problem, run.label), {}).setdefault(kind, []).append(run)
    labels: dict[str, str] = {}
    for (_, label), by_kind in kinds.items():
        said = [f"{of_kind[0].optimizer}, {of_kind[0].n_values:,} values" for of_kind in by_kind.values()]
        for what, of_kind in zip(said, by_kind.values(), strict=True):
            folder = f", {of_kind[0].name}" if said.count(what) > 1 else ""
            own = label if len(by_kind) == 1 else f"{label} ({what}{folder})"
            labels |= {run.name: own for run in of_kind}
    return labels
