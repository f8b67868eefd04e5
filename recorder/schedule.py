"""Schedules: at which steps the tensors are recorded. A schedule is any callable from the step number to a bool."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from trajectory_tools.errors import BadArgument

__all__ = ["Schedule", "at", "every", "logarithmic"]

Schedule = Callable[[int], bool]


class every:  # noqa: N801 - reads as a word: every(10)
    """Steps 0, n, 2n, ..."""

    def __init__(self, n: int) -> None:
        if n < 1:
            raise BadArgument(
                f"every={n} records nothing; it is the number of steps from one record to the next, 1 or more"
            )
        self.n = n

    def __call__(self, step: int) -> bool:
        """Whether to record this step."""
        return step % self.n == 0

    def __repr__(self) -> str:
        return "every step" if self.n == 1 else f"every {self.n} steps"


class at:  # noqa: N801
    """Exactly these steps."""

    def __init__(self, steps: Iterable[int]) -> None:
        self.steps = frozenset(steps)
        if not self.steps or min(self.steps) < 0:
            raise BadArgument(f"the steps to record are numbers from 0 on, found {sorted(self.steps) or 'none'}")

    def __call__(self, step: int) -> bool:
        """Whether to record this step."""
        return step in self.steps

    def __repr__(self) -> str:
        shown = ", ".join(map(str, sorted(self.steps)[:6]))
        return f"at {len(self.steps)} steps ({shown}{', ...' if len(self.steps) > 6 else ''})"


class logarithmic:  # noqa: N801
    """Step 0 and the steps nearest to 10^(k/per_decade), k = 0, 1, 2, ...: dense early, sparse late."""

    def __init__(self, per_decade: int = 10) -> None:
        if per_decade < 1:
            raise BadArgument(f"a logarithmic schedule needs at least one step a decade, found {per_decade}")
        self.per_decade = per_decade

    def __call__(self, step: int) -> bool:
        """Whether to record this step."""
        if step == 0:
            return True
        k = math.floor(math.log10(step) * self.per_decade)
        return any(round(10 ** (j / self.per_decade)) == step for j in (k - 1, k, k + 1))

    def __repr__(self) -> str:
        return f"{self.per_decade} steps a decade"
