"""Meta-training a learned optimizer: its speed against a naive twin's, and against the arithmetic alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import torch
from pairs import machine, ratio, report
from torch import Tensor, nn
from torch.func import functional_call

from trajectory_tools.l2o.kernel import CHUNK, KernelWeights
from trajectory_tools.l2o.network import CoordinatewiseLSTM
from trajectory_tools.l2o.parameters import FlatParameters
from trajectory_tools.l2o.tape import Tape
from trajectory_tools.l2o.truncation import MetaLoss, Unroll
from trajectory_tools.l2o.workers import for_each
from trajectory_tools.problems import Optimizee

UNROLL = 20
BATCH = 128
LAYERS = (784, 20, 10)


def optimizee() -> Optimizee:
    """784-20-10, mini-batches of 128; the data is drawn once."""
    model = nn.Sequential(nn.Linear(*LAYERS[:2]), nn.Sigmoid(), nn.Linear(*LAYERS[1:]))
    images, labels = torch.randn(64, BATCH, LAYERS[0]), torch.randint(LAYERS[-1], (64, BATCH))

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from zip(images, labels, strict=True)

    return Optimizee(
        model, batches(), lambda batch: nn.functional.cross_entropy(model(batch[0]), batch[1]), (), "synthetic"
    )


class Fast:
    """This package's meta-training: truncation after truncation, each with Adam's step on the network."""

    def __init__(self, **options: str) -> None:
        self.network = CoordinatewiseLSTM()
        self.adam = torch.optim.Adam(self.network.parameters(), lr=1e-3)
        started = optimizee()
        parameters = FlatParameters(started.model)
        self.n = len(parameters)
        weights = KernelWeights.of(self.network)
        self.threads = torch.get_num_threads()
        tape = Tape(weights, self.n, UNROLL, threads=self.threads, **options)  # type: ignore[arg-type]
        self.unroll = Unroll(started, parameters, self.network.initial_state(self.n), tape, MetaLoss())

    def iterate(self) -> float:
        """Seconds for one truncation."""
        start = time.perf_counter()
        torch.set_num_threads(1)  # as meta-training does it: its threads share out chunks, not operations
        truncation = self.unroll.truncate(KernelWeights.of(self.network), UNROLL)
        assert truncation.gradient is not None
        for name, parameter in self.network.named_parameters():
            parameter.grad = truncation.gradient[name]
        self.adam.step()
        torch.set_num_threads(self.threads)
        return time.perf_counter() - start


class Naive:
    """Plain autograd: two LSTM cells, parameter by parameter, the graph of the whole unroll, a backward each iteration.

    As the published PyTorch versions of Andrychowicz et al. 2016 do it, ``loss.backward(retain_graph=True)`` at every
    iteration, which goes back to the first; with ``stop_at_parameters`` it goes no further than the gradients need.
    """

    def __init__(self, *, stop_at_parameters: bool) -> None:
        self.stop = stop_at_parameters
        self.started = optimizee()
        self.first, self.second, self.output = nn.LSTMCell(2, 20), nn.LSTMCell(20, 20), nn.Linear(20, 1)
        weights = [*self.first.parameters(), *self.second.parameters(), *self.output.parameters()]
        self.adam = torch.optim.Adam(weights, lr=1e-3)
        self.params = {name: p.detach().clone() for name, p in self.started.model.named_parameters()}

    def _loss(self, params: dict[str, Tensor]) -> Tensor:
        x, y = next(self.started.batches)
        return nn.functional.cross_entropy(functional_call(self.started.model, params, (x,)), y)

    def iterate(self) -> float:
        """Seconds for one truncation, from the parameters that the last one ended with."""
        start = time.perf_counter()
        states = {name: [torch.zeros(p.numel(), 20) for _ in range(4)] for name, p in self.params.items()}
        params = {name: p.detach().requires_grad_() for name, p in self.params.items()}
        total = torch.zeros(())
        for _ in range(UNROLL):
            loss = self._loss(params)
            total = total + loss
            if self.stop:
                gradients = torch.autograd.grad(loss, list(params.values()), retain_graph=True)
            else:
                for p in params.values():
                    p.retain_grad()
                loss.backward(retain_graph=True)  # type: ignore[no-untyped-call]
                gradients = tuple(p.grad for p in params.values())  # type: ignore[misc]
            moved = {}
            for (name, p), g in zip(params.items(), gradients, strict=True):
                h1, c1, h2, c2 = states[name]
                h1, c1 = self.first(preprocessed(g.detach().flatten()), (h1, c1))
                h2, c2 = self.second(h1, (h2, c2))
                states[name] = [h1, c1, h2, c2]
                moved[name] = p + 0.1 * self.output(h2).view_as(p)
            params = moved
        self.adam.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        self.adam.step()
        self.params = {name: p.detach() for name, p in params.items()}
        return time.perf_counter() - start


def preprocessed(g: Tensor) -> Tensor:
    small = g.abs() < torch.exp(torch.tensor(-10.0))
    size = torch.where(small, torch.tensor(-1.0), g.abs().log() / 10)
    return torch.stack([size, torch.where(small, g * torch.exp(torch.tensor(10.0)), g.sign())], dim=1)


def products(n: int, threads: int) -> Callable[[], float]:
    """The matrix products of an unroll alone, chunk by chunk: forward, and back to the inputs and to the weights."""
    chunks = [torch.randn(41, n // (n // CHUNK + 1)) for _ in range(n // CHUNK + 1)]
    first, second, width = torch.randn(80, 23), torch.randn(80, 41), chunks[0].shape[1]
    local = threading.local()

    def multiply(z: Tensor) -> None:
        if not hasattr(local, "gates"):
            local.gates, local.back = torch.empty(80, width), torch.empty(40, width)
            local.w1, local.w2 = torch.empty(80, 23), torch.empty(80, 41)
        for _ in range(UNROLL):
            torch.mm(first, z[:23], out=local.gates)
            torch.mm(second, z, out=local.gates)
            torch.mm(local.gates, z.T, out=local.w2)
            torch.mm(local.gates, z[:23].T, out=local.w1)
            torch.mm(second[:, :40].T, local.gates, out=local.back)
            torch.mm(first[:, :20].T, local.gates, out=local.back[:20])

    return timed(lambda: for_each(multiply, chunks, threads=threads))


def sigmoids(n: int, threads: int) -> Callable[[], float]:
    """The 200 sigmoids (or tanh by sigmoid) of each coordinate and step alone."""
    width = n // (n // CHUNK + 1)

    def activate(z: Tensor) -> None:
        for _ in range(UNROLL):
            z.sigmoid_()

    chunks = [torch.randn(200, width) for _ in range(n // CHUNK + 1)]
    return timed(lambda: for_each(activate, chunks, threads=threads))


def timed(function: Callable[[], object]) -> Callable[[], float]:
    def seconds() -> float:
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    return seconds


def main() -> None:
    print(f"meta-training, 784-20-10 perceptron, unroll {UNROLL}, batch {BATCH}; {machine()}")
    torch.manual_seed(0)
    fast = Fast()
    seconds = sorted(fast.iterate() for _ in range(9))[4]
    report("iterations a second", f"{UNROLL / seconds:.1f} ({seconds / UNROLL * 1e3:.1f} ms each)", "-")
    naive = Naive(stop_at_parameters=False)
    report(
        "naive twin, a backward through the unroll each iteration / fast",
        ratio(naive.iterate, fast.iterate, pairs=5),
        "12x, aim 25x",
    )
    naive = Naive(stop_at_parameters=True)
    report("the same, its backward stopped at the parameters / fast", ratio(naive.iterate, fast.iterate, pairs=5), "-")
    recompute = Fast(keep="inputs")
    report("recomputing instead of keeping / fast", ratio(recompute.iterate, fast.iterate, pairs=5), "-")
    share = ratio(products(fast.n, fast.threads), fast.iterate, pairs=5)
    report("the matrix products alone (0.48 GFLOP) / fast", share, "1x is the floor")
    share = ratio(sigmoids(fast.n, fast.threads), fast.iterate, pairs=5)
    report("the sigmoids alone / fast", share, "-")


if __name__ == "__main__":
    main()
