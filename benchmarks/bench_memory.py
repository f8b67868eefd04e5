"""What recording adds to the memory of the training process, after few steps and after many."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from pairs import machine, report
from tools import own_peak_mb
from workload import Workload

from trajectory_tools.recorder import Recorder

QUEUE_MB = 64


def peak_mb(steps: int, recorded: bool) -> float:
    """Peak resident memory of a fresh process that trains so many steps."""
    code = f"import bench_memory; bench_memory.train({steps}, {recorded})"
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    )
    return float(answer.stdout)


def train(steps: int, recorded: bool) -> None:
    workload = Workload()
    if recorded:
        with tempfile.TemporaryDirectory() as folder:
            options = {"queue_bytes": QUEUE_MB * 2**20}
            with Recorder(Path(folder) / "run", workload.model, workload.optimizer, **options) as recorder:
                workload.train(steps, recorder.log)
    else:
        workload.train(steps)
    print(own_peak_mb())


def main() -> None:
    print(f"peak memory, queue of {QUEUE_MB} MB; {machine()}")
    for steps in (1000, 20000):
        added = peak_mb(steps, recorded=True) - peak_mb(steps, recorded=False)
        report(f"added by recording {steps:,} steps", f"{added:.0f} MB", "the same for both, bounded by the queue")


if __name__ == "__main__":
    main()
