"""``traj record``: record a training script, or a built-in problem."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from trajectory_tools.cli.arguments import Force, Json
from trajectory_tools.cli.dry_run import print_sizes
from trajectory_tools.cli.free_options import free_options, print_options
from trajectory_tools.cli.output import next_command, print_json, progress, say
from trajectory_tools.cli.record_script import OF_PROBLEMS, OF_SCRIPTS, SCRIPT_ARGUMENTS, record_script, refuse_options
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
    from trajectory_tools.experiments.probing import Probing
    from trajectory_tools.recorder import Recorder
    from trajectory_tools.recorder.schedule import Schedule


class RecordCommand(TyperCommand):
    """Lists the problems and optimizers, with the options of each, below the help; nothing loads them before."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse ours; what stands after ``--`` is the script's own, and left as it is."""
        end = args.index("--") if "--" in args else len(args)
        ctx.meta[SCRIPT_ARGUMENTS] = args[end + 1 :] if end < len(args) else None
        return super().parse_args(ctx, args[:end])

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        from trajectory_tools.optimizers import OPTIMIZERS
        from trajectory_tools.problems import PROBLEMS

        super().format_help(ctx, formatter)
        print_options("Problems", PROBLEMS)
        print_options("Optimizers", OPTIMIZERS, but=["lr"])  # described above


