"""Probes: what they find, and that the training is to the bit what it is without them."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from trajectory_tools.errors import BadArgument
from trajectory_tools.l2o.network import CoordinatewiseLSTM
from trajectory_tools.l2o.optimizer import LearnedOptimizer
from trajectory_tools.optimizers import make_optimizer
from trajectory_tools.recorder import Recorder, room
from trajectory_tools.recorder.buffers import Buffers
from trajectory_tools.recorder.flat_space import FlatSpace
from trajectory_tools.recorder.names import Named
from trajectory_tools.recorder.probe_updates import Updates
from trajectory_tools.recorder.snapshot import untouched
from trajectory_tools.run import open_run


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


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_other_dtypes(tmp_path, name, dtype):
    model = network(norm=False, dtype=dtype).eval()
    optimizer = OPTIMIZERS[name](model.parameters())
    probes = some_batches(3, seed=7, dtype=dtype)
    with Recorder(tmp_path / "run", model, optimizer) as recorder:
        loss_of(model)(probes[0]).backward()
        optimizer.step()
        recorder.probe(loss_of(model), probes, mode="eval")
        wanted = []
        for batch in probes:
            twin, own = copy.deepcopy((model, optimizer))
            own.zero_grad()
            loss_of(twin)(batch).backward()
            before = flat(p.float() if dtype == torch.bfloat16 else p for p in twin.parameters())
            type(own).step(own)
            wanted.append(flat(p.float() if dtype == torch.bfloat16 else p for p in twin.parameters()) - before)
    (found,) = open_run(tmp_path / "run").probe_sets()
    assert found.update.dtype == (np.float64 if dtype == torch.float64 else np.float32)
    tolerance = {"rtol": 0, "atol": 0} if dtype == torch.float64 else {"rtol": 0.01, "atol": 1e-4}
    np.testing.assert_allclose(found.update, np.stack(wanted), **tolerance)


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "counting"])  # which is random
def test_the_step_over_rows_is_to_the_bit_the_optimizers_own(name):
    """Also where parameters of two groups have different states, and some have no gradient."""
    torch.manual_seed(2)
    model = nn.ModuleList(nn.Linear(5, 4) for _ in range(4))
    optimizer = OPTIMIZERS[name](model.parameters())
    if len(optimizer.param_groups[0]["params"]) == 8 and name not in ("l2o", "counting"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.randn(()))], "lr": 0.02})
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for step in range(3):
        for i, p in enumerate(parameters):
            late = i in (6, 7) and "fused" not in name  # which torch's fused SGD cannot do
            p.grad = torch.randn_like(p) if not late or step == 2 else None
        optimizer.step()
    space = FlatSpace([Named(str(i), p) for i, p in enumerate(parameters)], Buffers())
    with untouched(optimizer, [model]) as snapshot:
        for absent in ((), (0, 3)):
            stacked = [None if i in absent else torch.randn(6, *p.shape) for i, p in enumerate(parameters)]
            rows = space.rows_of_stack(stacked, 6)
            updates = Updates(optimizer, snapshot, space)
            assert (updates.size > 1) == (name not in ONE_BY_ONE)
            updates.make(rows)
            assert (updates.size > 1) == (name not in ONE_BY_ONE)
            for i in range(6):
                one = space.rows_of([[None if g is None else g[i] for g in stacked]])
                own = Updates(optimizer, snapshot, space)
                own._row_step = None
                own.make(one)
                assert torch.equal(rows.updates[i], one.updates[0])


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


def test_single_samples_are_those_of_a_loop_and_their_mean_is_the_batchs(tmp_path):
    model = network(norm=False)
    model[2].p = 0.0
    optimizer = OPTIMIZERS["adam"](model.parameters())
    batches = some_batches(3, seed=4)
    with Recorder(tmp_path / "run", model, optimizer) as recorder:
        loss_of(model)(batches[0]).backward()
        optimizer.step()
        before = bits(model, optimizer)
        recorder.probe(loss_of(model), batches, samples=20)
        recorder.probe(loss_of(model), batches)
        assert_same(bits(model, optimizer), before)
        singles = [(x[None], y[None]) for batch in batches for x, y in zip(*batch, strict=True)][:20]
        grads, updates, mean_update = twins(model, optimizer, singles)
    found, mini_batches = open_run(tmp_path / "run").probe_sets()
    assert (found.step, found.batch_size, mini_batches.step, mini_batches.batch_size) == (1, 1, 1, 8)
    np.testing.assert_allclose(found.grad, grads, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.update, updates, rtol=1e-2, atol=1e-5)
    np.testing.assert_allclose(found.mean_update, mean_update, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(found.grad[:8].mean(0), mini_batches.grad[0], rtol=1e-4, atol=1e-6)


def test_surrogates_have_the_gradients_mean_and_covariance_and_go_through_the_optimizer(tmp_path):
    model = nn.Linear(2, 1)
    optimizer = OPTIMIZERS["adam"](model.parameters())
    batches = [torch.randn(4, 2) for _ in range(12)]
    with Recorder(tmp_path / "run", model, optimizer) as recorder:
        recorder.probe(lambda x: model(x).square().mean(), batches, surrogates=4000, seed=3)
        (twin, own), start = copy.deepcopy((model, optimizer)), copy.deepcopy(list(model.parameters()))
    (found,) = open_run(tmp_path / "run").probe_sets()
    covariance = np.cov(found.grad, rowvar=False)
    scale = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(found.surrogate_grad.mean(0), found.grad.mean(0), atol=5 * scale.max() / 4000**0.5)
    correlated = np.cov(found.surrogate_grad, rowvar=False)
    assert np.abs((correlated - covariance) / np.outer(scale, scale)).max() < 0.1  # 5 standard errors or so
    for i in (0, 1, 3999):
        twin.load_state_dict(
            {k: v.clone() for k, v in zip(twin.state_dict(), map(torch.Tensor.detach, start), strict=True)}
        )
        fresh = type(own)(twin.parameters(), lr=0.01)
        shaped(found.surrogate_grad[i], twin)
        np.testing.assert_array_equal(found.surrogate_update[i], step_of(twin, fresh))


def test_a_sketch_is_some_of_the_coordinates_and_the_products_of_all(tmp_path):
    model = network()
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    batches = some_batches(6, seed=4)
    for name, options in {"whole": {}, "sketch": {"sketch": 20, "seed": 3}}.items():
        torch.manual_seed(0)
        with Recorder(tmp_path / name, model, optimizer) as recorder:
            recorder.probe(loss_of(model), batches, surrogates=2, **options)
    (whole,) = open_run(tmp_path / "whole").probe_sets()
    run = open_run(tmp_path / "sketch")
    (sketch,) = run.probe_sets()
    assert (sketch.n_values, sketch.grad.shape) == (whole.n_values, (6, 20))
    rows = run.query("SELECT name, coordinates FROM probes WHERE source = 'mean'")
    chosen = np.concatenate([whole.spans[n].start + np.asarray(c, int) for n, c in rows.itertuples(index=False)])
    assert len(set(chosen.tolist())) == 20
    for column in ("grad", "update", "mean_update"):
        np.testing.assert_array_equal(getattr(sketch, column), getattr(whole, column)[..., chosen])
    assert sketch.surrogate_update.shape == (2, 20)
    assert {name: s.stop - s.start for name, s in sketch.spans.items()} == {
        name: len(c) for name, c in rows.itertuples(index=False)
    }
    g, u, m = (getattr(whole, column).astype(np.float64) for column in ("grad", "update", "mean_update"))
    for name, exact in {
        "grad·grad": g @ g.T,
        "update·update": u @ u.T,
        "update·grad": u @ g.T,
        "mean_update·update": u @ m,
        "mean_update·grad": g @ m,
        "mean_update·mean_update": m @ m,
    }.items():
        np.testing.assert_allclose(sketch.products[name], exact, rtol=1e-12, atol=1e-15)
        assert sketch.products[name].shape == exact.shape


def test_gradients_that_are_none_are_null_and_count_as_zero(tmp_path):
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right, self.frozen = nn.Linear(2, 1), nn.Linear(2, 1), nn.Linear(1, 1)
            self.frozen.requires_grad_(False)

        def forward(self, x, side):
            return getattr(self, side)(x)

    model = Branches()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    batches = [(torch.ones(2, 2), "left"), (torch.ones(2, 2), "right"), (2 * torch.ones(2, 2), "left")]
    with Recorder(tmp_path / "run", model, optimizer) as recorder:
        recorder.probe(lambda batch: model(*batch).sum(), batches, sketch=7)
        optimizer.step()
        recorder.probe(lambda batch: model(*batch).sum(), batches)
    run = open_run(tmp_path / "run")
    _, found = run.probe_sets()
    left, right, frozen = (found.grad[:, found.spans[f"{side}.weight"]] for side in ("left", "right", "frozen"))
    assert left.tolist() == [[2, 2], [0, 0], [4, 4]]
    assert right.tolist() == [[0, 0], [2, 2], [0, 0]]
    assert frozen.tolist() == [[0], [0], [0]]
    np.testing.assert_allclose(found.update, -found.grad, rtol=1e-6)
    np.testing.assert_allclose(found.mean_update, -found.grad.mean(0), rtol=1e-6)
    null = run.query("SELECT count(*) n FROM probes WHERE step = 1 AND grad IS NULL AND source = 'batch'")["n"][0]
    assert null == 3 * 2 + 1 * 2 + 2 * 2  # frozen, left, right: weight and bias


def test_sparse_gradients(tmp_path):
    model = nn.Embedding(5, 2, sparse=True)
    optimizer = torch.optim.SparseAdam(model.parameters(), lr=0.1)
    batches = [torch.tensor([0, 1]), torch.tensor([1, 3])]
    with Recorder(tmp_path / "run", model, optimizer) as recorder:
        recorder.probe(lambda batch: model(batch).sum(), batches, surrogates=2)
    (found,) = open_run(tmp_path / "run").probe_sets()
    moved = found.update.reshape(2, 5, 2)[..., 0] != 0
    assert moved.tolist() == [[True, True, False, False, False], [False, True, False, True, False]]
    assert (found.mean_update.reshape(5, 2)[:, 0] != 0).tolist() == [True, True, False, True, False]


def test_prepare_does_to_gradients_what_the_loop_does(tmp_path):
    model = network(norm=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with Recorder(tmp_path / "run", model, optimizer) as recorder:
        recorder.probe(
            loss_of(model),
            iter(some_batches(3, seed=1)),
            prepare=lambda: nn.utils.clip_grad_norm_(model.parameters(), 1e-3),
        )
    (found,) = open_run(tmp_path / "run").probe_sets()
    np.testing.assert_allclose(np.linalg.norm(found.grad, axis=1), 1e-3, rtol=1e-3)


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
        "K = 1": (loss, batches[:1], {}, "spread of 1 mini-batch"),
        "none": (loss, [], {}, "spread of 0"),
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
        "sketch": (loss, batches, {"sketch": 10**6}, "sketch of 1,000,000"),
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
        with pytest.raises(ZeroDivisionError):
            recorder.probe(lambda batch: 1 / 0, batches, batch_size=5)
        recorder.probe(loss_of(model), batches, batch_size=6)
    assert [found.batch_size for found in open_run(tmp_path / "run").probe_sets()] == [8, 6]
    recorder.probe(loss_of(model), batches)  # after the end nothing is recorded, and nothing happens
    with pytest.raises(BadArgument, match="before recording begins"):
        Recorder(tmp_path / "early", model, optimizer).probe(loss_of(model), batches)


def test_free_memory_is_known_on_linux():
    assert room.free_memory() is None or room.free_memory() > 0
