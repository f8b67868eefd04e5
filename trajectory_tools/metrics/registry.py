"""The metrics by name: the built-in ones, and other packages' (entry point group ``trajectory_tools.metrics``)."""

from __future__ import annotations

import warnings
from dataclasses import fields, is_dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from trajectory_tools.errors import BadArgument, UnknownName
from trajectory_tools.metrics.base import Metric
from trajectory_tools.metrics.covariance import Covariance
from trajectory_tools.metrics.dynamics import Dynamics
from trajectory_tools.metrics.histogram import Histogram
from trajectory_tools.metrics.loss import Loss
from trajectory_tools.metrics.symmetry import Symmetry
from trajectory_tools.metrics.tail_index import TailIndexMetric
from trajectory_tools.metrics.temporal_covariance import TemporalCovariance

__all__ = ["GROUP", "make_metric", "metrics"]

GROUP = "trajectory_tools.metrics"

BUILT_IN: tuple[type[Metric[Any, Any]], ...] = (
    Loss,
    Symmetry,
    Histogram,
    Dynamics,
    TailIndexMetric,
    Covariance,
    TemporalCovariance,
)


@cache
def metrics() -> dict[str, type[Metric[Any, Any]]]:
    """Name → metric. Another package's that cannot be made, or whose name is taken, is left out with a warning."""
    found: dict[str, type[Metric[Any, Any]]] = {kind.name: kind for kind in BUILT_IN}
    for entry in entry_points(group=GROUP):
        try:
            kind = entry.load()
            if not (isinstance(kind, type) and issubclass(kind, Metric)):
                raise TypeError(f"{entry.value} is no subclass of Metric")
            if kind.name in found:
                raise ValueError(f"the name {kind.name!r} is taken")
            kind()
        except Exception as error:  # whatever another package raises must not stop the others
            warnings.warn(f"the metric {entry.name!r} of another package was left out: {error}", stacklevel=2)
        else:
            found[kind.name] = kind
    return found


def make_metric(metric: str | Metric[Any, Any], **options: Any) -> Metric[Any, Any]:
    """The metric of that name with its options; one that is made already is returned as it is."""
    if isinstance(metric, Metric):
        if options:
            raise BadArgument(
                f"the metric {metric.name!r} is made already, found also the options {', '.join(options)};"
                " give them where it is made"
            )
        return metric
    if metric not in metrics():
        raise UnknownName("metric", metric, metrics())
    kind = metrics()[metric]
    known: list[str] = [option.name for option in fields(kind)] if is_dataclass(kind) else []
    for option in options:
        if option not in known:
            if not known:
                raise BadArgument(f"the metric {metric!r} has no options, found {option!r}")
            raise UnknownName(f"option of the metric {metric!r}:", option, known)
    return kind(**options)
