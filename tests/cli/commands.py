"""Running the real command line in a subprocess."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TRAJ = Path(sys.executable).with_name("traj")


def traj(*words: object, cwd: Path | None = None, code: int = 0) -> subprocess.CompletedProcess[str]:
    """The finished command, once its exit code is found to be ``code``."""
    command = [str(TRAJ), *map(str, words)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, f"{' '.join(command)} → {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def refused(*words: object, cwd: Path | None = None) -> str:
    """The one sentence with which the command is refused (exit code 2, nothing on stdout)."""
    done = traj(*words, cwd=cwd, code=2)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    [sentence] = done.stderr.splitlines()
    return sentence
