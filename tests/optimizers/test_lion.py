"""Lion and Lion-SGD against independent twins, and as torch optimizers."""

import copy
import io
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from walking import assert_same_path, walk

from trajectory_tools.errors import BadArgument
from trajectory_tools.optimizers.lion import Lion
from trajectory_tools.optimizers.lion_sgd import LionSGD

SHAPES = [(3, 4), (5,), (), (0,)]
OPTIMIZERS = [
    (Lion, {"lr": 0.01, "weight_decay": 0.1}),
    (LionSGD, {"lr": 0.1, "lion_lr": 0.01, "momentum": 0.9, "mix": 0.3, "weight_decay": 0.1}),
    (LionSGD, {"lr": 0.1, "lion_lr": 0.01, "momentum": 0.9, "nesterov": True, "mix": 0.7}),
]
ids = [f"{cls.__name__}-{index}" for index, (cls, _) in enumerate(OPTIMIZERS)]


def parameters(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in SHAPES]


def gradients(n_steps, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return [[torch.randn(shape, generator=generator, dtype=dtype) for shape in SHAPES] for _ in range(n_steps)]


def lion_twin(theta, grads, *, lr, betas, decay):
    """Algorithm 2 as printed, number by number."""
    theta, m = list(theta), [0.0] * len(theta)
    for grad in grads:
        for i, g in enumerate(grad):
            c = betas[0] * m[i] + (1 - betas[0]) * g
            theta[i] -= lr * (float(np.sign(c)) + decay * theta[i])
            m[i] = betas[1] * m[i] + (1 - betas[1]) * g
    return theta


def lion_sgd_twin(theta, grads, *, lr, momentum, nesterov, lion_lr, betas, mix, decay):
    theta, m, b = np.array(theta), np.zeros(len(theta)), None
    for g in map(np.array, grads):
        lion = -lion_lr * (np.sign(betas[0] * m + (1 - betas[0]) * g) + decay * theta)
        m = betas[1] * m + (1 - betas[1]) * g
        d = g + decay * theta
        b = d if b is None else momentum * b + d
        sgd = -lr * (d + momentum * b if nesterov else b)
        theta = theta + (1 - mix) * sgd + mix * lion
    return theta


numbers = st.floats(-3, 3).map(lambda x: round(x, 3))
runs = st.integers(1, 4).flatmap(
    lambda n: st.tuples(
        st.lists(numbers, min_size=n, max_size=n),
        st.lists(st.lists(numbers, min_size=n, max_size=n), min_size=1, max_size=6),
    )
)


def run_torch(cls, theta, grads, **options):
    param = torch.tensor(theta, dtype=torch.float64, requires_grad=True)
    walk(cls([param], **options), [param], [[torch.tensor(grad, dtype=torch.float64)] for grad in grads])
    return param.detach().numpy()


@given(
    run=runs, lr=st.floats(0, 1), decay=st.floats(0, 1), betas=st.sampled_from([(0.9, 0.99), (0.5, 0.25), (0.0, 0.7)])
)
def test_lion_is_algorithm_2(run, lr, decay, betas):
    theta, grads = run
    assume(not near_tie(grads, betas))
    got = run_torch(Lion, theta, grads, lr=lr, betas=betas, weight_decay=decay)
    np.testing.assert_allclose(got, lion_twin(theta, grads, lr=lr, betas=betas, decay=decay), rtol=1e-12, atol=1e-12)


@given(
    run=runs,
    lr=st.floats(0, 1),
    lion_lr=st.floats(0, 1),
    momentum=st.sampled_from([0.0, 0.5, 0.9]),
    nesterov=st.booleans(),
    mix=st.floats(0, 1),
    decay=st.sampled_from([0.0, 0.1]),
)
def test_lion_sgd_is_the_mixture(*, run, lr, lion_lr, momentum, nesterov, mix, decay):
    theta, grads = run
    betas = (0.9, 0.99)
    assume(not near_tie(grads, betas))
    options = {"lr": lr, "momentum": momentum, "nesterov": nesterov and momentum > 0, "lion_lr": lion_lr, "mix": mix}
    got = run_torch(LionSGD, theta, grads, betas=betas, weight_decay=decay, **options)
    expected = lion_sgd_twin(theta, grads, betas=betas, decay=decay, **options)
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-10)


def near_tie(grads, betas):
    """Whether some c is within rounding of 0 without being 0, where sign(c) is a matter of luck."""
    m = np.zeros(len(grads[0]))
    for g in map(np.array, grads):
        c = betas[0] * m + (1 - betas[0]) * g
        if ((np.abs(c) < 1e-12) & ((m != 0) | (g != 0))).any():
            return True
        m = betas[1] * m + (1 - betas[1]) * g
    return False


