"""What recording costs a training step: against the same step unrecorded, and against torch.save of every step."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from pairs import machine, ratio, report
from torch import nn
from workload import Workload

from trajectory_tools.recorder import Recorder

STEPS = 3000  # 570 MB: more than twice what the queue holds, so that the writer's speed counts
SAVED_STEPS = 400


def main() -> None:
    print(f"recording, 784-20-10 perceptron, batch 128, Adam; {machine()}")
    folder = Path(tempfile.mkdtemp())
    workload = Workload()

    def plain(steps: int) -> float:
        return workload.train(steps)

    def recorded(steps: int, **options: Any) -> float:
        """Seconds until everything is on the disk."""
        start = time.perf_counter()
        with Recorder(folder / "run", workload.model, workload.optimizer, if_exists="replace", **options) as recorder:
            workload.train(steps, recorder.log)
        return time.perf_counter() - start

    def saved(steps: int) -> float:
        (folder / "saved").mkdir(exist_ok=True)
        numbers = iter(range(steps))

        def save(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
            grads = {name: p.grad for name, p in model.named_parameters()}
            state = {"model": model.state_dict(), "grad": grads, "optimizer": optimizer.state_dict()}
            torch.save(state, folder / "saved" / f"{next(numbers)}.pt")

        seconds = workload.train(steps, on_step=save)
        shutil.rmtree(folder / "saved")
        return seconds

    for what, steps, options, target in (
        ("every step, all three tensors, until closed", STEPS, {}, "2.2x"),
        ("the same with stats=False", STEPS, {"stats": False}, "2.2x"),
        ("the same with compression='none'", STEPS, {"compression": "none"}, "-"),
        ("every=10, stats=False, until closed", 2 * STEPS, {"every": 10, "stats": False}, "1.15x"),
        ("stats alone (save=[]), until closed", 2 * STEPS, {"save": []}, "1.3x"),
    ):
        found = ratio(lambda n=steps, o=options: recorded(n, **o), lambda n=steps: plain(n), pairs=7)
        report(f"recorded / unrecorded step, {what}", found, target)
    found = ratio(lambda: saved(SAVED_STEPS), lambda: recorded(SAVED_STEPS), pairs=7)
    report("torch.save of param, grad, optimizer state / recorded", found, "at least 2x")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
