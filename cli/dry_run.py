"""``traj record --dry-run``: how many rows and bytes a run will have."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from trajectory_tools.cli.output import print_json, print_table, say

if TYPE_CHECKING:
    from trajectory_tools.store.size import RunSize

__all__ = ["print_sizes"]


def print_sizes(size: RunSize, *, seeds: int, json: bool) -> None:
    """The tables of one run and what stands beside them, on stdout; together they are what a budget counts."""
    import pandas as pd

    if json:
        tables = [asdict(table) for table in size.tables]
        print_json({"tables": tables, "beside_bytes": size.beside, "total_bytes": size.total, "seeds": seeds})
        return
    rows: list[dict[str, object]] = [
        {"table": table.table, "rows": table.rows, "MB": table.bytes / 1e6} for table in size.tables
    ]
    rows.append({"table": "run.json, manifest, footers", "rows": None, "MB": size.beside / 1e6})
    n_rows = sum(table.rows for table in size.tables)
    rows.append({"table": "together", "rows": n_rows, "MB": size.total / 1e6})
    print_table(pd.DataFrame(rows, dtype=object))
    each = f" for each of {seeds} seeds" if seeds > 1 else ""
    say(f"before compression{each}, which takes about a fifth off; nothing was recorded")