def test_two_steps_of_lion_by_hand():
    # m: 0 → 0.01·2 = 0.02; c₂ = 0.9·0.02 − 0.1·0.1 = 0.008 > 0, so the second step still follows the first gradient.
    assert run_torch(Lion, [1.0], [[2.0], [-0.1]], lr=0.1, betas=(0.9, 0.99)) == pytest.approx([0.8])
    assert run_torch(Lion, [1.0], [[2.0], [-0.3]], lr=0.1, betas=(0.9, 0.99)) == pytest.approx([1.0])
    assert run_torch(Lion, [1.0], [[0.0]], lr=0.1, weight_decay=0.5) == pytest.approx([0.95])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "options",
    [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}, {"momentum": 0.9, "weight_decay": 0.1}],
)
def test_without_lion_it_is_torchs_sgd_to_the_bit(options, dtype):
    ours, torchs = parameters(dtype), parameters(dtype)
    grads = gradients(20, dtype)
    path = walk(LionSGD(ours, lr=0.1, mix=0, **options), ours, grads)
    assert_same_path(path, walk(torch.optim.SGD(torchs, lr=0.1, foreach=False, **options), torchs, grads))


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_without_sgd_it_is_lion_to_the_bit(decay):
    ours, lions = parameters(torch.float32), parameters(torch.float32)
    grads = gradients(20, torch.float32)
    path = walk(LionSGD(ours, lion_lr=0.01, lr=5, momentum=0.9, mix=1, weight_decay=decay), ours, grads)
    assert_same_path(path, walk(Lion(lions, lr=0.01, weight_decay=decay), lions, grads))


@pytest.mark.parametrize("mix", [0.0, 0.25, 0.8, 1.0])
def test_the_first_update_is_linear_in_lambda(mix):
    def first_update(share):
        params = parameters()
        before = [param.detach().clone() for param in params]
        options = {"lr": 0.1, "lion_lr": 0.02, "momentum": 0.9, "weight_decay": 0.3}
        (after,) = walk(LionSGD(params, mix=share, **options), params, gradients(1))
        return [new - old for new, old in zip(after, before, strict=True)]

    expected = [(1 - mix) * sgd + mix * lion for sgd, lion in zip(first_update(0), first_update(1), strict=True)]
    assert_same_path([first_update(mix)], [expected], rtol=1e-12, atol=1e-14)


def test_both_states_are_kept_whatever_lambda_is():
    """λ may change along the way: the states have seen every gradient."""
    params, lions, sgds = parameters(), parameters(), parameters()
    mixed = LionSGD(params, lr=0.1, momentum=0.9, lion_lr=0.01, mix=0)
    lion, sgd = Lion(lions, lr=0.01), torch.optim.SGD(sgds, lr=0.1, momentum=0.9)
    walk(mixed, params, gradients(5))
    mixed.param_groups[0]["mix"] = 1.0
    walk(mixed, params, gradients(5))
    for optimizer, theirs in ((lion, lions), (sgd, sgds)):
        walk(optimizer, theirs, gradients(5) + gradients(5))
    for param, p_lion, p_sgd in zip(params, lions, sgds, strict=True):
        torch.testing.assert_close(mixed.state[param]["exp_avg"], lion.state[p_lion]["exp_avg"])
        torch.testing.assert_close(mixed.state[param]["momentum_buffer"], sgd.state[p_sgd]["momentum_buffer"])


@pytest.mark.parametrize(("cls", "options"), OPTIMIZERS, ids=ids)
def test_a_resumed_run_is_the_same_to_the_bit(cls, options):
    params, resumed = parameters(torch.float32), parameters(torch.float32)
    grads = gradients(12, torch.float32)
    optimizer = cls(params, **options)
    walk(optimizer, params, grads[:5])
    file = io.BytesIO()
    torch.save([params, optimizer.state_dict()], file)
    expected = walk(optimizer, params, grads[5:])

    file.seek(0)
    values, state = torch.load(file, weights_only=True)
    fresh = cls(resumed)  # with other options, which the state replaces
    with torch.no_grad():
        for param, value in zip(resumed, values, strict=True):
            param.copy_(value)
    fresh.load_state_dict(state)
    assert_same_path(walk(fresh, resumed, grads[5:]), expected)
    assert {k: v for k, v in fresh.param_groups[0].items() if k in options} == options


