"""``traj record``: record a built-in problem."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from trajectory_tools.cli.arguments import Force, Json
from trajectory_tools.cli.output import next_command, print_json, progress, say
from trajectory_tools.errors import BadArgument, OutputExists, UnknownName

if TYPE_CHECKING:
    from trajectory_tools.options import Option, Options
    from trajectory_tools.recorder.schedule import Schedule

FREE_OPTIONS = {"allow_extra_args": True, "ignore_unknown_options": True}


class RecordCommand(TyperCommand):
    """Lists the problems and optimizers, with the options of each, below the help; nothing loads them before."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        super().format_help(ctx, formatter)
        _print_entries()


def record(
    ctx: typer.Context,
    problem: Annotated[str, typer.Argument(help="What to train: one of the problems below.", show_default=False)],
    optimizer: Annotated[str, typer.Option(help="What to train it with: one of the optimizers below.")] = "adam",
    lr: Annotated[
        str | None, typer.Option(help="Learning rate; `tune` chooses one of ten from 1e-4 to 3 first.")
    ] = None,
    steps: Annotated[int, typer.Option(help="How many steps to train.")] = 200,
    seed: Annotated[int, typer.Option(help="The seed, or the first of several.")] = 0,
    seeds: Annotated[int, typer.Option(help="How many seeds; several runs go into seed-0, seed-1, ...")] = 1,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The run folder to make. (default: runs/PROBLEM-OPTIMIZER)")
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="What to call the run in figures. (default: the folder's name)")
    ] = None,
    every: Annotated[int, typer.Option(help="Record the tensors of every n-th step.")] = 1,
    at: Annotated[str | None, typer.Option(help="Record the tensors of just these steps, such as 0,10,100.")] = None,
    per_decade: Annotated[int | None, typer.Option(help="Record so many steps a decade, evenly on a log axis.")] = None,
    save: Annotated[str, typer.Option(help="Which of param, grad and update to record.")] = "param,grad,update",
    compression: Annotated[str, typer.Option(help="zstd; none: faster, larger; auto: as fast as the training needs.")] = "zstd",
    force: Force = False,
    json: Json = False,
) -> None:
    """Train a built-in problem and record every step.

    `traj record digits-mlp --optimizer adam --lr tune --seeds 3 -o runs/adam`

    `traj record digits-mlp --optimizer sgd --momentum 0.9 --activation leaky_relu -o runs/momentum`

    `traj record mnist-mlp --data-dir data/mnist --hidden 100,100 --batch-norm -o runs/mnist`
    """
    from trajectory_tools.experiments.recording import Experiment
    from trajectory_tools.problems import make_problem

    given = _free_options(ctx.args)
    problem_options, optimizer_given = _assigned(problem, optimizer, given)
    made = make_problem(problem, **problem_options)
    output = output or Path("runs") / f"{problem}-{optimizer}"
    folders = _folders(output, seed, seeds, steps, force)
    options: dict[str, Any] = {
        "every": every,
        "schedule": _schedule(at, per_decade),
        "save": _columns(save),
        "compression": compression,
    }
    if lr == "tune":
        say(f"tuning the learning rate of {optimizer} on {problem} ...")
        experiment = Experiment.tuned(made, optimizer, optimizer_given)
        say(f"chose lr = {experiment.options['lr']:g}")
    else:
        if lr is not None:
            optimizer_given["lr"] = lr
        experiment = Experiment(made, optimizer, optimizer_given)
    if force and seeds > 1:
        _remove_other_seeds(output, folders.values())
    for number, folder in folders.items():
        with progress(f"seed {number}", steps) as advance:
            recorder = experiment.record(
                folder,
                seed=number,
                steps=steps,
                label=label or output.name,
                if_exists="replace" if force else "error",
                on_step=advance,
                **options,
            )
        say(f"recorded {recorder.steps_seen:,} steps of {problem} with {optimizer}, seed {number}")
        if not json:
            print(folder)
    if json:
        print_json([str(folder) for folder in folders.values()])
    next_command("traj", "report", output, "-o", "report.html")


def _free_options(words: Sequence[str]) -> dict[str, str]:
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


