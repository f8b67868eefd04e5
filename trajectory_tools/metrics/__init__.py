"""The metrics: pure functions on arrays, and how they are run over recorded files. Never imports torch."""

from trajectory_tools.metrics.base import Metric
from trajectory_tools.metrics.compute import Analysis, analyze, compute
from trajectory_tools.metrics.registry import make_metric, metrics

__all__ = ["Analysis", "Metric", "analyze", "compute", "make_metric", "metrics"]
