"""What commands print: data to stdout, everything else to stderr, progress only on a terminal."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["next_command", "print_json", "print_table", "progress", "say"]


def say(text: str) -> None:
    """One line for the person, on stderr."""
    print(text, file=sys.stderr, flush=True)


def next_command(*words: object) -> None:
    """Say which command to type next."""
    say(f"next: {shlex.join(map(str, words))}")


def print_json(data: Any) -> None:
    """One JSON document on stdout; NaN and ±Inf, which JSON does not have, become null."""
    print(json.dumps(_finite(data), indent=2, ensure_ascii=False, default=str))


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {str(key): _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    if isinstance(data, float) and not abs(data) < float("inf"):
        return None
    return data


def print_table(frame: pd.DataFrame) -> None:
    """A frame on stdout: ruled and fitted to a terminal, plain columns elsewhere."""
    texts = [[_cell(value) for value in row] for row in frame.itertuples(index=False)]
    numeric = [all(not isinstance(value, str) for value in frame[name]) for name in frame]
    if sys.stdout.isatty():
        from rich.box import SIMPLE
        from rich.console import Console
        from rich.table import Table

        table = Table(box=SIMPLE)
        for name, right in zip(frame, numeric, strict=True):
            table.add_column(str(name), justify="right" if right else "left")
        for row in texts:
            table.add_row(*row)
        Console(markup=False, highlight=False).print(table)
        return
    rows = [list(map(str, frame)), *texts]
    widths = [max(len(row[i]) for row in rows) for i in range(len(frame.columns))]
    for row in rows:
        cells = (c.rjust(w) if right else c.ljust(w) for c, w, right in zip(row, widths, numeric, strict=True))
        print("  ".join(cells).rstrip())


def _cell(value: Any) -> str:
    if value is None or (not isinstance(value, str) and str(value) in ("nan", "NaT", "<NA>")):
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value))


@contextmanager
def progress(label: str, total: int) -> Iterator[Callable[..., None]]:
    """A progress bar on stderr while the block runs, advanced by each call; nothing where stderr is no terminal.

    A call may give a text to show beside the bar.
    """
    if not sys.stderr.isatty():
        yield lambda text="": None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns: Sequence[Any] = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total, text="")
        yield lambda text="": bar.update(task, advance=1, text=text)
