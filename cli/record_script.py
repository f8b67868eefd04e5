"""``traj record`` of a script or module that knows nothing of it."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from trajectory_tools.cli.output import next_command, say
from trajectory_tools.errors import BadArgument, OutputExists, UnknownName

if TYPE_CHECKING:
    from trajectory_tools.recorder.observe import Observer

__all__ = ["OF_PROBLEMS", "OF_SCRIPTS", "SCRIPT_ARGUMENTS", "record_script", "refuse_options"]

OF_SCRIPTS = "Options for a script"
OF_PROBLEMS = "Options for a built-in problem"
COLUMNS = ("param", "grad", "update")
COMPRESSIONS = ("auto", "zstd", "none")
"""As the store has them, which is not imported here: NumPy looks at the environment that a script may set up."""
SCRIPT_ARGUMENTS = "trajectory_tools.script_arguments"
"""Where the context keeps what stands after ``--``."""


def record_script(
    ctx: typer.Context,
    target: str | None,
    arguments: Sequence[str],
    *,
    module: str | None,
    output: Path | None,
    index: int | None,
    options: Mapping[str, Any],
) -> NoReturn:
    """Run the script as python would, recording every optimizer in it, and end as it ends."""
    from trajectory_tools.recorder.observe import Observer
    from trajectory_tools.recorder.script import Script

    words = [*([] if module is None or target is None else [target]), *ctx.args]
    if words:
        raise BadArgument(
            f"traj record has no option {words[0]}; the script's own arguments stand after --:"
            f" traj record {shlex.join(_run_by(target, module))} ... -- {shlex.join([*words, *arguments])}"
        )
    refuse_options(
        ctx, OF_PROBLEMS, "it is for built-in problems; a script says itself how it trains, and for how long"
    )
    if ctx.params.get("json"):
        raise BadArgument("--json is for built-in problems; what a script prints is its own")
    script = Script(module or target or "", arguments, is_module=module is not None)
    folder = output or Path("runs") / script.name
    _check_options(options)
    if os.environ.get("RANK", "0") == "0":  # which may have begun before the others look
        _check_folder(folder, replace=options["if_exists"] == "replace")
    folder = folder.absolute()  # a script may change its working directory
    observer = Observer(folder, options, index=index, say=_say)
    if sys.excepthook.__module__.startswith("typer"):
        sys.excepthook = sys.__excepthook__
    script.run(at_start=observer.watch, at_end=lambda error: _tell(observer, error))


def refuse_options(ctx: typer.Context, panel: str, why: str) -> None:
    """Raise for an option of this panel that was given."""
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(parameter.name or "")
        if getattr(parameter, "rich_help_panel", None) == panel and source is not None and source.name != "DEFAULT":
            raise BadArgument(f"{parameter.opts[0]} cannot be given here: {why}")


def _run_by(target: str | None, module: str | None) -> list[str]:
    return [str(target)] if module is None else ["-m", module]


def _check_options(options: Mapping[str, Any]) -> None:
    """What can be found wrong before the script begins."""
    from trajectory_tools.store.selection import Selection

    for column in options["save"]:
        if column not in COLUMNS:
            raise UnknownName("column to save", column, COLUMNS)
    if (every := options["every"]) < 1:
        raise BadArgument(f"--every is {every}; give 1 or more")
    if options["compression"] not in COMPRESSIONS:
        raise UnknownName("compression", options["compression"], COMPRESSIONS)
    Selection(
        options.get("match"), options.get("subsample"), options.get("projection"), options.get("selection_seed", 0)
    )


def _check_folder(folder: Path, *, replace: bool) -> None:
    """Raise where it cannot be written, or holds a run that is not to be replaced, or anything but runs."""
    from trajectory_tools.recorder.observe import runs_in
    from trajectory_tools.store.metadata import refuse_foreign, refuse_unwritable

    there = runs_in(folder)
    if not there or folder in there:
        refuse_foreign(folder)
    refuse_unwritable(folder)
    for path in () if replace else there:
        which = "" if path == folder else f" ({path.relative_to(folder)})"
        raise OutputExists(
            f"{folder} holds a run already{which}; choose another folder with -o, or replace it with --force"
        )


def _say(text: str) -> None:
    say(f"traj: {text}")


def _tell(observer: Observer, error: BaseException | None) -> None:
    """Close the runs, and say what was recorded, what was not, and what to type next."""
    observed = observer.finish(error)
    for run in observed:
        values = f"{run.recorded:,} of {run.values:,} values" if run.recorded < run.values else f"{run.values:,} values"
        tensors = f", the tensors of {run.tensors:,} of them," if run.tensors else ", without tensors,"
        _say(
            f"recorded {run.steps:,} steps of {run.optimizer} ({run.parameters:,} parameters, {values})"
            f"{tensors if run.tensors < run.steps else ''} in {_shown(run.path)}"
        )
    for why in observer.could_not:
        _say(why)
    if observed:
        next_command("traj", "report", _shown(observer.path), "-o", "report.html")


def _shown(path: Path) -> str:
    """The path from the working directory, where it is below that."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