def record(
    ctx: typer.Context,
    problem: Annotated[
        str | None,
        typer.Argument(
            metavar="SCRIPT|PROBLEM",
            help="A Python script, run as `python SCRIPT` runs it; or one of the problems below.",
            show_default=False,
        ),
    ] = None,
    module: Annotated[
        str | None,
        typer.Option("--module", "-m", help="Run a module, as `python -m` does.", rich_help_panel=OF_SCRIPTS),
    ] = None,
    optimizer_index: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Only this optimizer, counted from 0 by their first steps. (default: each, in optimizer-0, ...)",
            rich_help_panel=OF_SCRIPTS,
        ),
    ] = None,
    optimizer: Annotated[
        str,
        typer.Option(help="What to train it with: one of the optimizers below.", rich_help_panel=OF_PROBLEMS),
    ] = "adam",
    lr: Annotated[
        str | None,
        typer.Option(
            help="Learning rate; `tune` first chooses one of ten from 1e-4 to 3, by the loss of 50 steps.",
            rich_help_panel=OF_PROBLEMS,
        ),
    ] = None,
    steps: Annotated[int, typer.Option(help="How many steps to train.", rich_help_panel=OF_PROBLEMS)] = 200,
    seed: Annotated[int, typer.Option(help="The seed, or the first of several.", rich_help_panel=OF_PROBLEMS)] = 0,
    seeds: Annotated[
        int,
        typer.Option(help="How many seeds; several runs go into seed-0, seed-1, ...", rich_help_panel=OF_PROBLEMS),
    ] = 1,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The run folder to make. (default: runs/SCRIPT, or runs/PROBLEM-OPTIMIZER)"
        ),
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
    probe_every: Annotated[
        int | None,
        typer.Option(
            help="Probe the noise in front of every n-th step.", show_default=False, rich_help_panel=OF_PROBLEMS
        ),
    ] = None,
    probe_batches: Annotated[
        int | None,
        typer.Option(
            help="Mini-batches in a probe; 0: none. (default: 64)", show_default=False, rich_help_panel=OF_PROBLEMS
        ),
    ] = None,
    probe_samples: Annotated[
        int, typer.Option(help="Single samples in a probe, beside the mini-batches.", rich_help_panel=OF_PROBLEMS)
    ] = 0,
    probe_surrogates: Annotated[
        int,
        typer.Option(
            help="Gaussian gradients of the same covariance, put through the optimizer as well.",
            rich_help_panel=OF_PROBLEMS,
        ),
    ] = 0,
    probe_sketch: Annotated[
        int | None,
        typer.Option(
            help="Keep so many coordinates of a probe, and exact inner products. (default: all)",
            rich_help_panel=OF_PROBLEMS,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say how large the run will be, and end.", rich_help_panel=OF_PROBLEMS)
    ] = False,
    match: Match = None,
    subsample: Subsample = None,
    projection: Projection = None,
    selection_seed: SelectionSeed = 0,
    stats: Stats = True,
    budget: Budget = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Train, and record every step: of your own script, unchanged, or of a built-in problem.

    `traj record train.py -o runs/mine -- --epochs 1`  (after `--`: the script's own arguments)

    `traj record -m package.train -o runs/mine --every 10 --match weight`

    `torchrun --nproc-per-node 2 -m trajectory_tools record train.py -o runs/mine`

    `traj record digits-mlp --optimizer adam --lr tune --seeds 3 -o runs/adam`

    `traj record digits-mlp --optimizer sgd --momentum 0.9 --activation leaky_relu -o runs/momentum`

    `traj record mnist-mlp --data-dir data/mnist --hidden 100,100 --batch-norm -o runs/mnist`

    `traj record digits-mlp --optimizer adam --probe-every 20 --probe-surrogates 64 -o runs/noise`
    """
    own: list[str] | None = ctx.meta[SCRIPT_ARGUMENTS]
    selecting = recorder_options(
        match=match,
        subsample=subsample,
        projection=projection,
        selection_seed=selection_seed,
        stats=stats,
        budget=budget,
    )
    if problem is not None and problem.startswith("-"):
        raise BadArgument(_problem_first([problem, *ctx.args]))
    if module is not None or (problem is not None and _is_script(problem)):
        record_script(
            ctx,
            problem,
            own or [],
            module=module,
            output=output,
            index=optimizer_index,
            options={
                "every": every,
                "schedule": _schedule(every, at, per_decade, None),
                "save": _columns(save),
                "label": label,
                "if_exists": "replace" if force else "error",
                "compression": compression if _was_given(ctx, "compression") else "auto",
                **selecting,
            },
        )
    if problem is None:
        raise BadArgument("nothing to record; type `traj record train.py`, or `traj record digits-mlp`")
    from trajectory_tools.experiments.recording import Experiment
    from trajectory_tools.problems import make_problem

    given = free_options(ctx.args)
    problem_options, optimizer_given = _assigned(problem, optimizer, given)
    refuse_options(ctx, OF_SCRIPTS, f"{problem} is a built-in problem")
    if own is not None:
        raise BadArgument(f"{problem} is a built-in problem, whose options stand before --; leave out the --")
    made = make_problem(problem, **problem_options)
    output = output or Path("runs") / f"{problem}-{optimizer}"
    folders = _folders(output, seed, seeds, steps, force=force or dry_run, dry_run=dry_run)
    options: dict[str, Any] = {
        "every": every,
        "schedule": _schedule(every, at, per_decade, steps),
        "save": _columns(save),
        "probing": _probing(probe_every, probe_batches, probe_samples, probe_surrogates, probe_sketch),
        "compression": compression,
        **selecting,
    }
    rate = {} if lr is None else {"lr": 1.0 if lr == "tune" else lr}
    experiment = Experiment(made, optimizer, {**optimizer_given, **rate})
    # Raises what recording would, before anything is tuned, removed or trained.
    if seeds > 1:
        experiment.size(seed=max(folders), steps=steps, **options)
    size = experiment.size(seed=seed, steps=steps, on_start=_say_choice if dry_run else None, **options)
    if dry_run:
        print_sizes(size, seeds=seeds, json=json)
        return
    if lr == "tune":
        say(f"tuning the learning rate of {optimizer} on {problem} ...")
        experiment = Experiment.tuned(made, optimizer, optimizer_given)
        say(f"chose lr = {experiment.options['lr']:g}")
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


def _was_given(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _is_script(target: str) -> bool:
    """Whether this names a script: a path, be there such a file or not."""
    return (
        target.endswith((".py", ".pyw"))
        or "/" in target
        or os.sep in target
        or Path(target).is_file()
        or Path(target, "__main__.py").is_file()
    )


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

    if problem not in PROBLEMS:
        raise UnknownName("problem", problem, PROBLEMS, "a script is given with its ending, such as train.py")
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
    "probe_every",
    "probe_batches",
    "probe_samples",
    "probe_surrogates",
    "probe_sketch",
    "dry_run",
    "force",
    "lr",
    "optimizer",
    *SELECTING,
}


def _folders(output: Path, seed: int, seeds: int, steps: int, *, force: bool, dry_run: bool) -> dict[int, Path]:
    """Seed → run folder, once it is known that each can be made."""
    from trajectory_tools.store.metadata import RUN_FILE, refuse_unwritable

    if steps < 1:
        raise BadArgument(f"--steps is {steps}; give at least 1")
    if seeds < 1:
        raise BadArgument(f"--seeds is {seeds}; it is how many runs to record, 1 or more")
    if not dry_run:
        refuse_unwritable(output)
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


def _probing(
    every: int | None, batches: int | None, samples: int, surrogates: int, sketch: int | None
) -> Probing | None:
    if every is None:
        flags = {"batches": batches, "samples": samples, "surrogates": surrogates, "sketch": sketch}
        for flag, given in flags.items():
            if given:
                raise BadArgument(f"--probe-{flag} is given without --probe-every, which says when to probe; give both")
        return None
    from trajectory_tools.experiments.probing import Probing

    n_batches = Probing.batches if batches is None else batches
    return Probing(every=every, batches=n_batches, samples=samples, surrogates=surrogates, sketch=sketch)


def _schedule(every: int, at: str | None, per_decade: int | None, steps: int | None) -> Schedule | None:
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


def _steps_at(at: str, steps: int | None) -> list[int]:
    try:
        chosen = [int(step) for step in at.split(",")]
    except ValueError as error:
        raise BadArgument(f"--at is {at!r}; give step numbers separated by commas, such as 0,10,100") from error
    if steps is None:
        return chosen
    if min(chosen) < 0 or max(chosen) >= steps:
        raise BadArgument(
            f"--at is {at!r}, and the {steps:,} steps are numbered 0 to {steps - 1:,}; give some of these"
        )
    return chosen


def _columns(save: str) -> list[str]:
    return [column.strip() for column in save.split(",") if column.strip()]