@pytest.mark.parametrize(("cls", "options"), OPTIMIZERS, ids=ids)
def test_a_copy_goes_its_own_way(cls, options):
    params = parameters()
    optimizer = cls(params, **options)
    walk(optimizer, params, gradients(2))
    twin_params, twin = copy.deepcopy((params, optimizer))
    assert_same_path(walk(twin, twin_params, gradients(3)), walk(optimizer, params, gradients(3)))


@pytest.mark.parametrize(("cls", "options"), OPTIMIZERS, ids=ids)
def test_groups_have_options_of_their_own(cls, options):
    params, alone = parameters(), parameters()
    grads = gradients(6)
    other = {"lr": 0.5, "betas": (0.5, 0.6), "weight_decay": 0.0}
    optimizer = cls([{"params": params[:1]}, {"params": params[1:], **other}], **options)
    path = walk(optimizer, params, grads)
    first = walk(cls(alone[:1], **options), alone[:1], [step[:1] for step in grads])
    rest = walk(cls(alone[1:], **{**options, **other}), alone[1:], [step[1:] for step in grads])
    assert_same_path(path, [a + b for a, b in zip(first, rest, strict=True)])


@pytest.mark.parametrize(("cls", "options"), OPTIMIZERS, ids=ids)
def test_gradients_are_left_alone_and_none_is_skipped(cls, options):
    params = parameters()
    optimizer = cls(params, **options)
    for _ in range(3):
        grads = gradients(1)[0]
        for param, grad in zip(params[1:], grads[1:], strict=True):
            param.grad = grad
        kept, first = [grad.clone() for grad in grads], params[0].detach().clone()
        optimizer.step()
        assert all(map(torch.equal, grads, kept))
        assert torch.equal(params[0].detach(), first)
        assert params[0] not in optimizer.state


@pytest.mark.parametrize(("cls", "options"), OPTIMIZERS, ids=ids)
def test_a_closure_is_evaluated_with_gradients(cls, options):
    param = torch.ones(3, requires_grad=True)
    optimizer = cls([param], **options)

    def closure():
        optimizer.zero_grad()
        loss = (param**2).sum()
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(5)]
    assert losses[0] == 3
    assert losses == sorted(losses, reverse=True)
    assert optimizer.step() is None


@pytest.mark.parametrize(("cls", "options"), OPTIMIZERS, ids=ids)
def test_a_sparse_gradient_is_refused_before_anything_moves(cls, options):
    dense, sparse = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    optimizer = cls([dense, sparse], **options)
    dense.grad, sparse.grad = torch.ones(3), torch.ones(3).to_sparse()
    with pytest.raises(BadArgument, match="found a sparse gradient; make it dense"):
        optimizer.step()
    assert torch.equal(dense.detach(), torch.ones(3))


def test_an_infinite_gradient_does_not_leak_through_a_share_of_zero():
    param = torch.ones(1, requires_grad=True)
    param.grad = torch.tensor([math.inf])
    LionSGD([param], lion_lr=0.1, mix=1).step()
    assert param.item() == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (Lion, {"lr": -1}, "lion: lr is -1; give a number at least 0"),
        (Lion, {"lr": math.nan}, "lion: lr is nan; give a number"),
        (
            Lion,
            {"betas": (0.9, 1.0)},
            r"lion: betas is \(0.9, 1.0\); give 2 numbers separated by commas, each at least 0",
        ),
        (Lion, {"betas": (0.9,)}, "give 2 numbers"),
        (Lion, {"weight_decay": -0.1}, "weight_decay is -0.1"),
        (LionSGD, {"mix": 1.5}, "lion-sgd: mix is 1.5; give a number from 0 to 1"),
        (LionSGD, {"nesterov": True}, "momentum is 0.0; nesterov needs a momentum above 0"),
        (LionSGD, {"lion_lr": "fast"}, "lion_lr is 'fast'; give a number"),
    ],
)
def test_bad_options_of_any_group(cls, options, message):
    params = parameters()
    with pytest.raises(BadArgument, match=message):
        cls(params, **options)
    optimizer = cls(params[:1])
    with pytest.raises(BadArgument, match=message):
        optimizer.add_param_group({"params": params[1:], **options})
    assert len(optimizer.param_groups) == 1


def test_schedulers_and_step_hooks_work():
    param = torch.ones(1, requires_grad=True)
    optimizer = Lion([param], lr=0.5)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    seen = []
    optimizer.register_step_post_hook(lambda *_: seen.append(param.item()))
    for _ in range(3):
        param.grad = torch.ones(1)
        optimizer.step()
        scheduler.step()
    assert seen == [0.5, 0.25, 0.125]