def _assigned(problem: str, optimizer: str, given: Mapping[str, str]) -> tuple[dict[str, str], dict[str, Any]]:
    """The options that are the problem's, and those that are the optimizer's."""
    from trajectory_tools.optimizers import optimizer_options
    from trajectory_tools.problems import PROBLEMS

    if problem not in PROBLEMS and Path(problem).is_file():
        raise BadArgument(
            f"{problem!r} is a file, and traj record trains built-in problems ({', '.join(PROBLEMS)});"
            " put a Recorder into your script: `with Recorder(path, model, optimizer) as rec:` around its loop"
        )
    if problem not in PROBLEMS:
        raise UnknownName("problem", problem, PROBLEMS)
    of_problem = {option.name for option in PROBLEMS[problem].listing()}
    of_optimizer = {option.name for option in optimizer_options(optimizer)}
    for name in given:
        if name not in of_problem | of_optimizer:
            known = (f"--{option.replace('_', '-')}" for option in of_problem | of_optimizer | COMMON)
            raise UnknownName(f"option of {problem} with {optimizer}:", f"--{name.replace('_', '-')}", known)
    return (
        {name: value for name, value in given.items() if name in of_problem},
        {name: value for name, value in given.items() if name in of_optimizer},
    )


COMMON = {
    "steps",
    "seed",
    "seeds",
    "output",
    "label",
    "every",
    "at",
    "per_decade",
    "save",
    "compression",
    "force",
    "lr",
    "optimizer",
}


def _folders(output: Path, seed: int, seeds: int, steps: int, force: bool) -> dict[int, Path]:
    """Seed → run folder, once it is known that each can be made."""
    from trajectory_tools.store.metadata import RUN_FILE

    if steps < 1:
        raise BadArgument(f"--steps is {steps}; give at least 1")
    if seeds < 1:
        raise BadArgument(f"--seeds is {seeds}; it is how many runs to record, 1 or more")
    folders = {n: output / f"seed-{n}" for n in range(seed, seed + seeds)} if seeds > 1 else {seed: output}
    there = [path for path in (output, *_seed_folders(output)) if (path / RUN_FILE).exists()]
    if there and not force:
        raise OutputExists(
            f"{output} holds a run already ({there[0]}); choose another folder, or replace it with --force"
        )
    if set(there) - set(folders.values()) - set(_seed_folders(output)):
        raise OutputExists(f"{output} is a run itself; choose another folder for the runs of several seeds")
    return folders


def _seed_folders(output: Path) -> list[Path]:
    """The runs of several seeds that an earlier call recorded into this folder."""
    return [path for path in sorted(output.glob("seed-*")) if path.name.removeprefix("seed-").isdecimal()]


def _remove_other_seeds(output: Path, folders: Iterable[Path]) -> None:
    """Remove the runs of an earlier call's seeds, which would count among the new ones."""
    from trajectory_tools.errors import TrajectoryError
    from trajectory_tools.store.session import remove_run

    for path in set(_seed_folders(output)) - set(folders):
        with contextlib.suppress(TrajectoryError):  # no run of ours: it is left alone, and the report leaves it out
            remove_run(path)


def _schedule(at: str | None, per_decade: int | None) -> Schedule | None:
    from trajectory_tools.recorder import schedule

    if at is not None and per_decade is not None:
        raise BadArgument("give either --at or --per-decade, found both")
    if per_decade is not None:
        return schedule.logarithmic(per_decade)
    if at is None:
        return None
    try:
        return schedule.at(int(step) for step in at.split(","))
    except ValueError as error:
        if isinstance(error, BadArgument):
            raise
        raise BadArgument(f"--at is {at!r}; give step numbers separated by commas, such as 0,10,100") from error


def _columns(save: str) -> list[str]:
    return [column.strip() for column in save.split(",") if column.strip()]


def _print_entries() -> None:
    from rich.box import ROUNDED
    from rich.console import Console
    from rich.panel import Panel
    from rich.table import Table

    from trajectory_tools.optimizers import OPTIMIZERS
    from trajectory_tools.problems import PROBLEMS

    for heading, entries in (("Problems", PROBLEMS), ("Optimizers", OPTIMIZERS)):
        table = Table.grid(padding=(0, 2))
        for name, entry in entries.items():
            table.add_row(f"[bold cyan]{name}[/]", (entry.__doc__ or "").strip().splitlines()[0])
        table.add_row()
        for option, names in _options_of(entries.values()).items():
            default = ",".join(map(str, option.default)) if isinstance(option.default, tuple) else str(option.default)
            choices = f" ({', '.join(option.choices)})" if option.choices else ""
            of = "" if len(names) == len(entries) else f" [dim]{', '.join(names)}[/]"
            flag = f"[green]--{option.name.replace('_', '-')}[/]"
            table.add_row(flag, f"{option.help}{choices} [dim]\\[default: {default.lower()}][/]{of}")
        Console().print(Panel(table, title=heading, title_align="left", box=ROUNDED, border_style="dim"))


def _options_of(entries: Iterable[type[Options]]) -> dict[Option, list[str]]:
    """Each option once, with the entries that have it; the learning rate is described above."""
    found: dict[Option, list[str]] = {}
    for entry in entries:
        for option in entry.listing():
            if option.name != "lr":
                found.setdefault(option, []).append(entry.name)
    return found
