"""Running scripts by python and by ``traj record``, as processes that share the seconds which importing torch takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

EXAMPLES = Path(__file__).parent / "examples"
TRAJ = Path(sys.executable).with_name("traj")
QUIET = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}

# Each command is a fork of one process that has imported torch, and lives from there to its natural end.
LAUNCHER = """
import json, os, runpy, sys
import torch
torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])  # the first optimizer imports the other half of torch
commands = json.loads(sys.stdin.read())
codes = []
for out, cwd, words in commands:
    if (pid := os.fork()) == 0:
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{out}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.chdir(cwd)
        if words[0] == "python":
            sys.argv = words[1:]
            sys.path[0] = os.path.dirname(os.path.abspath(words[1]))
            runpy.run_path(words[1], run_name="__main__")
        else:
            sys.argv = words
            from trajectory_tools.cli.main import main
            main()
        sys.exit()
    codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
print(json.dumps(codes))
"""


class Ended(NamedTuple):
    """How a process ended."""

    code: int
    stdout: str
    stderr: str


def launch(commands: list[list[object]], *, folder: Path, cwd: Path) -> list[Ended]:
    """Run each command, ``["python", script, ...]`` or ``["traj", "record", ...]``, one after the other."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [[str(folder / str(i)), str(cwd), list(map(str, words))] for i, words in enumerate(commands)]
    done = subprocess.run(
        [sys.executable, "-c", LAUNCHER], input=json.dumps(jobs), capture_output=True, text=True, check=False, env=QUIET
    )
    assert done.returncode == 0, done.stderr
    codes = json.loads(done.stdout.splitlines()[-1])
    return [
        Ended(code, Path(f"{out}.out").read_text(), Path(f"{out}.err").read_text())
        for code, (out, _, _) in zip(codes, jobs, strict=True)
    ]


def run(*words: object, cwd: Path, **options: object) -> Ended:
    """Run a command as a process of its own."""
    done = subprocess.run(
        list(map(str, words)), cwd=cwd, capture_output=True, text=True, check=False, env=QUIET, **options
    )
    return Ended(done.returncode, done.stdout, done.stderr)
