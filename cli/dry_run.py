"""``traj record --dry-run``: how many rows and bytes a run will have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from trajectory_tools.cli.output import print_json, print_table, say

if TYPE_CHECKING:
    from trajectory_tools.store.size import TableSize

__all__ = ["print_sizes"]


def print_sizes(sizes: Sequence[TableSize], *, seeds: int, json: bool) -> None:
    """The tables of one run, and of all seeds together, on stdout."""
    import pandas as pd

    if json:
        print_json({"tables": [asdict(size) for size in sizes], "seeds": seeds})
        return
    rows = [{"table": size.table, "rows": size.rows, "MB": size.bytes / 1e6} for size in sizes]
    total = {"table": "together", "rows": sum(s.rows for s in sizes), "MB": sum(s.bytes for s in sizes) / 1e6}
    print_table(pd.DataFrame([*rows, total]))
    each = f" for each of {seeds} seeds" if seeds > 1 else ""
    say(f"before compression{each}, which takes about a fifth off; nothing was recorded")
