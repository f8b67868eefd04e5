"""The report: one HTML file that compares runs, problem by problem, and says where everything in it comes from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trajectory_tools.metrics import Metric, analyze
from trajectory_tools.metrics.labels import compared_under, told_apart
from trajectory_tools.reports.cautions import cautions
from trajectory_tools.reports.described import RUN_COLUMNS, Provenance, describe
from trajectory_tools.reports.output import new_file
from trajectory_tools.reports.page import page, program_command, utc_minute
from trajectory_tools.reports.sections import Section, make_sections, of_runs
from trajectory_tools.reports.style import RunStyle
from trajectory_tools.reports.summary import Summary, summarize
from trajectory_tools.reports.words import several
from trajectory_tools.run import Run, find_runs, with_steps

__all__ = ["write_report"]


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

    Runs of one problem are compared with each other; those of one label and several seeds are one curve, and what
    is no run of the same experiment is told apart. A metric or figure that cannot be made says why in its place.

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
        with_steps(opened)  # raises where there is none; a run without, among others, says so in its place
        style = RunStyle.of(opened)
        parts = list(_problems(opened, style, metrics, saved))
        made = {"made_at": utc_minute(now), "command": command or program_command()}
        write(_page(opened, parts, style, title=title, **made))
    return target


def _problems(
    runs: Sequence[Run], style: RunStyle, metrics: Sequence[str | Metric[Any, Any]] | None, saved: bool
) -> Iterator[ProblemPart]:
    analyses = analyze(runs, metrics, saved=saved)
    labels, problems = told_apart(runs), compared_under(runs)
    by_problem: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        by_problem.setdefault(problems[run.name], {}).setdefault(labels[run.name], []).append(run)
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
    runs: Sequence[Run], parts: Sequence[ProblemPart], style: RunStyle, *, title: str | None, made_at: str, command: str
) -> str:
    return page(
        "report.html",
        title=title or f"Trajectories of {several(len(style.labels), 'optimizer')}",
        runs=runs,
        parts=parts,
        style=style,
        run_columns=RUN_COLUMNS,
        version=version("trajectory-tools"),
        made_at=made_at,
        command=command,
    )
