"""Estimators of heavy tails, each with its interval and its Gaussian null. Never imports torch."""

from trajectory_tools.estimators.estimate import TailIndex, tail_index
from trajectory_tools.estimators.likelihood import TailComparison, compare_tails
from trajectory_tools.estimators.null import NullRange

__all__ = ["NullRange", "TailComparison", "TailIndex", "compare_tails", "tail_index"]
