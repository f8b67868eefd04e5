"""``traj meta-train``: meta-train a learned optimizer on a built-in problem."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from trajectory_tools.cli.arguments import Force, Json
from trajectory_tools.cli.free_options import free_options, print_options
from trajectory_tools.cli.output import next_command, print_json, progress, say
from trajectory_tools.errors import BadArgument, UnknownName

if TYPE_CHECKING:
    from trajectory_tools.experiments.meta_training import MetaTraining, Recording
    from trajectory_tools.l2o.meta_training import Epoch, MetaRun


class MetaTrainCommand(TyperCommand):
    """Lists the options of meta-training and of the problems below the help."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """What follows the command's name in its usage."""
        return ["[PROBLEM]", *super().collect_usage_pieces(ctx)]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        from trajectory_tools.l2o.options import MetaTrainingOptions
        from trajectory_tools.problems import PROBLEMS

        super().format_help(ctx, formatter)
        print_options("Meta-training", {"": MetaTrainingOptions})
        print_options("Problems", PROBLEMS)


def meta_train(
    ctx: typer.Context,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file of weights to write (safetensors).")] = Path(
        "weights.safetensors"
    ),
    config: Annotated[
        Path | None, typer.Option(help="A TOML file with any of these options, by name; the command line comes first.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint beside the output.")] = False,
    record: Annotated[
        Path | None, typer.Option(help="Record into this folder: the network's weights, step by step, and some runs.")
    ] = None,
    record_runs: Annotated[
        str | None,
        typer.Option(help="The meta-training runs to record, such as 0,50. (default: the first and the last)"),
    ] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Meta-train a learned optimizer on a problem (below), and write the weights that do best on held-out seeds.

    `traj meta-train digits-mlp -o weights.safetensors`

    `traj meta-train mnist-mlp --data-dir data/mnist --regularizer translation --beta 0.5 -o l2o.safetensors`

    Ctrl-C leaves a checkpoint beside the output: `traj meta-train --resume -o weights.safetensors` goes on from it.
    """
    words = ctx.args
    # No typer argument: it would take the value of an option that typer does not know.
    named = {"problem": words.pop(0)} if words and not words[0].startswith("-") else {}
    given = {**_from_file(config), **free_options(words), **named}
    meta_training = _meta_training(given.pop("problem", None), given, output if resume else None)
    options = meta_training.options
    n_runs = options.epochs * options.runs
    try:
        with progress(meta_training.problem.name, n_runs) as advance:
            shown = 0

            def on_run(run: MetaRun) -> None:
                nonlocal shown
                for _ in range(shown, run.number + 1):  # those before a checkpoint as well
                    advance(f"loss {run.mean_loss:.4g}, last {run.last_loss:.4g}")
                shown = run.number + 1

            def on_epoch(epoch: Epoch) -> None:
                trained = f"training loss {epoch.training_loss:.4f}" if epoch.number else "untrained"
                say(
                    f"epoch {epoch.number} of {options.epochs}: {trained}, held-out loss {epoch.selection_loss:.4f}"
                    + " (best)" * (epoch.best and epoch.number > 0)
                    + f", {epoch.skipped} steps skipped so far" * bool(epoch.skipped)
                )

            card = meta_training.train(
                output,
                resume=resume,
                force=force,
                recording=_recording(record, record_runs, n_runs),
                on_run=on_run,
                on_epoch=on_epoch,
            )
    except KeyboardInterrupt:
        say(f"interrupted; go on with: traj meta-train --resume -o {output}")
        raise
    if json:
        print_json({"weights": str(output), **card})
    else:
        print(output)
    say(f"epoch {card['losses']['best_epoch']} was best: loss {card['losses']['best_selection']:.4f} on held-out seeds")
    next_command("traj", "record", meta_training.problem.name, "--optimizer", "l2o", "--weights", output)


def _meta_training(problem: str | None, given: Mapping[str, Any], resumed: Path | None) -> MetaTraining:
    """What is asked for; where it is resumed, what was asked for then, and what is now."""
    from trajectory_tools.experiments.meta_training import MetaTraining
    from trajectory_tools.l2o.options import MetaTrainingOptions
    from trajectory_tools.problems import PROBLEMS, make_problem

    begun = None if resumed is None else MetaTraining.resumed(resumed)
    if problem is None:
        if begun is None:
            raise BadArgument(f"no problem is named; give one of {', '.join(PROBLEMS)}")
        problem = begun.problem.name
    if problem not in PROBLEMS:
        raise UnknownName("problem", problem, PROBLEMS)
    of_problem = {option.name for option in PROBLEMS[problem].listing()}
    of_training = {option.name for option in MetaTrainingOptions.listing()}
    for name in given:
        if name not in of_problem | of_training:
            known = (f"--{option.replace('_', '-')}" for option in of_problem | of_training)
            raise UnknownName(f"option of meta-training on {problem}:", f"--{name.replace('_', '-')}", known)
    problem_options = {name: value for name, value in given.items() if name in of_problem}
    training_options = {name: value for name, value in given.items() if name in of_training}
    if begun is not None and begun.problem.name == problem:
        problem_options = begun.problem.options() | problem_options
        training_options = begun.options.options() | training_options
    return MetaTraining(make_problem(problem, **problem_options), MetaTrainingOptions.make(training_options))


def _from_file(config: Path | None) -> dict[str, Any]:
    """The options in the file, by name, with _ or - between words."""
    if config is None:
        return {}
    try:
        found = tomllib.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise BadArgument(f"the options cannot be read from {config}: {why}; give a TOML file") from error
    for name, value in found.items():
        if isinstance(value, dict):
            raise BadArgument(f"{config} has a table [{name}]; write the options at the top, such as epochs = 20")
    return {name.replace("-", "_"): value for name, value in found.items()}


def _recording(folder: Path | None, runs: str | None, n_runs: int) -> Recording | None:
    from trajectory_tools.experiments.meta_training import Recording

    if folder is None:
        if runs is not None:
            raise BadArgument(f"--record-runs is {runs!r} and there is no folder to record into; give --record DIR")
        return None
    try:
        numbers = {0, n_runs - 1} if runs is None else {int(run) for run in runs.split(",") if run.strip()}
    except ValueError as error:
        raise BadArgument(
            f"--record-runs is {runs!r}; give numbers of runs separated by commas, such as 0,50"
        ) from error
    if numbers and not 0 <= min(numbers) <= max(numbers) < n_runs:
        raise BadArgument(f"--record-runs is {runs!r}; there are runs 0 to {n_runs - 1}")
    return Recording(folder, numbers)
