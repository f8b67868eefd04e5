"""Symmetry breaking: how far gradients and updates leave what the network's symmetries prescribe."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trajectory_tools.errors import BadArgument, MissingData
from trajectory_tools.metrics.base import Metric
from trajectory_tools.metrics.frames import Series, tidy
from trajectory_tools.metrics.generators import (
    conserved_change,
    conserved_quantity,
    count,
    inner_products,
    squared_norms,
    squared_size,
)
from trajectory_tools.run import Run
from trajectory_tools.store.chunks import Chunk
from trajectory_tools.symmetry import SymmetryGroup

__all__ = ["Symmetry", "deviations", "symmetry_share"]

Floats = NDArray[np.floating[Any]]
KEYS = ("group", "kind", "quantity")

MEASURED = ("deviation", "share", "unit_abs")
QUANTITIES = {"grad": MEASURED, "update": (*MEASURED, "conserved", "conserved_change")}
"""What has a row at every step, if it is NaN."""


def symmetry_share(inner: Floats, norms: Floats, size: Floats) -> Floats:
    """The share of ‖v‖² that lies along the symmetry: Σ_j ⟨v,ξ_j⟩²/‖ξ_j‖² / ‖v‖², between 0 and 1: (steps,).

    A gradient has 0, a random direction has (number of generators) / (number of parameters) in the mean. Generators
    have disjoint supports, so the sum is the squared length of a projection. A generator of length 0 counts 0; where
    v = 0 the share is NaN.

    Args:
        inner: (steps, generators), ⟨v, ξ_j⟩.
        norms: (steps, generators), ‖ξ_j‖².
        size: (steps,), ‖v‖² over the group's parameters.

    >>> symmetry_share(np.array([[3.0, 0.0]]), np.array([[1.0, 1.0]]), np.array([25.0]))
    array([0.36])
    """
    along = np.divide(inner**2, norms, out=np.where(np.isnan(inner), np.nan, 0.0), where=norms > 0).sum(axis=1)
    return np.divide(along, size, out=np.full(len(size), np.nan), where=size > 0)


def deviations(group: SymmetryGroup, vectors: Mapping[str, Floats], params: Mapping[str, Floats]) -> dict[str, Floats]:
    """What the group's constraints, which vanish for gradients, come to for these vectors (Kunin et al. 2021).

    ``vectors`` is v = g_t or v = −u_t, so that SGD's update and its gradient have the same sign. Returns ``unit``
    (steps, generators): ⟨v, ξ_j⟩; ``deviation`` (steps,): |Σ_j ⟨v, ξ_j⟩|, as in Sobotka et al. 2023 (units can
    cancel, and it grows with the size of v); and ``share`` (steps,): see ``symmetry_share``, free of both.
    """
    inner = inner_products(group, vectors, params)
    share = symmetry_share(inner, squared_norms(group, params, len(inner)), squared_size(group, vectors))
    return {"unit": inner, "deviation": np.abs(inner.sum(axis=1)), "share": share}


@dataclass(frozen=True)
class SymmetryContext:
    """The run's groups by label, the number of generators and of parameters of each; which kinds were saved."""

    groups: Mapping[str, SymmetryGroup]
    generators: Mapping[str, int]
    sizes: Mapping[str, int]
    kinds: tuple[str, ...]


@dataclass
class SymmetryState:
    """Consecutive spans of steps, each with its numbers: (group, kind, quantity) → (steps,) or (steps, generators)."""

    spans: list[tuple[NDArray[np.int64], dict[tuple[str, str, str], Floats]]] = field(default_factory=list)


