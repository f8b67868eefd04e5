"""A probe that does not come to its end, and optimizers and gradients that are hard to put back: nothing is changed."""

import numpy as np
import pytest
import torch
from probing import assert_same, bits, loss_of, network, some_batches

from trajectory_tools.recorder import Recorder
from trajectory_tools.run import open_run


class Interrupted(torch.optim.SGD):
    """Whose steps end in a Ctrl-C."""

    def step(self, closure=None):
        super().step(closure)
        raise KeyboardInterrupt


def test_a_probe_that_is_interrupted_changes_nothing_even_while_the_exception_is_kept(tmp_path):
    model = network()
    optimizer = Interrupted(model.parameters(), lr=0.1)
    called = []
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(lambda _: called.append(1))
    batches = some_batches(4, seed=1)
    with Recorder(tmp_path / "run", model, optimizer) as recorder:
        loss_of(model)(batches[0]).backward()
        before = bits(model, optimizer)
        with pytest.raises(KeyboardInterrupt) as kept:  # with the frames of the probe, as a notebook keeps them
            recorder.probe(loss_of(model), batches)
        assert_same(bits(model, optimizer), before)
        called.clear()
        loss_of(model)(batches[0]).backward()
        assert len(called) == len(list(model.parameters()))
        after = bits(model, optimizer)
        del kept
        assert_same(bits(model, optimizer), after)
        optimizer.__class__ = torch.optim.SGD
        recorder.probe(loss_of(model), batches)
    (found,) = open_run(tmp_path / "run").probe_sets()
    assert len(found.grad) == len(batches)


def test_gradients_in_memory_that_each_backward_pass_overwrites_come_back(tmp_path):
    """As with DDP's ``gradient_as_bucket_view=True``."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    parameters = list(model.parameters())
    bucket = torch.zeros(sum(parameter.numel() for parameter in parameters))

    def into_bucket():
        for parameter, view in zip(parameters, bucket.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = view.view_as(parameter).copy_(parameter.grad)

    batches = some_batches(4, seed=1)
    with Recorder(tmp_path / "run", model, optimizer) as recorder:
        loss_of(model)(batches[0]).backward()
        into_bucket()
        before = bits(model, optimizer)
        recorder.probe(loss_of(model), batches[1:], prepare=into_bucket)
        assert_same(bits(model, optimizer), before)


@pytest.mark.parametrize("kind", ["expanded", "sparse"])
def test_gradients_that_cannot_be_written_in_place_come_back(tmp_path, kind):
    weight = torch.nn.Parameter(torch.ones(4, 3))
    model = torch.nn.Module()
    model.weight = weight
    ones = torch.ones(4, 3)
    weight.grad = gradient = torch.ones(1).expand(4, 3) if kind == "expanded" else ones.to_sparse()
    with Recorder(tmp_path / "run", model, torch.optim.SGD([weight], lr=0.1)) as recorder:
        recorder.probe(lambda scale: (weight * scale).sum(), [2.0, 3.0])
    assert weight.grad is gradient
    assert torch.equal(gradient.to_dense(), ones)


class Wrapped(torch.Tensor):
    """A state without memory of its own, as quantized ones are, of which torch can do little."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, values):
        return torch.Tensor._make_wrapper_subclass(cls, values.shape, dtype=values.dtype)

    def __init__(self, values):
        self.values = values

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function.overloadpacket in (torch.ops.aten.clone, torch.ops.aten.detach):
            own = function.overloadpacket is torch.ops.aten.clone
            return Wrapped(args[0].values.clone() if own else args[0].values)
        if function.overloadpacket is torch.ops.aten.copy_:
            args[0].values.copy_(args[1].values)
            return args[0]
        raise NotImplementedError(function)


class Momentum(torch.optim.Optimizer):
    """With such a state."""

    def __init__(self, parameters):
        super().__init__(parameters, {})

    @torch.no_grad()
    def step(self, closure=None):
        for parameter in self.param_groups[0]["params"]:
            state = self.state[parameter]
            if not state:
                state["momentum"] = Wrapped(torch.zeros_like(parameter))
            parameter.sub_(state["momentum"].values.add_(parameter.grad), alpha=0.1)


def test_a_state_of_a_class_of_its_own_comes_back(tmp_path):
    model = network()
    optimizer = Momentum(model.parameters())
    batches = some_batches(3, seed=1)
    with Recorder(tmp_path / "run", model, optimizer) as recorder:
        loss_of(model)(batches[0]).backward()
        optimizer.step()

        def values():
            momenta = [state["momentum"].values.clone() for state in optimizer.state.values()]
            return [[parameter.detach().clone() for parameter in model.parameters()], momenta]

        before = values()
        recorder.probe(loss_of(model), batches)
        assert_same(values(), before)
    (found,) = open_run(tmp_path / "run").probe_sets()
    assert len({row.tobytes() for row in found.update}) == len(batches)


def test_nan_in_a_sample_is_said_and_recorded(tmp_path):
    model = network()
    batches = some_batches(3, seed=1)
    batches[1][0][0, 0] = torch.nan
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    said = pytest.warns(RuntimeWarning, match="probe at step 0 hold NaN")
    with Recorder(tmp_path / "run", model, optimizer) as recorder, said:
        recorder.probe(loss_of(model), batches)
    (found,) = open_run(tmp_path / "run").probe_sets()
    assert np.isnan(found.grad).any(axis=1).tolist() == [False, True, False]
