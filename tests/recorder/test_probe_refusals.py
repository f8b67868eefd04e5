"""What cannot be probed is refused in a sentence, and nothing is changed."""

import pytest
import torch
from probing import OPTIMIZERS, assert_same, bits, loss_of, network, some_batches

from trajectory_tools.errors import BadArgument
from trajectory_tools.recorder import Recorder, room
from trajectory_tools.run import open_run


def refusals(model, optimizer):
    batches = some_batches(3, seed=1)
    loss = loss_of(model)

    def stepping(batch):
        loss(batch).backward()
        optimizer.step()
        return loss(batch)

    def backward(batch):
        loss(batch).backward()
        return loss(batch)

    def evaluating(batch):
        model.eval()
        return loss(batch)

    return {
        "K = 1": (loss, batches[:1], {}, "spread of 1 mini-batch is"),
        "none": (loss, [], {}, "spread of 0 mini-batches is"),
        "no scalar": (lambda b: model(b[0]), batches, {}, r"one element, found a tensor of shape \(8, 3\)"),
        "no tensor": (lambda b: 3.0, batches, {}, "found float"),
        "no graph": (lambda b: loss(b).detach(), batches, {}, "no parameter has a gradient"),
        "steps": (stepping, batches, {}, "steps the optimizer"),
        "backward": (backward, batches, {}, "goes backward itself"),
        "eval": (evaluating, batches, {}, r"model is in eval mode.*mode='eval'"),
        "mode": (loss, batches, {"mode": "eval"}, "model is in train mode"),
        "sizes": (loss, [*batches, *some_batches(1, 2, size=4)], {}, "8 and 4 samples"),
        "sizes of a stream": (loss, Lazy([*batches, *some_batches(1, 2, size=4)]), {}, "8 and 4 samples"),
        "batch norm": (loss, batches, {"samples": 4}, r"1 normalizes over the mini-batch \(BatchNorm1d\)"),
        "too many": (loss, batches, {"samples": 400}, "hold 24 samples, and 400"),
        "samples": (loss, batches, {"samples": 1}, "samples is 1"),
        "sketch": (loss, batches, {"sketch": 10**12}, "sketch of 1,000,000,000,000 coordinates is more than"),
        "swapped": (batches, loss, {}, "to its loss, then a list of mini-batches; found list, then function"),
        "prepare": (loss, batches, {"prepare": lambda model: None}, "without arguments .*'model'"),
        "no function": (loss, batches, {"prepare": 3}, "without arguments .*3 is not a callable"),
        "memory": (loss, batches, {"sketch": 1, "surrogates": 10**9}, r"GB of memory, and .* GB are free"),
        "disk": (loss, batches, {"surrogates": 10**13}, r"GB of disk, and .* GB are free"),
    }


class Lazy:
    """Has a length, and makes its mini-batches when they are asked for."""

    def __init__(self, batches):
        self._batches = batches

    def __len__(self):
        return len(self._batches)

    def __iter__(self):
        return iter(self._batches)


@pytest.mark.parametrize("what", refusals(network(), None))
def test_what_cannot_be_probed_is_refused_and_nothing_is_changed(tmp_path, what):
    model = network()
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    with Recorder(tmp_path / "run", model, optimizer) as recorder:
        loss_of(model)(some_batches(1, seed=2)[0]).backward()
        optimizer.step()
        before = bits(model, optimizer)
        loss_fn, batches, options, words = refusals(model, optimizer)[what]
        with pytest.raises(BadArgument, match=words):
            recorder.probe(loss_fn, batches, **options)
        assert_same(bits(model, optimizer), before)
        optimizer.step()
    run = open_run(tmp_path / "run")
    assert run.steps.tolist() == [0, 1]
    if run.probed_steps.size:  # it was found out on the way
        assert list(run.probe_sets()) == []


def test_more_refusals(tmp_path):
    model = network(norm=False)
    batches = some_batches(3, seed=1)
    with (
        Recorder(tmp_path / "lbfgs", model, torch.optim.LBFGS(model.parameters())) as recorder,
        pytest.raises(BadArgument, match="LBFGS evaluates the loss several times"),
    ):
        recorder.probe(loss_of(model), batches)
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    with (
        Recorder(tmp_path / "pairs", model.named_parameters(), optimizer) as recorder,
        pytest.raises(BadArgument, match="no module; give probe"),
    ):
        recorder.probe(loss_of(model), batches)
    with Recorder(tmp_path / "run", model, optimizer) as recorder:
        recorder.probe(loss_of(model), batches)
        with pytest.raises(BadArgument, match="step 0 has been probed with mini-batches of 8 already"):
            recorder.probe(loss_of(model), batches)
        with pytest.raises(BadArgument, match=r"vmap, which this model or loss_fn does not allow.*batches of one"):
            recorder.probe(lambda batch: loss_of(model)(batch) * loss_of(model)(batch).item(), batches, samples=4)
        with pytest.raises(TypeError, match="unsupported operand"):
            recorder.probe(loss_of(model), batches, prepare=lambda: 1 + "a", batch_size=7)
        with pytest.raises(ZeroDivisionError):
            recorder.probe(lambda batch: 1 / 0, batches, batch_size=5)
        recorder.probe(loss_of(model), batches, batch_size=6)
    assert [found.batch_size for found in open_run(tmp_path / "run").probe_sets()] == [8, 6]
    recorder.probe(loss_of(model), batches)  # after the end nothing is recorded, and nothing happens
    with pytest.raises(BadArgument, match="before recording begins"):
        Recorder(tmp_path / "early", model, optimizer).probe(loss_of(model), batches)


def test_free_memory_is_known_on_linux():
    assert room.free_memory() is None or room.free_memory() > 0
