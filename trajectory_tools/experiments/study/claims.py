"""What is claimed of the study's numbers, and whether it holds for ours: pure functions on numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Claim", "Number", "Verdict", "judge", "larger", "meet", "ordered", "smallest", "summary", "vanishes"]


@dataclass(frozen=True)
class Number:
    """One number of a setting's table: in which row, and in which column."""

    curve: str
    column: str


@dataclass(frozen=True)
class Claim:
    """A statement about some numbers, with its tolerance, as it was written down before the numbers were there.

    ``holds(*numbers)`` decides it, for the means over the seeds and for each seed on its own; NaN never holds.
    ``paper`` is what the paper says, where that is more than the values in the columns.
    """

    text: str
    where: str
    """What all of the numbers share: their column, or their curve."""
    numbers: tuple[Number, ...]
    holds: Callable[..., bool] = field(repr=False, compare=False)
    paper: str = ""


@dataclass(frozen=True)
class Verdict:
    """A claim and our numbers: ``ours`` (numbers, seeds); whether it holds for the means, and for how many seeds."""

    claim: Claim
    ours: NDArray[np.float64]
    holds: bool
    seeds_holding: int

    @property
    def n_seeds(self) -> int:
        """The number of seeds."""
        return self.ours.shape[1]

    def to_json(self) -> dict[str, Any]:
        """The claim, what is compared, our numbers seed by seed, and the verdict."""
        return {
            "claim": self.claim.text,
            "of": self.claim.where,
            "numbers": [
                {"curve": number.curve, "column": number.column, **summary(values)}
                for number, values in zip(self.claim.numbers, self.ours, strict=True)
            ],
            "holds": self.holds,
            "seeds_holding": self.seeds_holding,
            "seeds": self.n_seeds,
        }


def judge(claim: Claim, values: Mapping[Number, NDArray[np.float64]], n_seeds: int) -> Verdict:
    """Hold our numbers against the claim.

    Args:
        claim: what is claimed.
        values: the numbers of each seed, in the same order of seeds: (seeds,). One that is missing counts as NaN.
        n_seeds: how many seeds there are.
    """
    ours = np.stack([values.get(number, np.full(n_seeds, np.nan)) for number in claim.numbers])
    held = [bool(claim.holds(*seed)) for seed in ours.T]
    return Verdict(claim, ours, bool(claim.holds(*ours.mean(axis=1))), sum(held))


def larger(left: Number, right: Number, *, factor: float = 1.0, paper: str = "") -> Claim:
    """Left > factor · right."""
    (a, b), where = _named([left, right])
    text = f"{a} > {b}" if factor == 1 else f"{a} > {factor:g} × {b}"
    return Claim(text, where, (left, right), lambda x, y: x > factor * y, paper)


def ordered(curves: Sequence[str], column: str, *, paper: str = "") -> tuple[Claim, ...]:
    """Each curve's number is larger than the next one's: one claim for each pair of neighbours."""
    numbers = [Number(curve, column) for curve in curves]
    return tuple(larger(a, b, paper=paper) for a, b in pairwise(numbers))


def vanishes(number: Number, beside: Number, *, below: float, paper: str = "") -> Claim:
    """Number ≤ below · beside."""
    (a, b), where = _named([number, beside])
    return Claim(f"{a} ≤ {below:g} × {b}", where, (number, beside), lambda x, y: x <= below * y, paper)


def meet(numbers: Sequence[Number], *, within: float, together: str = "", paper: str = "") -> Claim:
    """The greatest of these positive numbers is at most (1 + within) times the least; ``together``: their one name."""
    names, where = _named(numbers)
    text = f"{together or ', '.join(names)} agree within {100 * within:g} %"
    return Claim(text, where, tuple(numbers), lambda *x: np.max(x) <= (1 + within) * np.min(x), paper)


def smallest(curve: str, others: Sequence[str], column: str, *, paper: str = "") -> Claim:
    """The curve's number is smaller than that of each other one."""
    numbers = tuple(Number(name, column) for name in (curve, *others))
    return Claim(f"{curve} < {', '.join(others)}", column, numbers, lambda x, *rest: x < np.min(rest), paper)


def summary(values: NDArray[np.float64]) -> dict[str, Any]:
    """The seeds' values, mean and sd (n − 1; of one value, none), as JSON has them: what is not finite is null."""
    with np.errstate(invalid="ignore"):
        deviation = values.std(ddof=1) if len(values) > 1 else math.nan
    mean, sd, *each = (float(value) if math.isfinite(value) else None for value in (values.mean(), deviation, *values))
    return {"values": each, "mean": mean, "sd": sd}


def _named(numbers: Sequence[Number]) -> tuple[list[str], str]:
    """What to call each number, and what they share."""
    columns, curves = (
        list(dict.fromkeys(values)) for values in zip(*((n.column, n.curve) for n in numbers), strict=True)
    )
    if len(columns) == 1:
        return [number.curve for number in numbers], columns[0]
    if len(curves) == 1:
        return [number.column for number in numbers], curves[0]
    return [f"{number.curve}'s {number.column}" for number in numbers], ""
