"""Small trainings, for the tests of the recorder."""

import torch
from torch import nn

from trajectory_tools.recorder import Recorder
from trajectory_tools.run import open_run


def network(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).to(dtype)


def sgd(model, **options):
    return torch.optim.SGD(model.parameters(), lr=0.1, **options)


def batches(n, seed=1, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(n):
        x = torch.randn(8, 5, generator=generator)
        yield x.to(dtype), torch.randint(0, 3, (8,), generator=generator)


def backward(model, batch):
    x, y = batch
    model.zero_grad()
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    return loss


def train(model, optimizer, n_steps, *, recorder=None, seen=None, seed=1):
    """Train; ``seen`` collects (θ_t, g_t, θ_{t+1}) of every step by hand."""
    dtype = next(model.parameters()).dtype
    for batch in batches(n_steps, seed, dtype):
        loss = backward(model, batch)
        before = copies(model, "data")
        grads = copies(model, "grad")
        optimizer.step()
        if seen is not None:
            seen.append((before, grads, copies(model, "data")))
        if recorder is not None:
            recorder.log(loss=loss)


def copies(model, what):
    values = {name: getattr(p, what) for name, p in model.named_parameters()}
    return {name: None if v is None else v.detach().clone() for name, v in values.items()}


def recorded(folder, model, optimizer, n_steps, **options):
    """(the run, what was seen by hand)."""
    seen = []
    with Recorder(folder, model, optimizer, **options) as recorder:
        train(model, optimizer, n_steps, recorder=recorder, seen=seen)
    return open_run(folder), seen
