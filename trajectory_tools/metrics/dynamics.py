"""How the parameters move: norms, ratios, angles between steps, path against displacement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trajectory_tools.errors import MissingData
from trajectory_tools.metrics.base import Metric
from trajectory_tools.metrics.frames import Series, tidy
from trajectory_tools.metrics.histogram import WHOLE
from trajectory_tools.metrics.stats_table import StatsTable, read_stats
from trajectory_tools.run import Run
from trajectory_tools.store.chunks import Chunk

__all__ = ["Dynamics"]

Floats = NDArray[np.floating[Any]]
Flat = Mapping[str, Floats]

KINDS = ("param", "grad", "update")

# Sums over elements, from which every quantity is made; those of the whole network are the sums over parameters.
PRODUCTS = (*(f"{kind}·{kind}" for kind in KINDS), "update·grad", "update·previous", "moved·moved")


@dataclass(frozen=True)
class DynamicsContext:
    """What is known before the tensors are read.

    ``origin``: the parameters at the first recorded step, as recorded. ``n_values``: the number of elements of each.
    ``scale``: what a product of a parameter that is not recorded whole is multiplied by, to estimate that of all
    elements; ``matched``: whether every parameter is recorded. ``stats``: see ``read_stats``; None where every step's
    tensors are recorded whole, or there are none.
    """

    origin: Flat
    n_values: Mapping[str, int]
    scale: Mapping[str, float]
    matched: bool
    stats: StatsTable | None


@dataclass
class Span:
    """A chunk's sums over elements and counts of values that are not finite: parameter → product → (steps,)."""

    steps: NDArray[np.int64]
    products: dict[str, dict[str, Floats]]

    def with_whole(self, scale: Mapping[str, float]) -> Span:
        """With the sums over all parameters; one that lacks a product (its gradient was None) counts as zero."""
        whole: dict[str, Floats] = {}
        for name, products in self.products.items():
            for product, found in products.items():
                values = scale.get(name, 1.0) * found
                whole[product] = whole[product] + values if product in whole else values
        return Span(self.steps, {**self.products, WHOLE: whole})


@dataclass
class DynamicsState:
    """Spans in order, with the first and the last update, which the neighbouring spans' angles need."""

    spans: list[Span]
    first: Flat = field(default_factory=dict)
    last: Flat = field(default_factory=dict)


