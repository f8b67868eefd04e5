"""Which parameters are recorded: by a pattern that their names match."""

from __future__ import annotations

from collections.abc import Iterable

from trajectory_tools.store.selection import Selection

__all__ = ["Selection", "matching_names"]


def matching_names(match: str | None, names: Iterable[str]) -> list[str]:
    """The names in which the regular expression is found (``re.search``), in order; all of them for ``None``.

    ``BadArgument``, one sentence with the names there are, where it is found in none or is no regular expression.
    """
    return Selection(match=match).matching(names)
