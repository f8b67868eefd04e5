"""Options that belong to a named entry (a problem, an optimizer): read from the command line, listed below the help."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from trajectory_tools.errors import BadArgument

if TYPE_CHECKING:
    from trajectory_tools.options import Option, Options

__all__ = ["FREE_OPTIONS", "free_options", "print_options"]

FREE_OPTIONS = {"allow_extra_args": True, "ignore_unknown_options": True}
"""The settings of a command that takes them."""


def free_options(words: Sequence[str]) -> dict[str, str]:
    """``--batch-size 64 --nesterov`` as a mapping; an option without a value is true."""
    given: dict[str, str] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or word == "--":
            raise BadArgument(f"unexpected argument {word!r}; put the problem first; options begin with --")
        name, equals, value = word[2:].partition("=")
        if not equals:
            value = rest.pop(0) if rest and not rest[0].startswith("--") else "true"
        given[name.replace("-", "_")] = value
    return given


def print_options(heading: str, entries: Mapping[str, type[Options]], *, but: Iterable[str] = ()) -> None:
    """A panel with the entries by name, and each of their options once (except those in ``but``)."""
    from rich.box import ROUNDED
    from rich.console import Console
    from rich.panel import Panel
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for name, entry in entries.items():
        if name:
            table.add_row(f"[bold cyan]{name}[/]", (entry.__doc__ or "").strip().splitlines()[0])
    if any(entries):
        table.add_row()
    for option, names in _options_of(entries.values()).items():
        if option.name in but:
            continue
        default = ",".join(map(str, option.default)) if isinstance(option.default, tuple) else str(option.default)
        choices = f" ({', '.join(option.choices)})" if option.choices else ""
        of = "" if len(names) == len(entries) else f" [dim]{', '.join(names)}[/]"
        flag = f"[green]--{option.name.replace('_', '-')}[/]"
        table.add_row(flag, f"{option.help}{choices} [dim]\\[default: {default.lower()}][/]{of}")
    Console().print(Panel(table, title=heading, title_align="left", box=ROUNDED, border_style="dim"))


def _options_of(entries: Iterable[type[Options]]) -> dict[Option, list[str]]:
    """Each option once, with the entries that have it."""
    found: dict[Option, list[str]] = {}
    for entry in entries:
        for option in entry.listing():
            found.setdefault(option, []).append(entry.name)
    return found
