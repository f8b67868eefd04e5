"""What run.json says of a run, in words: optimizer, versions, seeds, where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trajectory_tools.reports.words import number, several
from trajectory_tools.run import Run

__all__ = ["Provenance", "describe", "hyperparameters", "seeds", "weights"]


@dataclass(frozen=True)
class Provenance:
    """Where the runs of one label come from: facts that they share, a table of what differs, the tuning's table."""

    label: str
    facts: tuple[tuple[str, tuple[str, ...]], ...]
    """(What, its distinct values.)"""
    runs: tuple[tuple[str, ...], ...]
    tuning: tuple[tuple[str, str, bool], ...]
    """(Learning rate, mean summed loss, whether it was chosen.)"""
    tuned_over: str


RUN_COLUMNS = (
    "seed",
    "recorded (UTC)",
    "status",
    "steps",
    "size",
    "training waited",
    "recorder's share of time",
    "folder",
)


def describe(label: str, runs: Sequence[Run]) -> Provenance:
    """The provenance of a label's runs."""
    facts = tuple((name, values) for name, get in _FACTS.items() if (values := _distinct(get(run) for run in runs)))
    tuning: Mapping[str, Any] = next(
        (run.metadata["tuning"] for run in runs if isinstance(run.metadata.get("tuning"), Mapping)), {}
    )
    table = tuple(
        (number(float(row["lr"])), number(float(row["mean"]), 4), row["lr"] == tuning.get("best"))
        for row in tuning.get("table", ())
    )
    over = f"{tuning.get('steps')} steps, the mean of {several(len(tuning.get('seeds', ())), 'seed')}" if table else ""
    return Provenance(label, facts, tuple(_row(run) for run in runs), table, over)


def hyperparameters(run: Run) -> str:
    """The optimizer's options, those that are off left out; of further parameter groups those that differ."""
    described = run.metadata.get("optimizer", {})
    groups = [described["options"]] if described.get("options") else list(described.get("groups", ()))
    texts = []
    for i, group in enumerate(groups):
        named = [
            f"{name} {_value(value)}"
            for name, value in group.items()
            if (_is_on(name, value) if i == 0 else name != "initial_lr" and value != groups[0].get(name))
        ]
        if named:
            texts.append(f"group {i}: " * (i > 0) + ", ".join(named))
    return "; ".join(texts)


def weights(run: Run) -> str:
    """Where a learned optimizer's weights come from; empty for any other optimizer."""
    found = run.metadata.get("optimizer", {}).get("weights")
    if not isinstance(found, Mapping):
        return ""
    card = found.get("card") or {}
    problem = (card.get("problem") or {}).get("title")
    trained = f"meta-trained on {problem}, seed {card.get('seed')}; " if problem else ""
    return f"{trained}sha256 {found.get('sha256')}"


def seeds(runs: Sequence[Run]) -> str:
    """``seeds 0, 1, 2``, or ``3 runs`` where they were not noted."""
    known = [str(run.seed) for run in runs if run.seed is not None]
    if len(known) < len(runs):
        return several(len(runs), "run")
    return f"seed{'s' * (len(known) > 1)} {', '.join(known)}"


def _row(run: Run) -> tuple[str, ...]:
    waited = sum(float(session.get("wait_seconds") or 0) for session in run.metadata["sessions"])
    share = recorder_share(run)
    return (
        "–" if run.seed is None else str(run.seed),
        str(run.metadata.get("created_at", "–")).replace("T", " ")[:19],
        run.status,
        f"{run.n_steps:,}",
        f"{run.nbytes / 1e6:,.1f} MB",
        f"{number(waited, 2)} s",
        "–" if share is None else f"{number(100 * share, 2)} %",
        run.name,
    )


def recorder_share(run: Run) -> float | None:
    """The part of the time between the first and the last step that went into recording; None where it is not known."""
    if run.n_steps < 2 or len(run.metadata["sessions"]) != 1:
        return None
    row = run.query("SELECT sum(record_seconds) AS spent, max(wall_time) - min(wall_time) AS passed FROM scalars").iloc[
        0
    ]
    return float(row["spent"] / row["passed"]) if row["passed"] and row["passed"] > 0 else None


def _environment(*names: str) -> Callable[[Run], str]:
    def get(run: Run) -> str:
        found = run.metadata.get("environment", {})
        named = [name for name in names if found.get(name) is not None]
        return ", ".join(_value(found[name]) if len(names) == 1 else f"{name} {_value(found[name])}" for name in named)

    return get


def _recorded(run: Run) -> str:
    """Columns, whose and which coordinates, and at which steps."""
    saved = " + ".join(run.columns) or "scalars only"
    return f"{saved}{f' of {run.selection}' * bool(run.selection)}, {run.metadata.get('schedule', 'unknown schedule')}"


_FACTS: dict[str, Callable[[Run], str]] = {
    "optimizer": lambda run: str(run.metadata.get("optimizer", {}).get("class", "")),
    "hyperparameters": hyperparameters,
    "weights": weights,
    "problem": lambda run: run.problem,
    "data": lambda run: str(run.metadata.get("problem", {}).get("data", "")),
    "parameters": lambda run: f"{run.n_values:,} values in {several(len(run.shapes), 'tensor')}",
    "recorded": _recorded,
    "command": lambda run: str(run.metadata.get("command", "")),
    "commit": lambda run: str(run.metadata.get("environment", {}).get("git_commit") or ""),
    "versions": _environment("python", "torch", "trajectory_tools"),
    "platform": _environment("platform"),
    "device": _environment("devices", "threads"),
}


def _distinct(values: Any) -> tuple[str, ...]:
    return tuple(value for value in dict.fromkeys(values) if value)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"({', '.join(map(_value, value))})" if len(value) != 1 else _value(value[0])
    return number(value, 6) if isinstance(value, float) else str(value)


def _is_on(name: str, value: Any) -> bool:
    return name != "initial_lr" and value is not None and value is not False and (value != 0 or name == "lr")
