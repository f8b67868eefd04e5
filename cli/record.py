"""``traj record``: record a built-in problem."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from trajectory_tools.cli.arguments import Force, Json
from trajectory_tools.cli.free_options import free_options, print_options
from trajectory_tools.cli.output import next_command, print_json, progress, say
from trajectory_tools.cli.recorder_options import (
    SELECTING,
    Budget,
    Match,
    Projection,
    SelectionSeed,
    Stats,
    Subsample,
    recorder_options,
)
from trajectory_tools.errors import BadArgument, OutputExists, UnknownName

if TYPE_CHECKING:
    from trajectory_tools.recorder import Recorder
    from trajectory_tools.recorder.schedule import Schedule


class RecordCommand(TyperCommand):
    """Lists the problems and optimizers, with the options of each, below the help; nothing loads them before."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        from trajectory_tools.optimizers import OPTIMIZERS
        from trajectory_tools.problems import PROBLEMS

        super().format_help(ctx, formatter)
        print_options("Problems", PROBLEMS)
        print_options("Optimizers", OPTIMIZERS, but=["lr"])  # described above


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
    compression: Annotated[
        str, typer.Option(help="zstd; none: faster, larger; auto: as fast as the training needs.")
    ] = "zstd",
    match: Match = None,
    subsample: Subsample = None,
    projection: Projection = None,
    selection_seed: SelectionSeed = 0,
    stats: Stats = True,
    budget: Budget = None,
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

    if problem.startswith("-"):
        raise BadArgument(_problem_first([problem, *ctx.args]))
    given = free_options(ctx.args)
    problem_options, optimizer_given = _assigned(problem, optimizer, given)
    made = make_problem(problem, **problem_options)
    output = output or Path("runs") / f"{problem}-{optimizer}"
    folders = _folders(output, seed, seeds, steps, force)
    options: dict[str, Any] = {
        "every": every,
        "schedule": _schedule(every, at, per_decade, steps),
        "save": _columns(save),
        "compression": compression,
        **recorder_options(
            match=match,
            subsample=subsample,
            projection=projection,
            selection_seed=selection_seed,
            stats=stats,
            budget=budget,
        ),
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
                on_start=_say_choice,
                **options,
            )
        say(f"recorded {recorder.steps_seen:,} steps of {problem} with {optimizer}, seed {number}")
        if not json:
            print(folder)
    if json:
        print_json([str(folder) for folder in folders.values()])
    next_command("traj", "report", output, "-o", "report.html")


def _say_choice(recorder: Recorder) -> None:
    if recorder.budget_choice is not None:
        say(recorder.budget_choice)


def _problem_first(words: Sequence[str]) -> str:
    """What to type instead, where an option stands before the problem's name."""
    from trajectory_tools.problems import PROBLEMS

    names = [word for word in words if word in PROBLEMS]
    rest = [word for word in words if word not in names]
    return f"{words[0]} stands before the problem; type: traj record {shlex.join([*(names or ['PROBLEM']), *rest])} ..."


def _assigned(problem: str, optimizer: str, given: Mapping[str, str]) -> tuple[dict[str, str], dict[str, Any]]:
    """The options that are the problem's, and those that are the optimizer's."""
    from trajectory_tools.optimizers import OPTIMIZERS, optimizer_options
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
            flag = f"--{name.replace('_', '-')}"
            if others := [
                e.name
                for e in (*PROBLEMS.values(), *OPTIMIZERS.values())
                if name in {option.name for option in e.listing()}
            ]:
                raise BadArgument(f"{flag} is no option of {problem} with {optimizer}; {', '.join(others)} have it")
            known = (f"--{option.replace('_', '-')}" for option in of_problem | of_optimizer | COMMON)
            raise UnknownName(f"option of {problem} with {optimizer}:", flag, known)
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
    *SELECTING,
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
        which = "" if there[0] == output else f" ({there[0]})"
        raise OutputExists(f"{output} holds a run already{which}; choose another folder, or replace it with --force")
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


def _schedule(every: int, at: str | None, per_decade: int | None, steps: int) -> Schedule | None:
    chosen = {"--every": every != 1, "--at": at is not None, "--per-decade": per_decade is not None}
    if sum(chosen.values()) > 1:
        flags = " and ".join(flag for flag, is_chosen in chosen.items() if is_chosen)
        raise BadArgument(f"give one of --every, --at and --per-decade, found {flags}")
    for flag, number in (("--every", every), ("--per-decade", per_decade)):
        if number is not None and number < 1:
            raise BadArgument(f"{flag} is {number}; give 1 or more")
    from trajectory_tools.recorder import schedule

    if per_decade is not None:
        return schedule.logarithmic(per_decade)
    return None if at is None else schedule.at(_steps_at(at, steps))


def _steps_at(at: str, steps: int) -> list[int]:
    try:
        chosen = [int(step) for step in at.split(",")]
    except ValueError as error:
        raise BadArgument(f"--at is {at!r}; give step numbers separated by commas, such as 0,10,100") from error
    if min(chosen) < 0 or max(chosen) >= steps:
        raise BadArgument(
            f"--at is {at!r}, and the {steps:,} steps are numbered 0 to {steps - 1:,}; give some of these"
        )
    return chosen


def _columns(save: str) -> list[str]:
    return [column.strip() for column in save.split(",") if column.strip()]
