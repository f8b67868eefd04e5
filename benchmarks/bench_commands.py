"""How long the commands take, installation aside."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from pairs import machine, report

TRAJ = str(Path(sys.executable).with_name("traj"))


def seconds(*command: str) -> float:
    """Wall time of one command."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    print(f"commands; {machine()}")
    seconds(TRAJ, "--help")
    report("traj --help", f"{median(seconds(TRAJ, '--help') for _ in range(7)):.2f} s", "0.5 s")
    with tempfile.TemporaryDirectory() as folder:
        report("traj demo", f"{seconds(TRAJ, 'demo', '--output', folder):.0f} s", "120 s")


if __name__ == "__main__":
    main()
