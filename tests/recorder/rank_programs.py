"""One rank of trainings on two gloo processes: ``python rank_programs.py FOLDER RANK KIND...``."""

import sys
import warnings

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from trajectory_tools.recorder import Recorder

folder, rank, kinds = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 2))


def train(model, optimizer, seen=None, drift=False):
    generator = torch.Generator().manual_seed(rank)
    for step in range(5):
        if drift and rank == 1 and step == 3:
            with torch.no_grad():
                next(model.parameters()).add_(1)
        x = torch.randn(4, 5, generator=generator)
        optimizer.zero_grad()
        model(x).pow(2).mean().backward()
        named = dict(model.named_parameters())
        if seen is not None:
            seen["before"].append({n: local(p) for n, p in named.items()})
            seen["grad"].append({n: local(p.grad) for n, p in named.items()})
        optimizer.step()
        if seen is not None:
            seen["after"].append({n: local(p) for n, p in named.items()})


def local(tensor):
    return (tensor.to_local() if hasattr(tensor, "to_local") else tensor).detach().clone()


def wrapped(kind):
    model = network()
    if kind != "fsdp":
        return DistributedDataParallel(model)
    for layer in (model[0], model[2]):
        fully_shard(layer)
    return fully_shard(model)


for kind in kinds:
    hand = {"before": [], "grad": [], "after": []}
    plain, watched = wrapped(kind), wrapped(kind)
    train(plain, torch.optim.Adam(plain.parameters(), lr=0.01), drift=kind == "drift")
    optimizer = torch.optim.Adam(watched.parameters(), lr=0.01)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Recorder(f"{folder}/{kind}", watched, optimizer) as recorder:
            train(watched, optimizer, hand, drift=kind == "drift")
            recorder.log(loss=1.0)
            dist.barrier()
    assert all(torch.equal(local(a), local(b)) for a, b in zip(plain.parameters(), watched.parameters(), strict=True))
    torch.save((hand, [str(w.message) for w in caught if "rank" in str(w.message)]), f"{folder}/{kind}-hand-{rank}.pt")
dist.destroy_process_group()
