"""What recording a convnet of 11 million parameters costs: stats, a subsample, full tensors now and then and always.

``python benchmarks/bench_large.py [--quick]``
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from models import Training, resnet18, small_mlp
from pairs import machine, ratio, report

from trajectory_tools.recorder import Recorder

QUICK = "--quick" in sys.argv
PAIRS = 2 if QUICK else 7


def recorded(training: Training, folder: Path, steps: int, **options: Any) -> float:
    """Seconds until everything is on the disk."""
    start = time.perf_counter()
    with Recorder(folder, training.model, training.optimizer, if_exists="replace", **options) as recorder:
        training.train(steps, log=lambda loss: recorder.log(loss=loss))
    return time.perf_counter() - start


def write_raw(path: Path, data: bytes, times: int) -> float:
    """Seconds of writing these bytes so many times, synced each time."""
    start = time.perf_counter()
    with path.open("wb") as file:
        for _ in range(times):
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - start
    path.unlink()
    return seconds


def save(training: Training, folder: Path, steps: int) -> float:
    """Seconds of steps each of which is saved with ``torch.save``: parameters, gradients, the optimizer's state."""
    import torch

    folder.mkdir()

    def save_step(step: int) -> None:
        grads = {name: p.grad for name, p in training.model.named_parameters()}
        state = {"model": training.model.state_dict(), "grad": grads, "optimizer": training.optimizer.state_dict()}
        torch.save(state, folder / f"{step}.pt")

    seconds = training.train(steps, before_step=save_step)
    shutil.rmtree(folder)
    return seconds


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    small, large = small_mlp(), resnet18()
    print(f"recording, Adam; {machine()}")
    steps = 300 if QUICK else 3000
    found = ratio(lambda: recorded(small, folder / "run", steps, save=[]), lambda: small.train(steps), pairs=PAIRS)
    report("784-20-10: stats alone / unrecorded step", found, "at most 1.3x")
    print(f"  resnet18, {large.n_values:,} parameters: a step takes {large.train(3) / 3:.3f} s", flush=True)
    for what, steps, options, target in (
        ("stats at every step", 20, {"save": []}, "at most 1.10x"),
        ("stats and a 1 % subsample at every step", 20, {"subsample": 0.01}, "at most 1.15x"),
        ("stats and 256 projections of each at every step", 20, {"projection": 256}, "-"),
        ("stats, full tensors every=50", 50, {"every": 50}, "at most 1.15x"),
    ):
        n = max(2, steps // 10) if QUICK else steps
        found = ratio(
            lambda n=n, o=options: recorded(large, folder / "run", n, **o), lambda n=n: large.train(n), pairs=PAIRS
        )
        report(f"recorded / unrecorded step, {what}", found, target)
    n = 3 if QUICK else 20
    step_bytes = 3 * 4 * large.n_values
    data = os.urandom(step_bytes)
    for compression, target in (("zstd", "at least 0.3x"), ("none", "at least 0.5x"), ("auto", "-")):
        seconds: dict[str, float] = {}

        def writing(compression: str = compression, seconds: dict[str, float] = seconds) -> float:
            seconds["all"] = recorded(large, folder / "run", n, compression=compression)
            return seconds["all"]

        found = ratio(writing, lambda: large.train(n), pairs=PAIRS)
        report(f"full tensors of every step, {compression}: recorded / unrecorded", found, "below torch.save")
        found = ratio(lambda: write_raw(folder / "raw", data, n), writing, pairs=PAIRS)
        speed = n * step_bytes / 1e6 / seconds["all"]
        raw = n * step_bytes / 1e6 / write_raw(folder / "raw", data, n)
        report(f"  {speed:.0f} MB/s with the training beside it, raw {raw:.0f} MB/s: share", found, target)
    found = ratio(lambda: save(large, folder / "saved", n), lambda: large.train(n), pairs=PAIRS)
    report("torch.save of every step / unrecorded", found, "-")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
