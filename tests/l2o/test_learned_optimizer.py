"""The learned optimizer against plain LSTM cells, as a torch optimizer, and recorded."""

from __future__ import annotations

import copy
import io
import math
import pickle

import pytest
import torch
from cells import CellTwin, network
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from walking import assert_same_path, walk

from trajectory_tools.errors import BadArgument
from trajectory_tools.l2o.optimizer import LearnedOptimizer

SHAPES = [(3, 4), (5,), (), (0,), (2, 1, 3)]


def parameters(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for shape in SHAPES]


def gradients(n_steps, dtype=torch.float64, seed=1):
    """Of sizes from 1e-9 to 1e2, so that both of the preprocessing's cases occur."""
    generator = torch.Generator().manual_seed(seed)

    def gaussian(shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return [[(gaussian(shape) * 10 ** (3 * gaussian(shape) - 4)).to(dtype) for shape in SHAPES] for _ in range(n_steps)]


@pytest.mark.parametrize("preprocess", [True, False])
def test_every_update_is_that_of_plain_lstm_cells(preprocess):
    weights = network(preprocess=preprocess)
    ours, theirs = parameters(), parameters()
    grads = gradients(6)
    path = walk(LearnedOptimizer(ours, weights=weights), ours, grads)
    assert_same_path(path, walk(CellTwin(theirs, weights.state_dict()), theirs, grads), rtol=1e-9, atol=1e-12)
    assert (path[0][0] - path[-1][0]).abs().min() > 1e-3, "it moves"


@pytest.mark.parametrize("preprocess", [True, False])
@pytest.mark.parametrize("threads", [1, 2])
def test_many_coordinates_are_cut_into_chunks(preprocess, threads):
    """Three chunks and a rest, against the formula; every third step only the second parameter has a gradient."""
    sizes = [9000, 5000]
    weights = network(preprocess=preprocess).double()
    params = [torch.zeros(size, dtype=torch.float64, requires_grad=True) for size in sizes]
    generator = torch.Generator().manual_seed(0)
    states = [weights.initial_state(size) for size in sizes]
    before, used = [torch.zeros(size, dtype=torch.float64) for size in sizes], torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        optimizer = LearnedOptimizer(params, weights=weights)
        for step in range(5):
            for i, param in enumerate(params):
                param.grad = torch.randn(sizes[i], generator=generator, dtype=torch.float64) * 10.0 ** (i - step)
                if step % 3 == 2 and i == 0:
                    param.grad = None
                    continue
                update, states[i] = weights(param.grad, states[i])
                before[i] += update.detach()
            optimizer.step()
            assert_same_path([params], [before], rtol=1e-9, atol=1e-12)
    finally:
        torch.set_num_threads(used)
    for param, state in zip(params, states, strict=True):
        for name in ("h1", "c1", "h2", "c2"):
            torch.testing.assert_close(optimizer.state[param][name], getattr(state, name).T, rtol=1e-9, atol=1e-12)


presence = st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4)


@given(present=presence)
@settings(deadline=None, max_examples=25)
def test_a_parameter_without_gradient_keeps_its_state(present):
    """Frozen, late and skipped parameters, in whichever order they have their first gradient."""
    weights = network()
    ours, theirs = parameters(), parameters()
    grads = [
        [grad if there else None for grad, there in zip(step, row, strict=True)]
        for step, row in zip(gradients(len(present)), present, strict=True)
    ]
    optimizer = LearnedOptimizer([{"params": ours[:2]}, {"params": ours[2:]}], weights=weights)
    path = walk(optimizer, ours, grads)
    assert_same_path(path, walk(CellTwin(theirs, weights.state_dict()), theirs, grads), rtol=1e-9, atol=1e-12)
    seen = {param for param, *there in zip(ours, *present, strict=True) if any(there)}
    assert set(optimizer.state) == seen


