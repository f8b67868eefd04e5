"""The report: one HTML file that compares runs, problem by problem, and says where everything in it comes from."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

from trajectory_tools.errors import MissingData
from trajectory_tools.metrics import Metric, analyze
from trajectory_tools.reports.cautions import cautions
from trajectory_tools.reports.described import RUN_COLUMNS, Provenance, describe
from trajectory_tools.reports.output import new_file
from trajectory_tools.reports.sections import Drawn, Section, make_sections, of_runs
from trajectory_tools.reports.style import THEME, RunStyle
from trajectory_tools.reports.summary import Summary, summarize
from trajectory_tools.reports.svg import standalone, themed
from trajectory_tools.reports.words import several
from trajectory_tools.run import Run, find_runs

__all__ = ["write_report"]

HERE = Path(__file__).parent

SAFE = " ,.:;=/()-+*@!~$'[]|"
"""What a data: address holds as it is, in all browsers; a tenth of the report would be %20."""


@dataclass(frozen=True)
class ProblemPart:
    """What the report says of the runs of one problem."""

    key: str
    name: str
    summary: Summary
    cautions: tuple[tuple[str, str], ...]
    """(Label, sentence.)"""
    sections: tuple[Section, ...]
    provenance: tuple[Provenance, ...]


def write_report(
    runs: Run | str | Path | Iterable[Run | str | Path],
    path: str | Path,
    *,
    title: str | None = None,
    force: bool = False,
    metrics: Sequence[str | Metric[Any, Any]] | None = None,
    saved: bool = True,
    now: datetime | None = None,
    command: str | None = None,
) -> Path:
    """Compare the runs in one HTML file, which needs no script and no network; returns its path.

    Runs of one problem are compared with each other; those of one label and several seeds are one curve. A metric or
    figure that cannot be made says why in its place.

    Args:
        runs: runs, run folders, or folders with runs below them.
        path: the file to write; folders above it are made.
        title: what stands at the top.
        force: replace the file if it exists.
        metrics: names of metrics, or metrics with their options made; all registered ones unless told.
        saved: take numbers from the runs' ``analysis/`` where they fit, and save new ones there.
        now: the date that the report bears; the present unless told.
        command: what made the report; the program's command line unless told.

    Raises:
        OutputExists: the file is there and ``force`` is not given.
        MissingData: none of the runs has a recorded step.
        TrajectoryError: the file cannot be written; and what opening and reading the runs raises.
    """
    target = Path(path)
    with new_file(target, force=force) as write:
        opened = find_runs(runs)
        if not any(run.n_steps for run in opened):
            raise MissingData(
                f"no step was recorded in {opened[0].name}"
                + (f" and {several(len(opened) - 1, 'other run')}" if len(opened) > 1 else "")
                + "; record at least one step before making a report"
            )
        style = RunStyle.of(opened)
        parts = list(_problems(opened, style, metrics, saved))
        write(_page(opened, parts, style, title=title, now=now or datetime.now(UTC), command=command or _command()))
    return target


def _problems(
    runs: Sequence[Run], style: RunStyle, metrics: Sequence[str | Metric[Any, Any]] | None, saved: bool
) -> Iterator[ProblemPart]:
    analyses = analyze(runs, metrics, saved=saved)
    by_problem: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        by_problem.setdefault(run.problem, {}).setdefault(run.label, []).append(run)
    for number, (problem, by_label) in enumerate(by_problem.items(), 1):
        key = f"problem-{number}"
        own = {
            name: of_runs(analysis, [run for label in by_label.values() for run in label])
            for name, analysis in analyses.items()
        }
        yield ProblemPart(
            key,
            problem,
            summarize(by_label, own),
            tuple((label, text) for label, of_label in by_label.items() for text in cautions(label, of_label, own)),
            tuple(make_sections(own, style, key)),
            tuple(describe(label, of_label) for label, of_label in by_label.items()),
        )


def _page(
    runs: Sequence[Run],
    parts: Sequence[ProblemPart],
    style: RunStyle,
    *,
    title: str | None,
    now: datetime,
    command: str,
) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.tests["drawn"] = lambda figure: isinstance(figure, Drawn)
    environment.filters["themed"] = lambda svg: Markup(themed(svg))
    return environment.get_template("report.html").render(
        title=title or f"Trajectories of {several(len(style.labels), 'optimizer')}",
        runs=runs,
        parts=parts,
        style=style,
        run_columns=RUN_COLUMNS,
        several=several,
        csv_link=_csv_link,
        svg_link=_svg_link,
        sheet=Markup(_variables() + (HERE / "report.css").read_text(encoding="utf-8")),
        version=version("trajectory-tools"),
        made_at=now.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        command=command,
    )


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


def _command() -> str:
    program = sys.argv[0] if sys.argv and sys.argv[0] else sys.executable
    return shlex.join([Path(program).name, *sys.argv[1:]])