@dataclass(frozen=True)
class Dynamics(Metric[DynamicsContext, DynamicsState]):
    """How the parameters move, per parameter and in the whole network, at every recorded step.

    - ``norm`` of param, grad and update: ‖·‖₂; ``nonfinite``: how many of its elements are NaN or infinite, left out
      where there is none in the whole run;
    - ``ratio``: ‖u_t‖ / ‖θ_t‖;
    - ``cos_previous``: the cosine between u_t and u_{t−1}; NaN where step t−1 was not recorded;
    - ``cos_descent``: the cosine between −g_t and u_t: 1 for plain gradient descent;
    - ``path_length``: Σ_{s≤t} ‖u_s‖ from the first recorded step on; NaN from the first unrecorded step on;
    - ``displacement``: ‖θ_{t+1} − θ_first‖, never more than the path.

    Where the run has ``stats``, norms, ratio, path and nonfinite are those of every step, recorded or not. Of a
    parameter that is recorded as a subsample or a projection there are no cosines and no displacement, but unbiased
    estimates: ``squared_norm_estimate``, ``dot_previous_estimate`` ⟨u_t, u_{t−1}⟩, ``dot_descent_estimate`` ⟨−g_t, u_t⟩
    and ``squared_displacement_estimate``.

    A quotient by a norm of 0 is NaN. In the whole network a gradient that was None counts as zero; where all were, it
    is NaN. A parameter that was added later has neither path nor displacement.
    """

    name: ClassVar[str] = "dynamics"
    version: ClassVar[int] = 2
    columns: ClassVar[tuple[str, ...]] = ("param", "grad", "update")

    def prepare(self, run: Run) -> DynamicsContext:
        has_tensors = bool(run.columns) and bool(run.steps.size)
        sizes = {name: int(np.prod(shape)) for name, shape in run.shapes.items()}
        whole = len(run.whole) == len(sizes) and set(run.columns) == set(KINDS)
        stats = None if whole and np.array_equal(run.steps, run.logged_steps) else read_stats(run)
        if not has_tensors and stats is None:
            raise MissingData("no tensors and no stats were recorded")
        origin: dict[str, Floats] = {}
        if has_tensors and "param" in run.columns:
            for chunk in run.chunks(["param"], steps=run.steps[:1]):
                origin = {name: values[0].ravel().astype(np.float64) for name, values in chunk.param.items()}
        partly = {name: shape for name, shape in run.recorded_shapes.items() if name not in run.whole}
        sampled = run.selection.kind == "subsample"
        scale = {name: sizes[name] / shape[0] if sampled else 1.0 for name, shape in partly.items()}
        return DynamicsContext(origin, sizes, scale, len(run.recorded_shapes) == len(sizes), stats)

    def nothing(self, context: DynamicsContext) -> DynamicsState | None:
        return DynamicsState([]) if context.stats is not None else None

    def update(self, context: DynamicsContext, chunk: Chunk) -> DynamicsState:
        param, grad, update = (
            {name: values.reshape(len(chunk), -1) for name, values in arrays.items()}
            for arrays in (chunk.param, chunk.grad, chunk.update)
        )
        span = Span(chunk.steps, {})
        for name in param | grad | update:
            p, g, u = param.get(name), grad.get(name), update.get(name)
            products = span.products.setdefault(name, {})
            for kind, values in (("param", p), ("grad", g), ("update", u)):
                if values is not None:
                    products[f"{kind}·{kind}"] = _dot(values, values)
                    products[f"{kind} nonfinite"] = _count_nonfinite(values, products[f"{kind}·{kind}"])
            if u is not None:
                previous = np.full(len(u), np.nan)
                previous[1:] = _dot(u[1:], u[:-1])
                products["update·previous"] = np.where(np.diff(chunk.steps, prepend=-1) == 1, previous, np.nan)
                if g is not None:
                    products["update·grad"] = _dot(u, g)
                if p is not None and name in context.origin:
                    moved = p + u
                    moved -= context.origin[name]
                    products["moved·moved"] = _dot(moved, moved)
        ends = ({name: u[row].copy() for name, u in update.items()} for row in (0, -1))
        return DynamicsState([span], *ends)

    def combine(self, left: DynamicsState, right: DynamicsState) -> DynamicsState:
        later = right.spans[0]
        if later.steps[0] == left.spans[-1].steps[-1] + 1:
            for name in left.last.keys() & right.first.keys():
                later.products[name]["update·previous"][0] = left.last[name] @ right.first[name]
        left.spans.extend(right.spans)
        left.last = right.last
        return left

    def finish(self, context: DynamicsContext, state: DynamicsState) -> pd.DataFrame:
        spans = [span.with_whole(context.scale) for span in state.spans]
        steps = np.concatenate([np.empty(0, np.int64), *(span.steps for span in spans)])
        stats = context.stats
        every = steps if stats is None else np.union1d(steps, stats.steps)
        names = list(dict.fromkeys(name for span in spans for name in span.products))
        names += [name for name in context.n_values if stats is not None and name in stats.norm and name not in names]
        names = [name for name in names if name != WHOLE] + [WHOLE]
        n_values = {**context.n_values, WHOLE: sum(context.n_values.values())}
        squares, counts = _sizes_of_every_step(context, spans, steps, every, names)
        series = []
        for name in names:
            numbers: dict[tuple[str, str], tuple[NDArray[np.int64], Floats]] = {}
            for key, values in _sizes(every, squares[name]).items():
                numbers[key] = every, values
            products = {product: _joined(spans, name, product, np.nan) for product in PRODUCTS}
            estimated = name in context.scale or (name == WHOLE and bool(context.scale))
            if not estimated and (name != WHOLE or context.matched):
                for key, values in _directions(steps, products).items():
                    numbers[key] = steps, values
            numbers = {key: pair for key, pair in numbers.items() if not np.isnan(pair[1]).all() or name == WHOLE}
            for kind in KINDS:
                if counts[name][kind].any():
                    numbers[kind, "nonfinite"] = every, counts[name][kind]
            if estimated and (name != WHOLE or context.matched):
                estimates = _estimates(products, context.scale.get(name, 1.0))
                numbers |= {key: (steps, v) for key, v in estimates.items() if not np.isnan(v).all()}
            for (kind, quantity), (at, values) in numbers.items():
                keys = {"parameter": name, "kind": kind, "quantity": quantity}
                series.append(Series(keys, at, values, n=n_values[name]))
        return tidy(series, ("parameter", "kind", "quantity"))