def test_a_late_group_starts_from_zero():
    weights = network()
    params, alone = parameters(), parameters()
    optimizer = LearnedOptimizer(params[:2], weights=weights)
    walk(optimizer, params[:2], [step[:2] for step in gradients(3)])
    optimizer.add_param_group({"params": params[2:]})
    late = walk(optimizer, params, gradients(3, seed=2))
    fresh = walk(LearnedOptimizer(alone[2:], weights=weights), alone[2:], [step[2:] for step in gradients(3, seed=2)])
    assert_same_path([step[2:] for step in late], fresh, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_a_resumed_run_is_the_same_to_the_bit(dtype):
    """Through a file, with a parameter that joined later and one that has not had a gradient yet."""
    params, resumed = parameters(dtype), parameters(dtype)
    grads = gradients(12, dtype)
    grads[0][0] = None
    for step in grads[:8]:
        step[4] = None
    optimizer = LearnedOptimizer(params, weights=network())
    walk(optimizer, params, grads[:5])
    file = io.BytesIO()
    torch.save([params, optimizer.state_dict()], file)
    expected = walk(optimizer, params, grads[5:])

    file.seek(0)
    values, state = torch.load(file, weights_only=True)
    assert len(file.getvalue()) < 60_000, "no more than the state itself"
    fresh = LearnedOptimizer(resumed, weights=network())
    with torch.no_grad():
        for param, value in zip(resumed, values, strict=True):
            param.copy_(value)
    fresh.load_state_dict(state)
    assert_same_path(walk(fresh, resumed, grads[5:]), expected)


def test_a_state_dict_is_a_copy_of_plain_tensors():
    params = parameters()
    optimizer = LearnedOptimizer(params, weights=network())
    walk(optimizer, params, gradients(2))
    state = optimizer.state_dict()
    before = copy.deepcopy(state)
    walk(optimizer, params, gradients(1))
    fresh = LearnedOptimizer(parameters(), weights=network())
    fresh.load_state_dict(state)
    walk(fresh, fresh.param_groups[0]["params"], gradients(2))
    for i, shape in enumerate(SHAPES):
        for name in ("h1", "c1", "h2", "c2"):
            assert torch.equal(state["state"][i][name], before["state"][i][name])
            assert state["state"][i][name].shape == (math.prod(shape), 20)
            assert state["state"][i][name].is_contiguous()


@pytest.mark.parametrize("twin_of", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))])
def test_a_copy_goes_its_own_way(twin_of):
    params = parameters()
    optimizer = LearnedOptimizer(params, weights=network())
    walk(optimizer, params, gradients(2))
    twin_params, twin = twin_of((params, optimizer))
    after = walk(optimizer, params, gradients(3))
    assert_same_path(walk(twin, twin_params, gradients(3)), after)
    assert twin.weights.sha256 == optimizer.weights.sha256


def test_the_state_can_be_looked_at_and_started_again():
    params = parameters()
    optimizer = LearnedOptimizer(params, weights=network())
    walk(optimizer, params, gradients(2))
    for state in optimizer.state.values():
        for value in state.values():
            value.zero_()
    start = copy.deepcopy(params)
    again = walk(optimizer, params, gradients(3))
    optimizer.state.clear()
    with torch.no_grad():
        for param, value in zip(params, start, strict=True):
            param.copy_(value)
    assert_same_path(walk(optimizer, params, gradients(3)), again)
    fresh = LearnedOptimizer(start, weights=network())
    assert_same_path(walk(fresh, start, gradients(3)), again)


def test_a_half_parameter_is_computed_in_float32_and_rounded_once():
    params = parameters(torch.bfloat16)
    optimizer = LearnedOptimizer(params, weights=network())
    whole = [param.detach().float().requires_grad_() for param in params]
    grads = gradients(1, torch.bfloat16)
    walk(optimizer, params, grads)
    walk(LearnedOptimizer(whole, weights=network()), whole, [[grad.float() for grad in grads[0]]])
    assert_same_path([params], [[param.bfloat16() for param in whole]])
    assert optimizer.state[params[0]]["c1"].dtype == torch.float32


def test_parameters_of_several_dtypes_go_side_by_side():
    weights = network()
    dtypes = (torch.float32, torch.float64, torch.bfloat16)
    params = [param for dtype in dtypes for param in parameters(dtype)]
    optimizer = LearnedOptimizer(params, weights=weights)
    grads = [[*a, *b, *c] for a, b, c in zip(*(gradients(2, d) for d in dtypes), strict=True)]
    path = walk(optimizer, params, grads)
    alone = parameters()
    assert_same_path([step[5:10] for step in path], walk(LearnedOptimizer(alone, weights=weights), alone, gradients(2)))


def test_a_parameter_that_changes_its_dtype_takes_its_state_along():
    model = nn.Linear(3, 2)
    optimizer = LearnedOptimizer(model.parameters(), weights=network())
    twin = copy.deepcopy(model).double()
    other = LearnedOptimizer(twin.parameters(), weights=network())
    for step in range(4):
        if step == 2:
            model.double()
        for m, o in ((model, optimizer), (twin, other)):
            o.zero_grad()
            (m(torch.ones(3, dtype=m.weight.dtype)) ** 2).sum().backward()
            o.step()
    torch.testing.assert_close(model.weight, twin.weight, rtol=1e-5, atol=1e-6)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_it_takes_the_same_steps_and_resumes_on_the_cpu():
    here, there = parameters(), [param.detach().cuda().requires_grad_() for param in parameters()]
    optimizer, gpu = (LearnedOptimizer(params, weights=network()) for params in (here, there))
    path = walk(optimizer, here, gradients(4))
    assert_same_path(walk(gpu, there, [[g.cuda() for g in step] for step in gradients(4)])[-1:], path[-1:], **GPU)
    back = LearnedOptimizer(here, weights=network())
    back.load_state_dict(gpu.state_dict())
    torch.testing.assert_close(back.state_dict(), optimizer.state_dict(), rtol=1e-9, atol=1e-12)


GPU = {"rtol": 1e-9, "atol": 1e-12, "check_device": False}


