"""The training step that the benchmarks record: a 784-20-10 perceptron, batch 128, Adam."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

OnStep = Callable[[nn.Module, torch.optim.Optimizer], None]


class Workload:
    """A model, its optimizer, and fixed batches of noise: what is timed does not depend on what is learned."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(784, 20), nn.ReLU(), nn.Linear(20, 10))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        self.batches = [(torch.randn(128, 784), torch.randint(10, (128,))) for _ in range(32)]

    def train(self, steps: int, log: Callable[..., Any] | None = None, on_step: OnStep | None = None) -> float:
        """Seconds that ``steps`` steps take."""
        start = time.perf_counter()
        for step in range(steps):
            x, y = self.batches[step % len(self.batches)]
            loss = nn.functional.cross_entropy(self.model(x), y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            if log is not None:
                log(loss=loss)
            if on_step is not None:
                on_step(self.model, self.optimizer)
        return time.perf_counter() - start
