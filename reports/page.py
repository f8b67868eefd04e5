"""What every page of ours shares: the template engine, the style sheet, links that hold their data, who made it."""

from __future__ import annotations

import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from trajectory_tools.reports.sections import Drawn
from trajectory_tools.reports.style import THEME
from trajectory_tools.reports.svg import standalone, themed
from trajectory_tools.reports.words import several

__all__ = ["page", "program_command", "utc_minute"]

HERE = Path(__file__).parent

SAFE = " ,.:;=/()-+*@!~$'[]|"
"""What a data: address holds as it is, in all browsers; a tenth of the report would be %20."""


def page(template: str, **values: Any) -> str:
    """The template of this folder, filled in."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.tests["drawn"] = lambda figure: isinstance(figure, Drawn)
    environment.filters["themed"] = lambda svg: Markup(themed(svg))
    return environment.get_template(template).render(
        several=several,
        csv_link=_csv_link,
        svg_link=_svg_link,
        sheet=Markup(_variables() + (HERE / "report.css").read_text(encoding="utf-8")),
        **values,
    )


def program_command() -> str:
    """The command line of this process, without the folder that the program lies in."""
    program = sys.argv[0] if sys.argv and sys.argv[0] else sys.executable
    return shlex.join([Path(program).name, *sys.argv[1:]])


def utc_minute(time: datetime | None) -> str:
    """The time, the present unless told, as a page bears it."""
    return (time or datetime.now(UTC)).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _variables() -> str:
    """The colours as CSS variables, for light and for dark."""
    light, dark = ("".join(f"{variable}:{colors[i]};" for variable, *colors in THEME.values()) for i in (0, 1))
    return (
        f":root{{color-scheme:light dark;{light}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"
    )


def _csv_link(drawn: Drawn) -> str:
    text = drawn.figure.data.to_csv(index=False, lineterminator="\n")
    return "data:text/csv;charset=utf-8," + quote(text.encode("utf-8", "replace"), safe=SAFE)


def _svg_link(drawn: Drawn) -> str:
    return "data:image/svg+xml;charset=utf-8," + quote(standalone(drawn.svg), safe=SAFE)
