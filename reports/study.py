"""The page of a figure of the study: claims, numbers, figure, where they come from; and the figure's own files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trajectory_tools.experiments.study.reproduction import Reproduction, SettingResult
from trajectory_tools.reports.described import hyperparameters, seeds
from trajectory_tools.reports.output import new_file
from trajectory_tools.reports.page import page, program_command, utc_minute
from trajectory_tools.reports.sections import Drawn
from trajectory_tools.reports.study_figures import study_figure
from trajectory_tools.reports.study_tables import caution, claims_table, definitions, numbers_table
from trajectory_tools.reports.style import RunStyle
from trajectory_tools.reports.svg import draw, standalone
from trajectory_tools.reports.words import several

__all__ = ["study_files"]

SUFFIXES = ("html", "svg", "csv", "json")


@contextmanager
def study_files(
    folder: Path, name: str, *, force: bool = False, now: datetime | None = None, command: str | None = None
) -> Iterator[Callable[[Reproduction], list[Path]]]:
    """What writes ``name.html``, ``.svg``, ``.csv`` (what is plotted) and ``.json`` (every number, seed by seed).

    Made before the numbers are, so that a path that cannot be written is found at once. ``now`` and ``command`` are
    what the files bear; the present, and the program's command line, unless told. Raises ``OutputExists`` without
    ``force``, ``TrajectoryError`` where a file cannot be written.
    """
    with ExitStack() as stack:
        paths = {suffix: folder / f"{name}.{suffix}" for suffix in SUFFIXES}
        writers = {suffix: stack.enter_context(new_file(path, force=force)) for suffix, path in paths.items()}

        def write(reproduction: Reproduction) -> list[Path]:
            made = {
                "at": utc_minute(now),
                "command": command or program_command(),
                "version": version("trajectory-tools"),
            }
            style = RunStyle(reproduction.figure.labels)
            figure = study_figure(reproduction)
            svg = draw(figure, style, name)
            figure = replace(figure, data=figure.data.rename(columns={"step": "iteration"}))
            drawn = Drawn(name, figure, svg)
            texts = {
                "html": _page(reproduction, drawn, style, made),
                "svg": standalone(drawn.svg),
                "csv": figure.data.to_csv(index=False, lineterminator="\n"),
                "json": json.dumps({**reproduction.to_json(), "made": made}, indent=2, ensure_ascii=False),
            }
            for suffix, text in texts.items():
                writers[suffix](text)
            return list(paths.values())

        yield write


def _page(reproduction: Reproduction, drawn: Drawn, style: RunStyle, made: dict[str, str]) -> str:
    return page(
        "study.html",
        reproduction=reproduction,
        drawn=drawn,
        style=style,
        made=made,
        claims=claims_table(reproduction),
        numbers=[(result.setting.title, numbers_table(result)) for result in reproduction.settings],
        definitions=definitions(reproduction),
        caution=caution(reproduction),
        provenance=[row for result in reproduction.settings for row in _provenance(result)],
    )


def _provenance(result: SettingResult) -> Iterator[tuple[str, ...]]:
    """Setting, curve, optimizer, runs, data, versions, folder: a row for each curve."""
    for curve in result.setting.curves:
        runs = [run for run in result.runs if run.label == curve.label]
        described: dict[str, Any] = runs[0].metadata
        tuned = ", lr tuned" if "tuning" in described else ""
        weights = described["optimizer"].get("weights", {}).get("sha256", "")
        environment = described.get("environment", {})
        yield (
            result.setting.title,
            curve.label,
            f"{runs[0].optimizer}: {hyperparameters(runs[0])}{tuned}" + f", sha256 {weights[:12]}" * bool(weights),
            f"{several(runs[0].n_steps, 'step')}, {seeds(runs)}",
            str(described.get("problem", {}).get("data", "")),
            f"{environment.get('trajectory_tools', '?')}, torch {environment.get('torch', '?')}",
            runs[0].path.parent.as_posix(),
        )
