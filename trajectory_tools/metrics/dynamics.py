"""How the parameters move: norms, ratios, angles between steps, path against displacement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trajectory_tools.errors import MissingData
from trajectory_tools.metrics.base import Metric
from trajectory_tools.metrics.frames import Series, tidy
from trajectory_tools.metrics.histogram import WHOLE
from trajectory_tools.run import Run
from trajectory_tools.store.chunks import Chunk

__all__ = ["Dynamics"]

Floats = NDArray[np.floating[Any]]
Flat = Mapping[str, Floats]

# Sums over elements, from which every quantity is made; those of the whole network are the sums over parameters.
PRODUCTS = ("param·param", "grad·grad", "update·update", "update·grad", "update·previous", "moved·moved")


@dataclass(frozen=True)
class DynamicsContext:
    """The parameters at the first recorded step, and the number of elements of each."""

    origin: Flat
    n_values: Mapping[str, int]


@dataclass
class Span:
    """A chunk's sums over elements and counts of values that are not finite: parameter → product → (steps,)."""

    steps: NDArray[np.int64]
    products: dict[str, dict[str, Floats]]

    def with_whole(self) -> Span:
        """With the sums over all parameters; one that lacks a product (its gradient was None) counts as zero."""
        whole: dict[str, Floats] = {}
        for products in self.products.values():
            for product, values in products.items():
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

    A quotient by a norm of 0 is NaN. In the whole network a gradient that was None counts as zero; where all were, it
    is NaN. A parameter that was added later has neither path nor displacement.
    """

    name: ClassVar[str] = "dynamics"
    columns: ClassVar[tuple[str, ...]] = ("param", "grad", "update")

    def prepare(self, run: Run) -> DynamicsContext:
        if not run.columns or not run.steps.size:
            raise MissingData("no tensors were recorded")
        origin: dict[str, Floats] = {}
        if "param" in run.columns:
            for chunk in run.chunks(["param"], steps=run.steps[:1]):
                origin = {name: values[0].ravel().astype(np.float64) for name, values in chunk.param.items()}
        return DynamicsContext(origin, {name: int(np.prod(shape)) for name, shape in run.shapes.items()})

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
        spans = [span.with_whole() for span in state.spans]
        steps = np.concatenate([span.steps for span in spans])
        names = list(dict.fromkeys(name for span in spans for name in span.products))
        sizes = {**context.n_values, WHOLE: sum(context.n_values.values())}
        series = []
        for name in names:
            products = {product: _joined(spans, name, product, np.nan) for product in PRODUCTS}
            numbers = {
                quantity: values
                for quantity, values in _quantities(steps, products).items()
                if not np.isnan(values).all() or name == WHOLE
            }
            for kind in ("param", "grad", "update"):
                count = _joined(spans, name, f"{kind} nonfinite", 0)
                if count.any():
                    numbers[kind, "nonfinite"] = count
            for (kind, quantity), values in numbers.items():
                keys = {"parameter": name, "kind": kind, "quantity": quantity}
                series.append(Series(keys, steps, values, n=sizes[name]))
        return tidy(series, ("parameter", "kind", "quantity"))


def _quantities(steps: NDArray[np.int64], products: Mapping[str, Floats]) -> dict[tuple[str, str], Floats]:
    with np.errstate(invalid="ignore"):
        norm = {kind: np.sqrt(products[f"{kind}·{kind}"]) for kind in ("param", "grad", "update")}
        before = np.concatenate([[np.nan], norm["update"][:-1]])
        gaps = np.cumsum(np.diff(steps, prepend=steps[0] - 1) > 1) > 0
        return {
            **{(kind, "norm"): values for kind, values in norm.items()},
            ("update", "ratio"): _ratio(norm["update"], norm["param"]),
            ("update", "cos_previous"): _ratio(products["update·previous"], norm["update"] * before),
            ("update", "cos_descent"): _ratio(-products["update·grad"], norm["update"] * norm["grad"]),
            ("update", "path_length"): np.where(gaps, np.nan, np.cumsum(norm["update"])),
            ("update", "displacement"): np.sqrt(products["moved·moved"]),
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
        [span.products.get(name, {}).get(product, np.full(len(span.steps), absent)) for span in spans]
    )
