"""How fast the writer alone is, against a raw write and fsync of the same bytes; and what the page cache would cost."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
import time
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from statistics import median

import numpy as np
from pairs import machine, ratio, report
from workload import Workload

from trajectory_tools.recorder import Recorder
from trajectory_tools.run import open_run
from trajectory_tools.store.disk_thread import DiskThread
from trajectory_tools.store.files import sync
from trajectory_tools.store.hashed_file import BLOCK, HashedFile
from trajectory_tools.store.rows import RowLayout, StepRows
from trajectory_tools.store.writer import RunWriter, WriterOptions

STEPS = 1000


def page_cache(path: Path, raw: bytes) -> None:
    """What the kernel takes to write these bytes, synced: through the page cache, and past it as parts are."""
    blocks = [memoryview(raw)[start : start + BLOCK] for start in range(0, len(raw), BLOCK)]
    disk = DiskThread()
    taken: dict[str, list[float]] = {"through": [], "past": []}

    def kernel_time(way: str, file: io.RawIOBase | HashedFile) -> float:
        start = getrusage(RUSAGE_SELF).ru_stime
        for block in blocks:
            file.write(block)
        file.close()
        sync(path)
        taken[way].append(getrusage(RUSAGE_SELF).ru_stime - start)
        path.unlink()
        return taken[way][-1]

    found = ratio(
        lambda: kernel_time("through", path.open("wb", buffering=0)),
        lambda: kernel_time("past", HashedFile(path, disk)),
    )
    disk.close()
    through, past = (1e9 * median(seconds) / len(raw) for seconds in taken.values())
    report(f"kernel's time through the page cache ({through:.2f} ms/MB) / past it ({past:.2f})", found, "-")


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    workload = Workload()
    with Recorder(folder / "real", workload.model, workload.optimizer) as recorder:
        workload.train(STEPS, recorder.log)
    run = open_run(folder / "real")
    layout = RowLayout.of({name: int(np.prod(shape)) for name, shape in run.shapes.items()})
    rows = []
    for chunk in run.chunks():
        for i, step in enumerate(chunk.steps.tolist()):
            columns = {c: np.concatenate([a[i].ravel() for a in chunk.values(c).values()]) for c in run.columns}
            rows.append(StepRows(step, layout, columns))
    raw = b"".join(values.tobytes() for row in rows for values in row.values.values())
    print(f"writing {len(raw) / 1e6:.0f} MB of a real run; {machine()}")

    def write_raw() -> float:
        start = time.perf_counter()
        with (folder / "raw").open("wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        seconds = time.perf_counter() - start
        (folder / "raw").unlink()
        return seconds

    def write_run(compression: str) -> float:
        target = folder / "run"
        for table in ("tensors", "scalars"):
            (target / table).mkdir(parents=True)
        start = time.perf_counter()
        writer = RunWriter(target, run_id="0", options=WriterOptions(compression))
        for row in rows:
            writer.put_tensors(row)
        writer.close()
        seconds = time.perf_counter() - start
        speeds[compression] = len(raw) / 1e6 / seconds
        shutil.rmtree(target)
        return seconds

    speeds: dict[str, float] = {}
    for compression in ("zstd", "none"):
        found = ratio(write_raw, lambda c=compression: write_run(c))
        report(f"raw write+fsync / writer ({compression}, {speeds[compression]:.0f} MB/s)", found, "at least 0.3x")
    page_cache(folder / "raw", raw)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