def test_neither_random_numbers_nor_a_graph():
    weights = network()
    before = torch.get_rng_state()
    params = parameters(torch.float32)
    optimizer = LearnedOptimizer(params, weights=weights)
    walk(optimizer, params, gradients(3, torch.float32))
    optimizer.load_state_dict(optimizer.state_dict())
    copy.deepcopy(optimizer)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(param.requires_grad and param.is_leaf for param in params)
    held = [*optimizer.weights.network.parameters(), *(v for s in optimizer.state.values() for v in s.values())]
    assert not any(value.requires_grad for value in held)


def test_gradients_stay_and_the_networks_later_changes_do_not_matter():
    weights = network()
    params, others = parameters(), parameters()
    optimizer, same = LearnedOptimizer(params, weights=weights), LearnedOptimizer(others, weights=weights)
    with torch.no_grad():
        weights.output.bias.add_(1)
    grads = gradients(1)[0]
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad
    kept = [grad.clone() for grad in grads]
    optimizer.step()
    assert all(map(torch.equal, grads, kept))
    assert_same_path([params], walk(same, others, [grads]))
    assert torch.equal(optimizer.weights.network.output.bias, network().output.bias)


def test_a_closure_is_evaluated_with_gradients():
    param = torch.ones(3, requires_grad=True)
    optimizer = LearnedOptimizer([param], weights=network())

    def closure():
        optimizer.zero_grad()
        loss = (param**2).sum()
        loss.backward()
        return loss

    before = param.detach().clone()
    assert optimizer.step(closure).item() == 3
    assert not torch.equal(param, before)
    assert optimizer.step() is None


def test_nan_and_infinite_gradients_stay_in_their_coordinate():
    params, clean = parameters(), parameters()
    grads, others = gradients(4), gradients(4)
    grads[1][0][1, 2] = math.nan
    grads[1][1][3] = math.inf
    grads[2][1][4] = -math.inf
    path = walk(LearnedOptimizer(params, weights=network()), params, grads)
    expected = walk(LearnedOptimizer(clean, weights=network()), clean, others)
    for step in range(4):
        touched = [torch.zeros(shape, dtype=torch.bool) for shape in SHAPES]
        touched[0][1, 2] = step >= 1
        touched[1][3] = step >= 1
        touched[1][4] = step >= 2
        for value, other, bad in zip(path[step], expected[step], touched, strict=True):
            assert torch.equal(value[~bad], other[~bad])
    assert path[1][0][1, 2].isnan()
    assert path[3][0][1, 2].isnan()
    assert path[3][1].isfinite().all(), "an infinite gradient is one that is very large"
    bound = 0.1 * (network().output.weight.abs().sum() + network().output.bias.abs())
    assert (path[1][1][3] - path[0][1][3]).abs() <= bound


def test_what_is_refused():
    dense, sparse = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    optimizer = LearnedOptimizer([dense, sparse], weights=network())
    dense.grad, sparse.grad = torch.ones(3), torch.ones(3).to_sparse()
    with pytest.raises(BadArgument, match="l2o found a sparse gradient; make it dense"):
        optimizer.step()
    assert torch.equal(dense.detach(), torch.ones(3))
    with pytest.raises(BadArgument, match=r"a parameter group has lr = 0\.1; leave it out"):
        optimizer.add_param_group({"params": [torch.ones(1, requires_grad=True)], "lr": 0.1})
    with pytest.raises(BadArgument, match="a parameter is complex"):
        optimizer.add_param_group({"params": [torch.ones(1, dtype=torch.complex64, requires_grad=True)]})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({**optimizer.param_groups[0], "params": [torch.ones(1, requires_grad=True)]})


def test_a_state_of_another_optimizer_is_refused():
    params = parameters()
    optimizer = LearnedOptimizer(params, weights=network())
    walk(optimizer, params, gradients(1))
    state = optimizer.state_dict()
    other = LearnedOptimizer(parameters(), weights=network(1))
    with pytest.raises(
        BadArgument, match=r"the state is of an optimizer with the weights in memory .*; give it the same"
    ):
        other.load_state_dict(state)
    with pytest.raises(BadArgument, match="the state is of an optimizer with the weights of another kind"):
        optimizer.load_state_dict(torch.optim.Adam(parameters()).state_dict())
    state["state"][0]["c1"] = state["state"][0]["c1"][:3]
    with pytest.raises(BadArgument, match=r"the state is of other parameters: c1 is \(3, 20\), needed \(12, 20\)"):
        optimizer.load_state_dict(state)
    del state["state"][0]["c1"]
    with pytest.raises(BadArgument, match="c1 is missing"):
        optimizer.load_state_dict(state)
    assert_same_path(walk(optimizer, params, gradients(2)), walk_after_one(2))


def walk_after_one(n_steps):
    params = parameters()
    optimizer = LearnedOptimizer(params, weights=network())
    walk(optimizer, params, gradients(1))
    return walk(optimizer, params, gradients(n_steps))
