"""``traj reproduce``: a figure of the study, again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trajectory_tools.cli.arguments import Force, Json
from trajectory_tools.cli.output import next_command, print_json, print_table, progress, say

if TYPE_CHECKING:
    import pandas as pd

    from trajectory_tools.experiments.study import Reproduction


def reproduce(
    figure: Annotated[
        str, typer.Argument(help="fig4, fig5, fig7, fig8, fig9, or learning-curves (see below).", show_default=False)
    ],
    data: Annotated[str, typer.Option(help="digits (comes along), or mnist.")] = "digits",
    data_dir: Annotated[str | None, typer.Option(help="The folder that holds MNIST.")] = None,
    seeds: Annotated[
        int | None, typer.Option(help="How many seeds. (default: 3; learning-curves: 10)", show_default=False)
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="A folder with weights that are called as the shipped ones are, or a file where the figure needs one."
            " (default: the shipped ones)"
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="The folder for runs and figures; several can share it."),
    ] = Path("reproduced"),
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 where a claim does not hold.")] = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Record a figure of Sobotka et al. 2023 again, and hold our numbers against the paper's.

    Runs that are in the folder with the same settings are taken as they are; the others are recorded. A claim that does
    not hold is printed as such.

    `fig4`: how far each optimizer breaks symmetries · `fig5`: learned optimizers that were regularized against it ·
    `fig7`: Lion-SGD · `fig8`: the noise of the updates, its tail index beside its nulls · `fig9`: sizes of updates ·
    `learning-curves`: L2O against tuned optimizers, after Andrychowicz et al. 2016
    """
    from trajectory_tools.experiments.study import Plan
    from trajectory_tools.reports.study import study_files

    plan = Plan.make(figure, data=data, data_dir=data_dir, seeds=seeds, weights=weights)
    stem = f"{figure}-{data}"
    with study_files(output, stem, force=force) as write, progress(stem, plan.n_runs) as advance:
        result = plan.carry_out(output / stem, replace=force, say=say, on_run=advance)
        files = write(result)
    if json:
        print_json({**result.to_json(), "files": [str(path) for path in files]})
    else:
        _print(result)
    if len(plan.seeds) < plan.figure.seeds:
        say(f"{len(plan.seeds)} of the {plan.figure.seeds} seeds or more that the spread should be over")
    for path in files:
        say(f"wrote {path}")
    say(f"open {files[0].resolve().as_uri()} in a browser")
    next_command("traj", "report", output / stem, "-o", output / f"{stem}-report.html")
    if check and not result.holds:
        raise typer.Exit(1)


def _print(result: Reproduction) -> None:
    from trajectory_tools.reports.study_noise import noise_answer
    from trajectory_tools.reports.study_tables import caution, claims_table, definitions, numbers_table, verdict_line

    print_table(_plain(claims_table(result)))
    for part in result.settings:
        print()
        print_table(_plain(numbers_table(part).rename(columns={"curve": part.setting.title})))
    say("")
    for name, what in definitions(result).items():
        say(f"{name}: {what}")
    say("ours: mean ± sd over the seeds; in brackets the paper's")
    say(f"{verdict_line(result)} {noise_answer(result)} {caution(result)}".strip())


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    """With plain spaces."""
    return frame.map(lambda cell: str(cell).replace("\N{NO-BREAK SPACE}", " "))
