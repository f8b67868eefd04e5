"""The two models of the overhead benchmarks: a small perceptron and torchvision's resnet18, each with fixed batches."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import nn

__all__ = ["MODELS", "Training", "resnet18", "small_mlp"]

OnStep = Callable[[Any], None]


class Training:
    """A model under Adam on batches of noise: what is timed does not depend on what is learned."""

    def __init__(self, model: nn.Module, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        self.model, self.batches = model, batches
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    @property
    def n_values(self) -> int:
        """Number of elements of all parameters."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def train(
        self, steps: int, *, before_step: Callable[[int], None] | None = None, log: OnStep | None = None
    ) -> float:
        """Seconds that ``steps`` steps take; ``before_step`` is called when the gradients are there, with the step."""
        start = time.perf_counter()
        for step in range(steps):
            x, y = self.batches[step % len(self.batches)]
            loss = self.criterion(self.model(x), y)
            self.optimizer.zero_grad()
            loss.backward()
            if before_step is not None:
                before_step(step)
            self.optimizer.step()
            if log is not None:
                log(loss)
        return time.perf_counter() - start


def small_mlp() -> Training:
    """784-20-10, 15,910 parameters, batch 128."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 20), nn.ReLU(), nn.Linear(20, 10))
    return Training(model, [(torch.randn(128, 784), torch.randint(10, (128,))) for _ in range(32)])


def resnet18() -> Training:
    """torchvision's resnet18, 11.2 million parameters with ten classes, batch 32 of 32×32."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=10)
    return Training(model, [(torch.randn(32, 3, 32, 32), torch.randint(10, (32,))) for _ in range(4)])


MODELS: dict[str, Callable[[], Training]] = {"784-20-10": small_mlp, "resnet18": resnet18}
