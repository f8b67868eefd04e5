"""Optimizers, a small network and naive twins, for the tests of probes."""

import copy
import random

import numpy as np
import torch
from torch import nn

from trajectory_tools.l2o.network import CoordinatewiseLSTM
from trajectory_tools.l2o.optimizer import LearnedOptimizer
from trajectory_tools.optimizers import make_optimizer


def learned(params):
    torch.manual_seed(5)
    return LearnedOptimizer(params, weights=CoordinatewiseLSTM())


class Counting(torch.optim.SGD):
    """Keeps what it knows in attributes, a group, a list, a tensor; is random; swaps its parameters' memory."""

    def __init__(self, params):
        super().__init__(params, lr=0.1)
        self.calls = 0
        self.history = []
        self.total = torch.zeros(())
        self.param_groups[0]["k"] = 0

    def __getstate__(self):
        return {**super().__getstate__(), "calls": self.calls, "history": self.history, "total": self.total}

    def state_dict(self):
        return {**super().state_dict(), "own": [self.calls, self.history, self.total]}

    @torch.no_grad()
    def step(self, closure=None):
        self.calls += 1
        self.history.append(self.calls)
        self.total += 1
        for group in self.param_groups:
            group["k"] = group.get("k", 0) + 1
        noise = torch.rand(())
        for p in self.param_groups[0]["params"]:
            if p.grad is not None:
                p.data = p.data - (0.1 + 0.01 * noise + 0.01 * self.total) * p.grad


OPTIMIZERS = {
    "sgd": lambda p: make_optimizer("sgd", p),
    "momentum": lambda p: make_optimizer("sgd", p, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda p: make_optimizer("sgd", p, momentum=0.9, nesterov=True),
    "rmsprop": lambda p: make_optimizer("rmsprop", p, momentum=0.5),
    "adam": lambda p: make_optimizer("adam", p),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True, weight_decay=0.1),
    "adamw": lambda p: make_optimizer("adamw", p),
    "lion": lambda p: make_optimizer("lion", p, weight_decay=0.1),
    "lion-sgd": lambda p: make_optimizer("lion-sgd", p, momentum=0.9),
    "l2o": learned,
    "adagrad": lambda p: torch.optim.Adagrad(p, lr_decay=0.1),
    "adadelta": torch.optim.Adadelta,
    "adamax": torch.optim.Adamax,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "asgd": torch.optim.ASGD,
    "rprop": torch.optim.Rprop,
    "adam-fused": lambda p: torch.optim.Adam(p, fused=True),
    "adam-foreach": lambda p: torch.optim.Adam(p, foreach=True),
    "adam-lr-tensor": lambda p: torch.optim.Adam(p, lr=torch.tensor(0.01)),
    "sgd-fused": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "counting": Counting,
}


ONE_BY_ONE = ("l2o", "adam-fused", "sgd-fused")
"""Optimizers that are none of the listed ones, or in a form of theirs that is another computation."""


def network(*, norm=True, dtype=torch.float32):
    torch.manual_seed(0)
    layers = [nn.Linear(6, 7), *([nn.BatchNorm1d(7)] if norm else []), nn.ReLU(), nn.Dropout(0.3), nn.Linear(7, 3)]
    return nn.Sequential(*layers).to(dtype)


def some_batches(n, seed, size=8, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, 6, generator=generator, dtype=dtype), torch.randint(3, (size,), generator=generator))
        for _ in range(n)
    ]


def loss_of(model):
    return lambda batch: nn.functional.cross_entropy(model(batch[0]), batch[1])


def bits(model, optimizer):
    """Everything that a training consists of, for comparison to the bit."""
    state = optimizer.state_dict()
    tensors = [p.detach().clone() for p in model.parameters()] + [b.clone() for b in model.buffers()]
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    generators = [torch.get_rng_state(), str(random.getstate()), str(np.random.get_state())]
    return copy.deepcopy([tensors, grads, state, generators, [m.training for m in model.modules()]])


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert torch.equal(a, b) or (a.isnan() == b.isnan()).all()
    elif isinstance(a, dict):
        assert list(a) == list(b)  # in the same order, too
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    else:
        assert a == b


def twins(model, optimizer, batches):
    """Gradients and updates by a deep copy for each mini-batch, one after the other in torch's stream of numbers."""
    grads, updates = [], []
    state = torch.get_rng_state()
    noise = []
    for batch in batches:
        twin, own = copy.deepcopy((model, optimizer))
        for p in twin.parameters():
            p.grad = None
        loss_of(twin)(batch).backward()
        noise.append(torch.get_rng_state())
        grads.append(flat(p.grad for p in twin.parameters()))
    if isinstance(optimizer, Counting):  # its noise comes after that of the gradient, which mixes the streams
        torch.set_rng_state(state)
        grads = []
    mean = []
    for i, batch in enumerate(batches):
        twin, own = copy.deepcopy((model, optimizer))
        for p in twin.parameters():
            p.grad = None
        if isinstance(optimizer, Counting):
            loss_of(twin)(batch).backward()
            grads.append(flat(p.grad for p in twin.parameters()))
        else:
            shaped(grads[i], twin)
        updates.append(step_of(twin, own))
    twin, own = copy.deepcopy((model, optimizer))
    mean = np.mean(np.stack(grads), axis=0, dtype=np.float64).astype(grads[0].dtype)
    shaped(mean, twin)
    mean_update = step_of(twin, own)
    torch.set_rng_state(state)
    return np.stack(grads), np.stack(updates), mean_update


def step_of(model, optimizer):
    before = [p.detach().clone() for p in model.parameters()]
    type(optimizer).step(optimizer)
    return flat(p.detach() - old for p, old in zip(model.parameters(), before, strict=True))


def shaped(values, model):
    start = 0
    for p in model.parameters():
        p.grad = torch.from_numpy(values[start : start + p.numel()].copy()).view_as(p).to(p.dtype)
        start += p.numel()


def flat(tensors):
    return torch.cat([t.detach().reshape(-1) for t in tensors]).numpy().copy()
