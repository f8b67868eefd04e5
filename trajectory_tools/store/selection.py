"""Which coordinates of which parameters a run records: all, those of some names, a random choice, or a projection.

Importing this loads no NumPy: ``traj record`` checks what it is told before a script sets up the process.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from trajectory_tools.errors import BadArgument

__all__ = ["Selection"]

MAX_DIMS = 2**16


@dataclass(frozen=True)
class Selection:
    """What of the network stands in ``tensors``. run.json says it under ``selection``; ``{}`` there means everything.

    ``match``: a regular expression; the parameters in whose names it is found (``re.search``).

    ``subsample``: a fraction of the coordinates (0 < float ≤ 1), or about how many of the network's (int): of each
    parameter max(1, round(fraction · numel)) of them, chosen uniformly without replacement by ``seed``, see
    ``store.sampling``. So (numel / chosen) · Σ x_i² over the chosen is an unbiased estimate of a parameter's ‖x‖².

    ``projection``: k signed sums in place of each parameter with more than k elements, see ``store.projection``; its
    inner products are unbiased estimates of the parameter's.
    """

    match: str | None = None
    subsample: float | None = None
    projection: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.match is not None:
            try:
                re.compile(self.match)
            except (re.error, TypeError) as error:
                raise BadArgument(f"match is a regular expression, and {self.match!r} is none ({error})") from error
        if self.subsample is not None and self.projection is not None:
            raise BadArgument("give one of subsample and projection, found both")
        if self.subsample is not None:
            is_number = isinstance(self.subsample, int | float) and not isinstance(self.subsample, bool)
            if not is_number or not self.subsample > 0 or (isinstance(self.subsample, float) and self.subsample > 1):
                raise BadArgument(
                    f"subsample is {self.subsample!r}; give a fraction above 0 and up to 1, such as 0.01, or a whole"
                    " number of coordinates"
                )
        if self.projection is not None and (
            not isinstance(self.projection, int) or not 1 <= self.projection <= MAX_DIMS
        ):
            raise BadArgument(f"projection is {self.projection!r}; give the number of dimensions, 1 to {MAX_DIMS:,}")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**32:
            raise BadArgument(f"the seed of a selection is {self.seed!r}; give a whole number from 0 to 2**32 - 1")

    def __bool__(self) -> bool:
        return self.match is not None or self.subsample is not None or self.projection is not None

    @property
    def kind(self) -> str:
        """``full``, ``subsample`` or ``projection``: what a recorded parameter's values are."""
        if self.subsample is not None:
            return "subsample"
        return "full" if self.projection is None else "projection"

    def __str__(self) -> str:
        """In words, for tables and sentences."""
        what = {"full": "all coordinates", "projection": f"{self.projection} random projections of each parameter"}
        if isinstance(self.subsample, float):
            what["subsample"] = f"a random {100 * self.subsample:.3g} % of the coordinates"
        else:
            what["subsample"] = f"about {self.subsample} random coordinates"
        return what[self.kind] + ("" if self.match is None else f" of the parameters that match {self.match!r}")

    def matching(self, names: Iterable[str]) -> list[str]:
        """Those of the names that ``match`` is found in; ``BadArgument``, with the names there are, for none."""
        names = list(names)
        if self.match is None:
            return names
        found = [name for name in names if re.search(self.match, name)]
        if names and not found:
            shown = ", ".join(names[:20]) + (f", ... ({len(names)} of them)" if len(names) > 20 else "")
            raise BadArgument(f"match={self.match!r} is found in no parameter's name; there are: {shown}")
        return found

    def counts(self, numels: Mapping[str, int]) -> dict[str, int]:
        """Parameter → how many values of it are recorded at a step; one that is not is missing."""
        names = self.matching(numels)
        if self.projection is not None:
            return {name: min(self.projection, numels[name]) for name in names}
        if self.subsample is None:
            return {name: numels[name] for name in names}
        total = sum(numels[name] for name in names)
        fraction = self.subsample if isinstance(self.subsample, float) else min(1.0, self.subsample / max(total, 1))
        return {name: min(numels[name], max(1, round(fraction * numels[name]))) for name in names}

    def to_json(self) -> dict[str, Any]:
        """As run.json has it."""
        if not self:
            return {}
        entry: dict[str, Any] = {"kind": self.kind}
        if self.match is not None:
            entry["match"] = self.match
        if self.subsample is not None:
            entry |= {"subsample": self.subsample, "seed": self.seed, "algorithm": "splitmix64-smallest"}
        if self.projection is not None:
            entry |= {"dims": self.projection, "seed": self.seed, "algorithm": "splitmix64-signed-sums"}
        return entry

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Selection:
        """The selection that run.json describes."""
        return cls(entry.get("match"), entry.get("subsample"), entry.get("dims"), entry.get("seed", 0))
