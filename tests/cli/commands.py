"""Running the command line as ``traj`` does."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from trajectory_tools.cli.main import main

TRAJ = Path(sys.executable).with_name("traj")


class Done(NamedTuple):
    """What a command has printed."""

    stdout: str
    stderr: str


def traj(*words: object, cwd: Path | None = None, code: int = 0) -> Done:
    """The finished command, once its exit code is found to be ``code``.

    In this process, as a process of its own imports torch and pandas for seconds; what only that can show starts TRAJ.
    """
    out, err = io.StringIO(), io.StringIO()
    found: object = 0
    with (
        contextlib.chdir(cwd or Path.cwd()),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "argv", ["traj", *map(str, words)]),
    ):
        try:
            main()
        except SystemExit as end:
            found = end.code or 0
    assert found == code, f"traj {' '.join(map(str, words))} → {found}\n{out.getvalue()}\n{err.getvalue()}"
    return Done(out.getvalue(), err.getvalue())


def refused(*words: object, cwd: Path | None = None) -> str:
    """The one sentence with which the command is refused (exit code 2, nothing on stdout)."""
    done = traj(*words, cwd=cwd, code=2)
    assert done.stdout == ""
    [sentence] = done.stderr.splitlines()
    return sentence
