"""Stored optimizer trajectories and what is computed from them; importing this loads neither torch nor matplotlib."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trajectory_tools.errors import TrajectoryError
    from trajectory_tools.estimators import TailComparison, TailIndex, compare_tails, tail_index
    from trajectory_tools.metrics import Analysis, Metric, analyze, compute
    from trajectory_tools.reports import write_report
    from trajectory_tools.run import Run, find_runs, open_run
    from trajectory_tools.symmetry import SymmetryGroup, rescale, scale, translation

__version__ = version("trajectory-tools")

_HOMES = {
    "trajectory_tools.errors": ("TrajectoryError",),
    "trajectory_tools.estimators": ("TailComparison", "TailIndex", "compare_tails", "tail_index"),
    "trajectory_tools.metrics": ("Analysis", "Metric", "analyze", "compute"),
    "trajectory_tools.reports": ("write_report",),
    "trajectory_tools.run": ("Run", "find_runs", "open_run"),
    "trajectory_tools.symmetry": ("SymmetryGroup", "rescale", "scale", "translation"),
}

__all__ = [
    "Analysis",
    "Metric",
    "Run",
    "SymmetryGroup",
    "TailComparison",
    "TailIndex",
    "TrajectoryError",
    "__version__",
    "analyze",
    "compare_tails",
    "compute",
    "find_runs",
    "open_run",
    "rescale",
    "scale",
    "tail_index",
    "translation",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used: ``traj --help`` needs none of them."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
