"""What of a run fits into so many bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from trajectory_tools.errors import BadArgument
from trajectory_tools.store.selection import Selection
from trajectory_tools.store.size import RunSize

__all__ = ["BudgetChoice", "choose_for_budget", "parse_bytes", "show_bytes"]

SPARSEST = 50
"""Rather a random sample of every step than whole tensors less often than this."""

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


@dataclass(frozen=True)
class BudgetChoice:
    """What fits: the tensors of every ``every``-th step, of this selection; ``size`` bytes before compression."""

    every: int
    selection: Selection
    size: int
    sentence: str


def choose_for_budget(
    budget: int,
    numels: Mapping[str, int],
    *,
    n_steps: int,
    every: int | None = None,
    selection: Selection | None = None,
    n_columns: int = 3,
    itemsize: int = 4,
    stats: bool = True,
) -> BudgetChoice:
    """The most that a run of ``n_steps`` steps may record within ``budget`` bytes, before compression.

    Whole tensors of every step; or of every k-th, k up to 50; or else of every step a random subsample of coordinates,
    and, where fewer than one coordinate of each parameter would remain, that of every k-th step. What is given
    (``every``, or a ``selection`` that takes a subsample or a projection) stays; ``selection.match`` always does.
    ``BadArgument`` where not even one step of whole tensors fits beside the scalars and stats of all.
    """
    if n_steps < 1:
        raise BadArgument(f"a budget is for a number of steps, found {n_steps}; say how many steps the run will have")
    chosen = selection or Selection()
    fixed_selection = chosen.kind != "full"

    def size(k: int, of: Selection) -> int:
        n_recorded = -(-n_steps // k)
        return RunSize(of.counts(numels), len(numels), n_steps, n_recorded, n_columns, itemsize, stats).total

    def choice(k: int, of: Selection) -> BudgetChoice:
        when = "every step" if k == 1 else f"every {k} steps"
        sentence = (
            f"a budget of {show_bytes(budget)} for {n_steps:,} steps: {of} {when}, {show_bytes(size(k, of))} before"
            " compression"
        )
        return BudgetChoice(k, of, size(k, of), sentence)

    def sparsest(of: Selection) -> int:
        """The smallest k that fits; n_steps always does."""
        low, high = 1, n_steps
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if size(middle, of) <= budget else (middle + 1, high)
        return low

    needed = size(n_steps, chosen)
    if needed > budget:
        raise BadArgument(
            f"a budget of {show_bytes(budget)} is too small for one step: run.json and the like, the"
            f" scalars{' and stats' if stats else ''} of {n_steps:,} steps and the tensors of one take"
            f" {show_bytes(needed)}; give at least that, fewer steps, or less to record (match, subsample, save, stats)"
        )
    if every is not None and (fixed_selection or size(every, chosen) <= budget):
        if size(every, chosen) > budget:
            raise BadArgument(
                f"{chosen} every {every} steps take {show_bytes(size(every, chosen))}, more than the budget of"
                f" {show_bytes(budget)}; leave every or the selection to the budget, or give every={sparsest(chosen)}"
            )
        return choice(every, chosen)
    if every is None:
        k = sparsest(chosen)
        if fixed_selection or k <= SPARSEST:
            return choice(k, chosen)
    k = every or 1
    fraction = _largest_fraction(budget, k, chosen, size)
    if fraction is not None:
        return choice(k, Selection(chosen.match, fraction, None, chosen.seed))
    smallest = Selection(chosen.match, 1e-12, None, chosen.seed)  # one coordinate of each parameter
    if every is not None:
        raise BadArgument(
            f"one coordinate of each parameter every {every} steps takes {show_bytes(size(every, smallest))}, more than"
            f" the budget of {show_bytes(budget)}; give every={sparsest(smallest)} or more"
        )
    return choice(sparsest(smallest), smallest)


def _largest_fraction(budget: int, every: int, chosen: Selection, size: object) -> float | None:
    """The largest subsample, to two digits, that fits; ``None`` where none does."""
    assert callable(size)
    for exponent in range(-1, -10, -1):
        for digits in range(99, 9, -1):
            fraction = float(f"{digits}e{exponent - 1}")
            if size(every, Selection(chosen.match, fraction, None, chosen.seed)) <= budget:
                return fraction
    return None


def parse_bytes(text: str | float) -> int:
    """A number of bytes: 2000000, "2GB", "500 MB", "1.5GiB".

    >>> parse_bytes("2GB"), parse_bytes("1.5 KiB"), parse_bytes(300)
    (2000000000, 1536, 300)
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:e[0-9]+)?)\s*([kmgt]?i?)b?\s*", str(text), re.IGNORECASE)
    if match is None or match[2].lower() not in UNITS or float(match[1]) <= 0:
        raise BadArgument(f"{text!r} is no number of bytes; give one such as 2GB, 500MB or 1.5GiB")
    return int(float(match[1]) * UNITS[match[2].lower()])


def show_bytes(n_bytes: int) -> str:
    """In words: ``1.4 GB``."""
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n_bytes >= size:
            return f"{n_bytes / size:.3g} {unit}"
    return f"{n_bytes} bytes"
