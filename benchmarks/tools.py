"""What records a training, ours and others', and what it costs: seconds, what a step waits, memory.

``python benchmarks/tools.py MODEL TOOL STEPS`` prints the peak memory, in MB, of a training under that tool.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from models import MODELS, Training

from trajectory_tools.recorder import Recorder
from trajectory_tools.run import open_run

__all__ = ["TOOLS", "added_memory", "ours", "own_peak_mb", "quietly", "torch_save", "waits"]

Timed = Callable[[Training, Path, int], float]
"""Seconds of so many steps of a training that is recorded into a folder."""


def ours(training: Training, folder: Path, steps: int, **options: Any) -> float:
    """Until everything is on the disk."""
    start = time.perf_counter()
    with Recorder(folder / "run", training.model, training.optimizer, if_exists="replace", **options) as recorder:
        training.train(steps, log=lambda loss: recorder.log(loss=loss))
    return time.perf_counter() - start


def torch_save(training: Training, folder: Path, steps: int) -> float:
    """A file for each step: parameters, gradients, the optimizer's state; not synced."""
    target = folder / "saved"
    target.mkdir()

    def save(step: int) -> None:
        grads = {name: p.grad for name, p in training.model.named_parameters()}
        state = {"model": training.model.state_dict(), "grad": grads, "optimizer": training.optimizer.state_dict()}
        torch.save(state, target / f"{step}.pt")

    seconds = training.train(steps, before_step=save)
    shutil.rmtree(target)
    return seconds


def tensorboard(training: Training, folder: Path, steps: int) -> float:
    """Histograms of parameters and gradients."""
    from torch.utils.tensorboard import SummaryWriter

    start = time.perf_counter()
    writer = SummaryWriter(str(folder / "tensorboard"))

    def write(step: int) -> None:
        for name, parameter in training.model.named_parameters():
            writer.add_histogram(name, parameter, step)
            if parameter.grad is not None:
                writer.add_histogram(f"{name}.grad", parameter.grad, step)

    training.train(steps, before_step=write)
    writer.close()
    return time.perf_counter() - start


def wandb(training: Training, folder: Path, steps: int) -> float:
    """``watch(log="all")`` at every step, offline; the start and the end of the run are not counted."""
    import wandb as tool

    os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_DIR": str(folder)}
    run = tool.init(project="bench", dir=str(folder))
    run.watch(training.model, log="all", log_freq=1)

    def log(loss: torch.Tensor) -> None:
        run.log({"loss": loss.item()})

    training.train(1, log=log)  # the first call waits for a process to start
    seconds = training.train(steps, log=log)
    run.unwatch(training.model)
    run.finish()
    return seconds


def cockpit(training: Training, folder: Path, steps: int) -> float:
    """The economy preset at every step."""
    from backpack import extend
    from cockpit import Cockpit
    from cockpit.utils.configuration import configuration

    extend(training.model), extend(training.criterion)
    each = extend(torch.nn.CrossEntropyLoss(reduction="none"))
    tool = Cockpit(training.model.parameters(), quantities=configuration("economy"))
    start = time.perf_counter()
    for step in range(steps):
        x, y = training.batches[step % len(training.batches)]
        training.optimizer.zero_grad()
        outputs = training.model(x)
        loss, losses = training.criterion(outputs, y), each(outputs, y)
        info = {
            "batch_size": len(x),
            "individual_losses": losses,
            "loss": loss,
            "optimizer": training.optimizer,
        }
        with tool(step, info=info):
            loss.backward(create_graph=tool.create_graph(step))
        training.optimizer.step()
    tool.write(str(folder / "cockpit"))
    return time.perf_counter() - start


TOOLS: dict[str, Timed] = {
    "ours: stats": partial(ours, save=[]),
    "ours: stats and a 1 % subsample": partial(ours, subsample=0.01),
    "ours: stats, param, grad and update": ours,
    "torch.save": torch_save,
    "TensorBoard add_histogram": tensorboard,
    "wandb watch(log='all'), offline": wandb,
    "Cockpit, economy": cockpit,
}


@contextlib.contextmanager
def quietly() -> Iterator[Path]:
    """A folder to record into; what the tools print and warn of is not seen."""
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(action="ignore"),
    ):
        yield Path(folder)


def waits(training: Training, folder: Path, steps: int, **options: Any) -> str:
    """What a step waits for the recorder, in its hooks: for copies, numbers, and room in the queue."""
    ours(training, folder, steps, **options)
    milliseconds = 1e3 * open_run(folder / "run").scalars()["record_seconds"].to_numpy()[1:]
    return f"{np.median(milliseconds):.2f} ms, 99 % below {np.percentile(milliseconds, 99):.2f} ms"


def added_memory(model: str, tool: str, steps: int) -> str:
    """Peak memory of a process that trains under this tool, above that of one that only trains."""
    with_it, without = peak_mb(model, tool, steps), peak_mb(model, "nothing", steps)
    return "unknown" if with_it is None or without is None else f"{with_it - without:.0f} MB"


@cache
def peak_mb(model: str, tool: str, steps: int) -> float | None:
    """Peak memory of such a process; None where it fails."""
    command = [sys.executable, __file__, model, tool, str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return float(done.stdout.split()[-1]) if done.returncode == 0 else None


def own_peak_mb() -> float:
    """Of this process; unlike ru_maxrss, which begins with the peak of the process that started it."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


def main(model: str, tool: str, steps: str) -> None:
    training = MODELS[model]()
    with quietly() as folder:
        if tool == "nothing":
            training.train(int(steps))
        else:
            TOOLS[tool](training, folder, int(steps))
    print(own_peak_mb())


if __name__ == "__main__":
    main(*sys.argv[1:])
