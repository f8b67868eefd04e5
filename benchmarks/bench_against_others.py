"""What a step costs under the tools that people use, in the same run and on the same model; what is not there is said.

``python benchmarks/bench_against_others.py [--quick] [--model 784-20-10|resnet18]``; ``uv pip install --group bench``
brings the others. Ours records every coordinate of param, grad and update; the others write histograms of them
(TensorBoard: of parameters and gradients; wandb: ``watch(log="all")``; Cockpit: its economy preset) or save them
(torch.save, with the optimizer's state in place of the update).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from models import MODELS, Training
from pairs import machine, ratio, report

from trajectory_tools.recorder import Recorder
from trajectory_tools.run import open_run

Timed = Callable[[Training, Path, int], float]


def ours(training: Training, folder: Path, steps: int, **options: Any) -> float:
    """Seconds until everything is on the disk."""
    start = time.perf_counter()
    with Recorder(folder / "run", training.model, training.optimizer, if_exists="replace", **options) as recorder:
        training.train(steps, log=lambda loss: recorder.log(loss=loss))
    return time.perf_counter() - start


def ours_stats(training: Training, folder: Path, steps: int) -> float:
    """Stats alone."""
    return ours(training, folder, steps, save=[])


def ours_sampled(training: Training, folder: Path, steps: int) -> float:
    """Stats and a hundredth of the coordinates."""
    return ours(training, folder, steps, subsample=0.01)


def torch_save(training: Training, folder: Path, steps: int) -> float:
    """A file for each step."""
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
    seconds = training.train(steps, log=lambda loss: run.log({"loss": loss.item()}))
    run.unwatch(training.model)
    run.finish(quiet=True)
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
    "ours: stats": ours_stats,
    "ours: stats and a 1 % subsample": ours_sampled,
    "ours: stats, param, grad and update": ours,
    "torch.save": torch_save,
    "TensorBoard add_histogram": tensorboard,
    "wandb watch(log='all'), offline": wandb,
    "Cockpit, economy": cockpit,
}
STEPS = {"784-20-10": {"ours": 2000, "others": 60}, "resnet18": {"ours": 10, "others": 4}}


def waits(training: Training, folder: Path, steps: int) -> str:
    """Median and 99th percentile of what a step waits for the recorder, in milliseconds, room in the queue included."""
    ours(training, folder, steps)
    # record_seconds is from the hook's beginning to its end: copying, measuring, and waiting for room.
    milliseconds = 1e3 * open_run(folder / "run").scalars()["record_seconds"].to_numpy()[1:]
    return f"{np.median(milliseconds):.3f} ms, 99 % below {np.percentile(milliseconds, 99):.3f} ms"


def peak_mb(model: str, tool: str, steps: int) -> float:
    """Peak resident memory of a process of its own."""
    command = [sys.executable, __file__, "--model", model, "--memory-of", tool, "--steps", str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return float(done.stdout.split()[-1]) if done.returncode == 0 else float("nan")


def measure(model: str, quick: bool) -> None:
    """The table of one model."""
    training = MODELS[model]()
    print(f"{model}, {training.n_values:,} parameters, Adam; {machine()}", flush=True)
    pairs = 2 if quick else 5
    for tool, timed in TOOLS.items():
        steps = STEPS[model]["ours" if tool.startswith("ours") else "others"] // (4 if quick else 1) or 1
        folder = Path(tempfile.mkdtemp())
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                # Cockpit extends the model that it measures, so each tool has one of its own.
                mine = MODELS[model]()
                found: object = ratio(
                    lambda t=timed, m=mine, f=folder, n=steps: t(m, f, n),
                    lambda m=mine, n=steps: m.train(n),
                    pairs=pairs,
                )
            except ImportError as error:
                found = f"not installed ({error.name})"
            except Exception as error:
                found = f"fails: {type(error).__name__}: {str(error).splitlines()[0][:80]}"
        shutil.rmtree(folder, ignore_errors=True)
        report(f"{tool} / unrecorded step", found, "ours below each of the others'" if "ours" in tool else "-")
    folder = Path(tempfile.mkdtemp())
    report(
        "what a step waits for the recorder, everything recorded",
        waits(training, folder, STEPS[model]["ours"] // (4 if quick else 1)),
        "99 % below 1 ms (784-20-10)",
    )
    shutil.rmtree(folder)
    steps = STEPS[model]["others"]
    alone = peak_mb(model, "nothing", steps)
    for tool in TOOLS:
        report(f"memory added by {tool}, {steps} steps", f"{peak_mb(model, tool, steps) - alone:.0f} MB", "-")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--model", choices=list(MODELS))
    parser.add_argument("--memory-of")
    parser.add_argument("--steps", type=int, default=10)
    given = parser.parse_args()
    if given.memory_of is None:
        for model in [given.model] if given.model else MODELS:
            measure(model, given.quick)
        return
    training, folder = MODELS[given.model](), Path(tempfile.mkdtemp())
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if given.memory_of == "nothing":
            training.train(given.steps)
        else:
            TOOLS[given.memory_of](training, folder, given.steps)
    shutil.rmtree(folder, ignore_errors=True)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    main()
