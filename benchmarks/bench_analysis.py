"""How fast the metrics are, against pyarrow reading the same columns; and what memory they take as runs grow."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq
from pairs import machine, ratio, report
from workload import Workload

from trajectory_tools.metrics import analyze
from trajectory_tools.recorder import Recorder
from trajectory_tools.run import open_run
from trajectory_tools.symmetry import rescale, translation

METRICS = ["symmetry", "histogram", "dynamics"]
SYMMETRIES = (
    rescale([("0.weight", 0), ("0.bias", 0)], [("2.weight", 1)]),
    translation([("2.weight", 0), ("2.bias", 0)]),
)
PEAK = """
import resource, sys
from trajectory_tools.metrics import analyze
analyze([sys.argv[1]], sys.argv[2:], saved=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def record(path: Path, steps: int) -> Path:
    """Record so many steps of the workload."""
    workload = Workload()
    with Recorder(path, workload.model, workload.optimizer, symmetries=SYMMETRIES) as recorder:
        workload.train(steps, recorder.log)
    return path


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    run = open_run(record(folder / "run", 1000))
    print(f"{' + '.join(METRICS)} over 1,000 steps (191 MB before compression); {machine()}")

    def read() -> float:
        start = time.perf_counter()
        for file in run.files("tensors"):
            pq.ParquetFile(file).read(columns=["param", "grad", "update"])
        return time.perf_counter() - start

    def measure() -> float:
        start = time.perf_counter()
        analyze([run], METRICS, saved=False)
        return time.perf_counter() - start

    report("metrics / pyarrow reading param, grad, update", ratio(measure, read), "4x")
    for steps in (1000, 10000):
        path = record(folder / str(steps), steps)
        command = [sys.executable, "-c", PEAK, str(path)]
        peaks = [
            float(subprocess.run([*command, *metrics], capture_output=True, text=True, check=True).stdout)
            for metrics in (["loss"], METRICS)
        ]
        report(
            f"peak memory over {steps:,} steps, above that of `loss`", f"{peaks[1] - peaks[0]:.0f} MB", "does not grow"
        )
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
