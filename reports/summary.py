"""The table at the head of a problem: one row for each label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from trajectory_tools.metrics import Analysis
from trajectory_tools.metrics.summary import LAST_STEPS, final_distances, final_values, median_shares
from trajectory_tools.reports.described import hyperparameters, seeds
from trajectory_tools.reports.symmetry import KEPT
from trajectory_tools.reports.words import number, one_line, plus_minus, several
from trajectory_tools.run import Run

__all__ = ["Summary", "summarize"]

MAX_GROUPS = 3


@dataclass(frozen=True)
class Summary:
    """Column heads (head, explanation) and rows (label, cells)."""

    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def has_shares(self) -> bool:
        """Whether it says how symmetries are kept."""
        return any(head.startswith("share") for head, _ in self.columns)


def summarize(by_label: Mapping[str, Sequence[Run]], analyses: Mapping[str, Analysis]) -> Summary:
    """Optimizer, seeds, steps, and the numbers that matter most; a number that is not known is a dash."""
    frames = {name: analysis.frame for name, analysis in analyses.items() if not analysis.frame.empty}
    losses = final_values(frames["loss"]) if "loss" in frames else None
    shares = median_shares(frames["symmetry"]) if "symmetry" in frames else None
    distances = final_distances(frames["dynamics"]) if "dynamics" in frames else None
    groups = [] if shares is None else list(dict.fromkeys(shares.index.get_level_values("group")))[:MAX_GROUPS]
    chance = {} if shares is None else shares["chance"].groupby(level="group", observed=True).first().to_dict()
    columns = (
        ("label", ""),
        ("optimizer", ""),
        ("runs", ""),
        ("final loss", f"last {LAST_STEPS} steps"),
        *((f"share along {_breakable(str(group))}", f"chance {number(chance[group])}") for group in groups),
        ("path length", "Σ‖u‖"),
        ("displacement", "‖θ_end − θ_first‖"),
    )
    rows = []
    for label, runs in by_label.items():
        steps = sorted({run.n_steps for run in runs})
        cells = [
            "; ".join(dict.fromkeys(f"{run.optimizer}: {hyperparameters(run)}" for run in runs)),
            f"{several(steps[0], 'step') if len(steps) == 1 else f'{steps[0]:,}–{steps[-1]:,} steps'}, {seeds(runs)}",
            plus_minus(_values(losses, label)),
            *(_share(shares, group, label) for group in groups),
            *(
                plus_minus(_values(None if distances is None else distances[q], label))
                for q in ("path_length", "displacement")
            ),
        ]
        rows.append((label, tuple(cells)))
    return Summary(columns, tuple(rows))


def _breakable(group: str) -> str:
    """The group's name, which may end a line after each plus."""
    return one_line(group, 44).replace("+", "+\N{ZERO WIDTH SPACE}")


def _values(found: pd.Series[float] | None, label: str) -> list[float]:
    if found is None or label not in found.index.get_level_values("label"):
        return []
    return list(found.xs(label, level="label"))


def _share(shares: pd.DataFrame | None, group: str, label: str) -> str:
    if shares is None or (group, label) not in shares.index:
        return "–"
    value, chance = shares.loc[(group, label)]
    if value < KEPT * chance:
        return f"{number(value, 2)} (rounding)"
    return f"{number(value, 2)} ({number(value / chance, 2)}\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}chance)"
