"""What a probe costs: against the forward and backward passes alone, and against a deep copy for each sample."""

from __future__ import annotations

import copy
import shutil
import tempfile
import time
from pathlib import Path

import torch
from pairs import machine, ratio, report
from torch import nn
from torch.func import functional_call, grad, vmap
from workload import Workload

from trajectory_tools.recorder import Recorder
from trajectory_tools.recorder.buffers import Buffers
from trajectory_tools.recorder.flat_space import FlatSpace
from trajectory_tools.recorder.names import name_parameters
from trajectory_tools.recorder.probe_gradients import sample_gradients
from trajectory_tools.recorder.probe_updates import Updates
from trajectory_tools.recorder.probes import in_rows
from trajectory_tools.recorder.snapshot import untouched

N_BATCHES = 64
N_SAMPLES = 2000


class Moments:
    """What the trace of a covariance needs, of samples as they come."""

    def __init__(self) -> None:
        self.n, self.squares = 0, 0.0
        self.sum = torch.zeros(0, dtype=torch.float64)

    def add(self, samples: torch.Tensor) -> None:
        """Samples (n, d)."""
        self.n += len(samples)
        self.sum = self.sum + samples.sum(0) if len(self.sum) else samples.sum(0, dtype=torch.float64)
        self.squares += float(torch.linalg.vector_norm(samples)) ** 2

    def trace(self) -> float:
        """Of the sample covariance."""
        return (self.squares - float(self.sum @ self.sum) / self.n) / (self.n - 1)


def gram(updates: torch.Tensor) -> torch.Tensor:
    """Inner products of the centred updates."""
    centred = updates - updates.mean(0)
    return centred @ centred.T


def main() -> None:  # noqa: PLR0915
    print(f"probes, 784-20-10 perceptron, Adam; {machine()}")
    folder = Path(tempfile.mkdtemp())
    workload = Workload()
    model, optimizer = workload.model, workload.optimizer
    batches = (workload.batches * 2)[:N_BATCHES]
    x, y = (torch.cat(column)[:N_SAMPLES] for column in zip(*workload.batches, strict=True))

    def loss_fn(batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    def passes() -> float:
        start = time.perf_counter()
        for batch in batches:
            optimizer.zero_grad()
            loss_fn(batch).backward()
        return time.perf_counter() - start

    def copied(moments: Moments | None) -> float:
        """The same gradients, and a deep copy of the optimizer with its parameters for each."""
        start = time.perf_counter()
        values = {name: p.detach() for name, p in model.named_parameters()}

        def loss(values: dict[str, torch.Tensor], a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return nn.functional.cross_entropy(functional_call(model, values, (a[None],)), b[None])

        updates = []
        for begin in range(0, N_SAMPLES, 250):
            gradients = vmap(grad(loss), in_dims=(None, 0, 0))(values, x[begin : begin + 250], y[begin : begin + 250])
            for i in range(len(next(iter(gradients.values())))):
                twin = copy.deepcopy(optimizer)
                twins = [p for group in twin.param_groups for p in group["params"]]
                for p, gradient in zip(twins, gradients.values(), strict=True):
                    p.grad = gradient[i]
                twin.step()
                pairs = zip(twins, model.parameters(), strict=True)
                update = torch.cat([(new.detach() - old.detach()).reshape(-1) for new, old in pairs])
                moments.add(update[None]) if moments else updates.append(update)
        _ = moments.trace() if moments else gram(torch.stack(updates))
        return time.perf_counter() - start

    def stacked(moments: Moments | None) -> float:
        """The same without a copy, as a probe makes them."""
        start = time.perf_counter()
        updates = []
        with untouched(optimizer, [model]) as snapshot:
            space = FlatSpace(name_parameters(model, optimizer), Buffers())
            made = Updates(optimizer, snapshot, space)
            samples = sample_gradients(loss_fn, (x, y), model, snapshot.parameters)
            for rows, _ in in_rows(samples, space, lambda: made.size):
                made.make(rows)
                if moments:
                    moments.add(rows.updates)
                    rows.release()
                else:
                    updates.append(rows.updates)
        _ = moments.trace() if moments else gram(torch.cat(updates))
        return time.perf_counter() - start

    with Recorder(folder / "run", model, optimizer, save=[]) as recorder:

        def probed() -> float:
            start = time.perf_counter()
            recorder.probe(loss_fn, batches)
            seconds = time.perf_counter() - start
            workload.train(1)  # the next probe is another step's
            time.sleep(0.1)  # the writer's threads, at work now, would slow down what this is compared with
            workload.train(30)  # what comes next begins as in the middle of a training
            return seconds

        workload.train(3)
        found = ratio(probed, passes, pairs=41)
        report(f"probe of {N_BATCHES} mini-batches / their passes alone", found, "at most 1.3x")

    for what, new, target in (("trace", Moments, "at least 10x"), ("Gram matrix", lambda: None, "-")):
        found = ratio(lambda new=new: copied(new()), lambda new=new: stacked(new()), pairs=5)
        report(f"{N_SAMPLES:,} single-sample updates, their {what}: deep copies / ours", found, target)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
