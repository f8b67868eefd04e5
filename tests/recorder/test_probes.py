"""With probes a training is to the bit what it is without them."""

import random

import numpy as np
import pytest
import torch
from probing import OPTIMIZERS, assert_same, bits, loss_of, network, some_batches, twins
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from trajectory_tools.errors import BadArgument
from trajectory_tools.recorder import Recorder
from trajectory_tools.run import open_run


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_training_with_probes_is_to_the_bit_the_one_without_and_updates_are_those_of_a_twin(tmp_path, name):
    results, wanted = [], []
    probes = some_batches(5, seed=7)
    for probing in (False, True):
        model = network()
        optimizer = OPTIMIZERS[name](model.parameters())
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2) if name != "l2o" else None
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        trace = []
        with Recorder(tmp_path / f"{probing}", model, optimizer) as recorder:
            for step, batch in enumerate(some_batches(4, seed=3)):
                if probing:
                    before = bits(model, optimizer)
                    wanted.append(twins(model, optimizer, probes))
                    recorder.probe(loss_of(model), probes, surrogates=3)
                    assert_same(bits(model, optimizer), before)
                loss = loss_of(model)(batch)
                optimizer.zero_grad(set_to_none=step % 2 == 0)
                loss.backward()
                optimizer.step()
                if scheduler is not None:
                    scheduler.step()
                trace.append(bits(model, optimizer))
        results.append(trace)
    assert_same(*results)
    with_probes = open_run(tmp_path / "True")
    without = open_run(tmp_path / "False")
    assert with_probes.probed_steps.tolist() == with_probes.steps.tolist() == without.steps.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(with_probes.array("update", "0.weight"), without.array("update", "0.weight"))
    for found, (grads, updates, mean_update) in zip(with_probes.probe_sets(), wanted, strict=True):
        assert (found.batch_size, found.n_values) == (8, sum(p.numel() for p in network().parameters()))
        np.testing.assert_array_equal(found.grad, grads)
        np.testing.assert_array_equal(found.update, updates)
        assert found.surrogate_grad.shape == found.surrogate_update.shape == (3, found.n_values)
        if name not in ("lion", "counting"):  # a sign turns with the last bit of a mean; random
            np.testing.assert_allclose(found.mean_update, mean_update, rtol=1e-3, atol=1e-6)


def test_step_hooks_neither_fire_nor_count(tmp_path):
    model = network()
    optimizer = OPTIMIZERS["adam"](model.parameters())
    fired = []
    optimizer.register_step_post_hook(lambda *_: fired.append("own"))
    handles = [
        register_optimizer_step_pre_hook(lambda *_: fired.append("before")),
        register_optimizer_step_post_hook(lambda *_: fired.append("after")),
    ]
    stepped = model[-1].bias.register_post_accumulate_grad_hook(lambda _: fired.append("accumulated"))
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    with Recorder(tmp_path / "run", model, optimizer) as recorder:
        recorder.probe(loss_of(model), some_batches(3, seed=1))
        assert fired == []
        assert not getattr(optimizer, "_opt_called", False)
        loss_of(model)(some_batches(1, seed=2)[0]).backward()
        optimizer.step()
        scheduler.step()
        assert fired == ["accumulated", "before", "own", "after"]
        assert recorder.steps_seen == 1
    for handle in (*handles, stepped):
        handle.remove()


def test_a_graph_from_before_the_probe_goes_backward_after_it(tmp_path):
    model, other = network(), network()
    optimizer = OPTIMIZERS["adam"](model.parameters())
    batch = some_batches(1, seed=2)[0]
    with Recorder(tmp_path / "run", model, optimizer) as recorder:
        torch.manual_seed(3)
        loss = loss_of(model)(batch)
        recorder.probe(loss_of(model), some_batches(3, seed=1))
        loss.backward()
    torch.manual_seed(3)
    loss_of(other)(batch).backward()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


class Loader:
    """As a DataLoader: it has a length, and starts its workers each time it is gone through."""

    def __init__(self, batches, length=None):
        self.batches = batches
        self.length = len(batches) if length is None else length
        self.started = 0

    def __len__(self):
        return self.length

    def __iter__(self):
        self.started += 1
        return iter(self.batches)


def test_a_loader_is_gone_through_once(tmp_path):
    model = network()
    loader = Loader(some_batches(5, seed=7))
    with Recorder(tmp_path / "r", model, OPTIMIZERS["sgd"](model.parameters())) as recorder:
        recorder.probe(loss_of(model), loader)
    assert loader.started == 1
    (found,) = open_run(tmp_path / "r").probe_sets()
    assert (found.batch_size, len(found.grad)) == (8, 5)


@pytest.mark.parametrize(("found", "said"), [(3, "3"), (7, "more"), (0, "none")])
def test_a_loader_whose_length_is_wrong_is_refused(tmp_path, found, said):
    """As that of a DataLoader over an IterableDataset can be: the mean would be wrong."""
    model = network()
    recorder = Recorder(tmp_path / "r", model, OPTIMIZERS["sgd"](model.parameters()))
    refused = pytest.raises(BadArgument, match=rf"the mini-batches are {said}, and their length \(len\) says 6")
    with recorder, refused:
        recorder.probe(loss_of(model), Loader(some_batches(found, seed=7), 6))
    run = open_run(tmp_path / "r")
    assert not run.probed_steps.size or list(run.probe_sets()) == []
