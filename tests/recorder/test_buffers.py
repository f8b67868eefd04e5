"""Memory that is used again."""

import gc
import threading
import tracemalloc
import weakref

import numpy as np
import pytest
import torch

from trajectory_tools.recorder import Recorder
from trajectory_tools.recorder.buffers import Buffers
from trajectory_tools.run import open_run
from trajectory_tools.store.part_file import PartFile


def test_memory_of_another_length_is_never_handed_out():
    buffers = Buffers()
    long, give_long = buffers.take(6, "float32")
    short, give_short = buffers.take(2, "float32")
    give_long()
    give_short()
    again, give_again = buffers.take(2, "float32")
    assert again is short
    other, _ = buffers.take(2, "float32")
    assert other.size == 2
    assert other is not long
    give_again()
    wide, _ = buffers.take(2, "float64")
    assert wide.dtype == np.float64
    assert wide.size == 2


@pytest.mark.parametrize("lengths", [[6, 2, 2, 2], [64, 16, 1]])
def test_lengths_that_alternate_need_no_more_memory_than_one_of_each(lengths):
    buffers = Buffers()
    handed_out = {}  # kept, so that no address is used again
    for length in lengths * 5:
        values, give_back = buffers.take(length, "float32")
        handed_out[id(values)] = values
        give_back()
    assert sorted(values.size for values in handed_out.values()) == sorted(set(lengths))


def test_memory_of_the_length_that_was_not_asked_for_longest_is_let_go():
    buffers = Buffers()
    kept = {length: buffers.take(length, "float32") for length in (2, 4, 6, 8)}
    gone = weakref.ref(kept[2][0])
    for _, give_back in kept.values():  # the first as late as a writer may
        give_back()
    first = {length: values for length, (values, _) in kept.items()}
    del kept, give_back, _
    assert buffers.take(4, "float32")[0] is first[4]
    assert buffers.take(6, "float32")[0] is first[6]
    assert buffers.take(8, "float32")[0] is first[8]
    del first
    assert gone() is None


@pytest.mark.parametrize("stats", [True, False])
def test_recorders_that_are_closed_keep_no_values(tmp_path, stats):
    """Also before the garbage collector comes: a notebook, or a search over settings, holds many."""
    weight = torch.nn.Parameter(torch.zeros(2**18))
    optimizer = torch.optim.SGD([weight], lr=0.1)

    def record(folder):
        with Recorder(tmp_path / folder, [("w", weight)], optimizer, stats=stats) as recorder:
            for step in range(4):
                weight.grad = torch.ones_like(weight)
                recorder.probe(lambda scale: (weight * scale).sum(), [1.0, 2.0], model=holder) if step % 2 else None
                optimizer.step()
        return recorder

    holder = torch.nn.Module()
    holder.w = weight
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        first = record("first")
        before = tracemalloc.get_traced_memory()[0]
        others = [record(f"other-{i}") for i in range(2)]
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
        gc.enable()
    assert all(recorder.path.exists() for recorder in (first, *others))
    assert grown < weight.nbytes


def test_a_subsample_that_waits_to_be_written_is_not_overwritten(tmp_path, monkeypatch):
    """Memory is used again only once it is written, however far behind the disk is."""
    gate, write = threading.Event(), PartFile.write

    def held(self, *arguments):
        assert gate.wait(30)
        write(self, *arguments)

    monkeypatch.setattr(PartFile, "write", held)
    torch.manual_seed(0)
    model = torch.nn.Linear(40, 30)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    expected = []
    with Recorder(tmp_path / "run", model, optimizer, subsample=0.1, queue_bytes=2_000_000):
        for step in range(300):
            if step == 150:
                gate.set()
            before = model.weight.detach().clone()
            optimizer.zero_grad()
            model(torch.randn(8, 40)).square().mean().backward()
            grad = model.weight.grad.clone()
            optimizer.step()
            expected.append([x.flatten().numpy() for x in (before, grad, model.weight.detach() - before)])
    run = open_run(tmp_path / "run")
    places = run.coordinates("weight")
    assert len(places) == 120
    for i, column in enumerate(("param", "grad", "update")):
        np.testing.assert_array_equal(run.array(column, "weight"), np.stack([each[i][places] for each in expected]))


@pytest.mark.parametrize("save", [["param", "grad", "update"], ["update"], ["grad"]])
def test_a_step_is_copied_into_the_memory_of_one_that_is_written(tmp_path, save):
    """Where the queue has room for one step, the memory of one suffices: the next is not copied before that is free."""
    weight = torch.nn.Parameter(torch.zeros(2**20))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    step_bytes = (2 if save == ["update"] else len(save)) * weight.nbytes  # an update needs the parameters as well
    tracemalloc.start()
    try:
        options = {"save": save, "stats": False, "compression": "none", "queue_bytes": step_bytes * 3 // 2}
        with Recorder(tmp_path / "run", [("w", weight)], optimizer, **options):
            for _ in range(6):
                weight.grad = torch.ones_like(weight)
                optimizer.step()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert open_run(tmp_path / "run").steps.tolist() == list(range(6))
    assert step_bytes < peak < 1.5 * step_bytes
