"""What recording a convnet of 11 million parameters costs: stats, a subsample, full tensors now and then and always.

``python benchmarks/bench_large.py [--quick] [small|chosen|full ...]``: all three sections unless told.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from models import resnet18, small_mlp
from pairs import machine, ratio, report
from tools import added_memory, ours, torch_save, waits


def write_raw(path: Path, data: bytes, times: int) -> float:
    """Seconds of writing these bytes so many times, synced at the end."""
    start = time.perf_counter()
    with path.open("wb") as file:
        for _ in range(times):
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - start
    path.unlink()
    return seconds


def small(folder: Path, quick: bool) -> None:
    """Stats alone of the perceptron."""
    training, steps = small_mlp(), 300 if quick else 1000
    found = ratio(
        lambda: ours(training, folder, steps, save=[]), lambda: training.train(steps), pairs=2 if quick else 15
    )
    report("784-20-10, stats alone / unrecorded step", found, "at most 1.3x")
    for what, options in (("stats", {"save": []}), ("everything", {})):
        found = waits(training, folder, steps, **options)
        report(f"784-20-10, a step waits for the recorder, {what}", found, "99 % below 1 ms")


def chosen(folder: Path, quick: bool) -> None:
    """Stats of resnet18, and some of its values."""
    training = resnet18()
    for what, steps, pairs, options, target in (
        ("stats", 40, 9, {"save": []}, "at most 1.10x"),
        ("stats and a 1 % subsample", 40, 9, {"subsample": 0.01}, "at most 1.15x"),
        ("stats and 256 projections of each", 6, 3, {"projection": 256}, "-"),
        ("stats, full tensors every=50", 200, 5, {"every": 50}, "at most 1.15x"),
    ):
        n, repeats = (max(2, steps // 6), 2) if quick else (steps, pairs)
        found = ratio(
            lambda n=n, o=options: ours(training, folder, n, **o),
            lambda n=n: training.train(n),
            pairs=repeats,
        )
        report(f"resnet18, {what} / unrecorded step ({n} steps, closing included)", found, target)
        if "every" not in options:
            report(f"resnet18, a step waits for the recorder, {what}", waits(training, folder, n, **options), "-")


def full(folder: Path, quick: bool) -> None:
    """Every value of resnet18 at every step."""
    training, steps = resnet18(), 3 if quick else 30  # fewer only fill the queue, with memory that is new
    step_bytes = 3 * 4 * training.n_values
    data, megabytes = os.urandom(step_bytes), steps * step_bytes / 1e6
    for compression, target in (("zstd", "at least 0.3x"), ("none", "at least 0.5x"), ("auto", "-")):
        seconds: list[float] = []

        def writing(compression: str = compression, seconds: list[float] = seconds) -> float:
            seconds.append(ours(training, folder, steps, compression=compression))
            return seconds[-1]

        found = ratio(writing, lambda: training.train(steps), pairs=1 if quick else 2)
        report(f"resnet18, everything, {compression} / unrecorded step ({steps} steps)", found, "below torch.save")
        found = ratio(lambda: write_raw(folder / "raw", data, steps), writing, pairs=1 if quick else 2)
        report(f"  raw write+fsync / recorded; {megabytes / min(seconds):.0f} MB/s at best", found, target)
    found = ratio(lambda: torch_save(training, folder, steps), lambda: training.train(steps), pairs=1 if quick else 2)
    report(f"resnet18, torch.save, not synced / unrecorded step ({steps} steps)", found, "-")
    report("resnet18, a step waits for the recorder, everything", waits(training, folder, steps), "-")
    memory = added_memory("resnet18", "ours: stats, param, grad and update", steps)
    report("resnet18, memory that recording everything takes", memory, "the queue's 268 MB, and two steps")


SECTIONS = {"small": small, "chosen": chosen, "full": full}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("sections", nargs="*", metavar="small|chosen|full")
    given = parser.parse_args()
    print(f"recording, Adam; {machine()}", flush=True)
    for section in given.sections or SECTIONS:
        with tempfile.TemporaryDirectory() as folder:
            SECTIONS[section](Path(folder), given.quick)


if __name__ == "__main__":
    main()
