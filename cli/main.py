"""``traj``: the commands, and how every one of them ends."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from trajectory_tools.cli import analyze, demo, listing, meta_train, query, record, report, reproduce, show, verify
from trajectory_tools.cli.free_options import FREE_OPTIONS
from trajectory_tools.cli.output import say
from trajectory_tools.errors import TrajectoryError


class TrajGroup(TyperGroup):
    """Ends a known error with one sentence and exit code 2, an interrupt with 130; with ``--debug`` errors pass."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except TrajectoryError as error:
            if ctx.params.get("debug"):
                raise
            say(f"traj: {error}")
            raise typer.Exit(2) from error
        except KeyboardInterrupt as error:
            say("traj: interrupted; what was committed before can be read")
            raise typer.Exit(130) from error
        except BrokenPipeError:
            # The reader of our output (head, less) has gone; Python would complain about it once more at its exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return None


app = typer.Typer(
    cls=TrajGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="First steps: `traj demo`, or `traj record digits-mlp --optimizer adam -o runs/adam`.",
)

app.command(cls=record.RecordCommand, context_settings=FREE_OPTIONS)(record.record)
app.command(cls=meta_train.MetaTrainCommand, context_settings=FREE_OPTIONS)(meta_train.meta_train)
app.command()(analyze.analyze)
app.command()(report.report)
app.command()(query.query)
app.command()(show.show)
app.command("list")(listing.list_runs)
app.command()(verify.verify)
app.command()(demo.demo)
app.command()(reproduce.reproduce)


def _print_version(wanted: bool) -> None:
    if wanted:
        from trajectory_tools import __version__

        print(f"traj {__version__}")
        raise typer.Exit


@app.callback()
def traj(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Record an optimizer's trajectory into Parquet, and see what it does.

    A run folder holds the parameters, gradients and updates of every step. `record` makes one from your own script,
    unchanged, or from a built-in problem (in a loop, `trajectory_tools.recorder.Recorder` does); `analyze`
    computes what the trajectory says, `report` shows it as one HTML file, `query` answers SQL.
    """


def main() -> None:
    """The entry point of the command ``traj``."""
    arguments = sys.argv[1:]
    end = arguments.index("--") if "--" in arguments else len(arguments)
    if "--debug" in arguments[:end]:  # wherever it stands
        arguments.remove("--debug")
        arguments.insert(0, "--debug")
    app(arguments)