@dataclass(frozen=True)
class Symmetry(Metric[SymmetryContext, SymmetryState]):
    """How far gradients and updates leave what the network's symmetries prescribe.

    For each group and for grad (v = g_t) and update (v = −u_t):

    - ``deviation``: |Σ_j ⟨v, ξ_j⟩| over the group's generators, as Sobotka et al. 2023 (arXiv 2312.07174) plot it;
    - ``unit_abs``: the mean over generators of |⟨v, ξ_j⟩|; low and high are the least and the greatest;
    - ``share``: Σ_j ⟨v,ξ_j⟩²/‖ξ_j‖² / ‖v‖², and ``chance`` (once per group): what a random direction has in the mean;
    - ``unit``: ⟨v, ξ_j⟩ of each generator, at steps that thin out with time (all below 100, every 10th below 1000, and
      so on), or at all with ``units="all"``; none with ``units="none"``.

    For the update also the conserved quantity Q at θ_t (``conserved``) and its exact change by the step
    (``conserved_change``). Where a gradient was None, or a parameter was not there yet, all but ``unit`` are NaN.
    Groups whose parameters are not all recorded whole are left out.
    """

    units: str = "thinned"

    name: ClassVar[str] = "symmetry"
    columns: ClassVar[tuple[str, ...]] = ("param", "grad", "update")

    def __post_init__(self) -> None:
        if self.units not in ("thinned", "all", "none"):
            raise BadArgument(f"units is 'thinned', 'all' or 'none', found {self.units!r}")

    def prepare(self, run: Run) -> SymmetryContext:
        if not run.symmetries:
            raise MissingData(
                "no symmetry groups were declared when it was recorded; pass symmetries= to a Recorder in the script,"
                " or record a built-in problem"
            )
        if "param" not in run.columns or not {"grad", "update"} & set(run.columns):
            saved = ", ".join(run.columns) or "scalars only"
            raise MissingData(f"it needs param, and grad or update, and the run has {saved}")
        if not run.steps.size:
            raise MissingData("no step was recorded")
        whole = set(run.whole)
        measured = [group for group in run.symmetries if whole.issuperset(group.names)]
        if not measured:
            raise MissingData(f"it needs every coordinate of a group's parameters, and the run has {run.selection}")
        groups = _by_label(measured)
        return SymmetryContext(
            groups,
            {label: count(group, run.shapes) for label, group in groups.items()},
            {label: sum(math.prod(run.shapes[name]) for name in group.names) for label, group in groups.items()},
            tuple(kind for kind in ("grad", "update") if kind in run.columns),
        )

    def update(self, context: SymmetryContext, chunk: Chunk) -> SymmetryState:
        numbers: dict[tuple[str, str, str], Floats] = {}
        kept = self._unit_steps(chunk.steps)
        for label, group in context.groups.items():
            for kind in context.kinds:
                vectors = chunk.values(kind)
                found = dict.fromkeys(QUANTITIES[kind], np.full(len(chunk), np.nan))
                if all(name in vectors and name in chunk.param for name in group.names):
                    found |= deviations(group, vectors, chunk.param)
                    unit = found["unit"]
                    size = np.abs(unit)
                    found["unit_abs"] = np.stack([size.mean(axis=1), size.min(axis=1), size.max(axis=1)])
                    # The rows say v = −u; only single units see the sign.
                    found["unit"] = -unit[kept] if kind == "update" else unit[kept]
                    if kind == "update":
                        found["conserved"] = conserved_quantity(group, chunk.param)
                        found["conserved_change"] = conserved_change(group, chunk.param, vectors)
                numbers |= {(label, kind, quantity): values for quantity, values in found.items()}
        return SymmetryState([(chunk.steps, numbers)])

    def combine(self, left: SymmetryState, right: SymmetryState) -> SymmetryState:
        left.spans.extend(right.spans)
        return left

    def finish(self, context: SymmetryContext, state: SymmetryState) -> pd.DataFrame:
        series = []
        for steps, numbers in state.spans:
            for (label, kind, quantity), values in numbers.items():
                keys = {"group": label, "kind": kind, "quantity": quantity}
                n_generators = context.generators[label]
                if quantity == "unit":
                    at = np.repeat(steps[self._unit_steps(steps)], n_generators)
                    units = np.tile(np.arange(n_generators), len(values))
                    series.append(Series(keys, at, values.ravel(), unit=units))
                elif quantity == "unit_abs":
                    mean, least, greatest = np.broadcast_to(values, (3, len(steps)))  # or one NaN for each step
                    series.append(Series(keys, steps, mean, least, greatest, n=n_generators))
                else:
                    series.append(Series(keys, steps, values, n=n_generators))
        for label, n_generators in context.generators.items():
            keys = {"group": label, "kind": "random", "quantity": "chance"}
            first = state.spans[0][0][:1]
            series.append(Series(keys, first, n_generators / context.sizes[label], n=n_generators))
        return tidy(series, KEYS, units=True)

    def _unit_steps(self, steps: NDArray[np.int64]) -> NDArray[np.bool_]:
        if self.units != "thinned":
            return np.full(len(steps), self.units == "all")
        decade = np.floor(np.log10(np.maximum(steps, 1))).astype(np.int64)
        return steps % 10 ** np.maximum(decade - 1, 0) == 0


def _by_label(groups: Iterable[SymmetryGroup]) -> dict[str, SymmetryGroup]:
    """The groups by label; one whose label is taken (the same parameters along other axes) says its axes too."""
    found: dict[str, SymmetryGroup] = {}
    for group in groups:
        axes = ", ".join(str(axis) for _, axis in group.axes)
        found[f"{group.label} (axes {axes})" if group.label in found else group.label] = group
    return found
