"""How fast the learned optimizer steps, against two ``nn.LSTMCell`` that take one parameter after the other."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from pairs import machine, ratio, report
from torch import Tensor, nn

from trajectory_tools.l2o.network import CoordinatewiseLSTM
from trajectory_tools.l2o.optimizer import LearnedOptimizer

STEPS = 30
MODELS: dict[str, Callable[[], nn.Module]] = {
    "784-20-10 (15,910 parameters)": lambda: nn.Sequential(nn.Linear(784, 20), nn.Sigmoid(), nn.Linear(20, 10)),
    "784-100-100-10 (89,610)": lambda: nn.Sequential(
        nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10)
    ),
}


class CellLoop(torch.optim.Optimizer):
    """The same optimizer as it is usually written."""

    def __init__(self, params: Any, network: CoordinatewiseLSTM) -> None:
        super().__init__(params, {})
        self.recurs, self.recurs2 = nn.LSTMCell(2, 20), nn.LSTMCell(20, 20)
        self.output = nn.Linear(20, 1)
        nn.ModuleDict({"recurs": self.recurs, "recurs2": self.recurs2, "output": self.output}).load_state_dict(
            network.state_dict()
        )

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One step for each parameter."""
        for group in self.param_groups:
            for param in group["params"]:
                state = self.state[param]
                if not state:
                    state["first"] = state["second"] = (torch.zeros(param.numel(), 20),) * 2
                state["first"] = self.recurs(preprocessed(param.grad.view(-1)), state["first"])
                state["second"] = self.recurs2(state["first"][0], state["second"])
                param.add_(self.output(state["second"][0]).view_as(param), alpha=0.1)


def preprocessed(grad: Tensor) -> Tensor:
    """Appendix A's two inputs: (n, 2)."""
    large = grad.abs() >= math.exp(-10)
    log = torch.where(large, grad.abs().log() / 10, -1.0)
    return torch.stack([log, torch.where(large, grad.sign(), math.exp(10) * grad)], 1)


class MetaTest:
    """A model that is trained by one of the two, on fixed batches of noise."""

    def __init__(self, make_model: Callable[[], nn.Module], make: Callable[[Any], torch.optim.Optimizer]) -> None:
        torch.manual_seed(0)
        self.model = make_model()
        self.batches = [(torch.randn(128, 784), torch.randint(10, (128,))) for _ in range(STEPS)]
        self.optimizer = make(self.model.parameters())

    def train(self) -> tuple[float, float]:
        """Seconds that the steps take, and those of them that the optimizer takes."""
        start, within = time.perf_counter(), 0.0
        for x, y in self.batches:
            loss = nn.functional.cross_entropy(self.model(x), y)
            self.optimizer.zero_grad()
            loss.backward()
            before = time.perf_counter()
            self.optimizer.step()
            within += time.perf_counter() - before
        return time.perf_counter() - start, within


def main() -> None:
    print(f"meta-testing, batch 128; {machine()}")
    torch.manual_seed(0)
    network = CoordinatewiseLSTM()
    for what, make_model in MODELS.items():
        plain = MetaTest(make_model, lambda params: CellLoop(params, network))
        ours = MetaTest(make_model, lambda params: LearnedOptimizer(params, weights=network))
        # Both make the same steps, or the comparison says nothing.
        plain.train(), ours.train()
        for theirs, mine in zip(plain.model.parameters(), ours.model.parameters(), strict=True):
            torch.testing.assert_close(theirs, mine, rtol=1e-5, atol=1e-5)
        for i, part in enumerate(("a step of the training", "the optimizer alone")):
            found = ratio(lambda i=i, p=plain: p.train()[i], lambda i=i, o=ours: o.train()[i])
            report(f"LSTMCell loop / learned optimizer, {what}, {part}", found, "at least 3x")
        report(f"  a step of {what}", f"{1e3 * min(ours.train()[0] for _ in range(3)) / STEPS:.2f} ms", "-")


if __name__ == "__main__":
    main()