def _sizes_of_every_step(
    context: DynamicsContext,
    spans: list[Span],
    steps: NDArray[np.int64],
    every: NDArray[np.int64],
    names: Sequence[str],
) -> tuple[dict[str, dict[str, Floats]], dict[str, dict[str, Floats]]]:
    """Parameter → kind → ‖·‖² and the count of values that are not finite, at each of ``every``: (steps,).

    From the tensors where they are recorded whole, else from the stats; where neither are, NaN and 0.
    """
    recorded = np.searchsorted(every, steps)
    squares: dict[str, dict[str, Floats]] = {}
    counts: dict[str, dict[str, Floats]] = {}
    for name in names:
        squares[name] = {kind: np.full(len(every), np.nan) for kind in KINDS}
        counts[name] = {kind: np.zeros(len(every)) for kind in KINDS}
        for kind in KINDS:
            if context.stats is not None:
                at = np.searchsorted(every, context.stats.steps)
                norm, nonfinite = _of_stats(context.stats, name, kind)
                squares[name][kind][at], counts[name][kind][at] = norm**2, nonfinite
            if name not in context.scale and (name != WHOLE or (context.matched and not context.scale)):
                found = _joined(spans, name, f"{kind}·{kind}", np.nan)
                there = _joined(spans, name, f"{kind} nonfinite", np.nan)
                known = ~np.isnan(there)
                squares[name][kind][recorded[known]] = found[known]
                counts[name][kind][recorded[known]] = there[known]
    return squares, counts


def _of_stats(stats: StatsTable, name: str, kind: str) -> tuple[Floats, Floats]:
    """The norm, NaN where there was no gradient, and the count, 0 there; of the whole network those of its parts."""
    if name != WHOLE:
        if name not in stats.norm:
            return np.full(len(stats.steps), np.nan), np.zeros(len(stats.steps))
        return stats.norm[name][kind], np.nan_to_num(stats.nonfinite[name][kind])
    norms = np.stack([norms[kind] for norms in stats.norm.values()])
    counts = np.stack([counts[kind] for counts in stats.nonfinite.values()])
    absent = np.isnan(counts)  # a norm is NaN too where a value is
    squares = np.where(absent, 0.0, norms**2).sum(axis=0)
    return np.where(absent.all(axis=0), np.nan, np.sqrt(squares)), np.where(absent, 0.0, counts).sum(axis=0)


def _sizes(steps: NDArray[np.int64], squares: Mapping[str, Floats]) -> dict[tuple[str, str], Floats]:
    """What norms alone tell."""
    if not len(steps):
        return {}
    norm = {kind: np.sqrt(squares[kind]) for kind in KINDS}
    gaps = np.cumsum(np.diff(steps, prepend=steps[0] - 1) > 1) > 0
    return {
        **{(kind, "norm"): values for kind, values in norm.items()},
        ("update", "ratio"): _ratio(norm["update"], norm["param"]),
        ("update", "path_length"): np.where(gaps, np.nan, np.cumsum(norm["update"])),
    }


def _directions(steps: NDArray[np.int64], products: Mapping[str, Floats]) -> dict[tuple[str, str], Floats]:
    """What inner products tell."""
    if not len(steps):
        return {}
    norm = {kind: np.sqrt(products[f"{kind}·{kind}"]) for kind in KINDS}
    before = np.concatenate([[np.nan], norm["update"][:-1]])
    return {
        ("update", "cos_previous"): _ratio(products["update·previous"], norm["update"] * before),
        ("update", "cos_descent"): _ratio(-products["update·grad"], norm["update"] * norm["grad"]),
        ("update", "displacement"): np.sqrt(products["moved·moved"]),
    }


def _estimates(products: Mapping[str, Floats], scale: float) -> dict[tuple[str, str], Floats]:
    """The same inner products of all elements, estimated without bias from those that are recorded."""
    return {
        **{(kind, "squared_norm_estimate"): scale * products[f"{kind}·{kind}"] for kind in KINDS},
        ("update", "dot_previous_estimate"): scale * products["update·previous"],
        ("update", "dot_descent_estimate"): -scale * products["update·grad"],
        ("update", "squared_displacement_estimate"): scale * products["moved·moved"],
    }


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.full(len(above), np.nan), where=below != 0)


def _dot(left: Floats, right: Floats) -> Floats:
    """Σ over the elements of each step: (steps,)."""
    return np.einsum("sp,sp->s", left, right)


def _count_nonfinite(values: Floats, squares: Floats) -> Floats:
    """Elements that are NaN or infinite, looked for only in the steps whose sum of squares is."""
    count = np.zeros(len(values))
    for row in np.flatnonzero(~np.isfinite(squares)):
        count[row] = np.count_nonzero(~np.isfinite(values[row]))
    return count


def _joined(spans: list[Span], name: str, product: str, absent: float) -> Floats:
    return np.concatenate(
        [np.empty(0)] + [span.products.get(name, {}).get(product, np.full(len(span.steps), absent)) for span in spans]
    )
