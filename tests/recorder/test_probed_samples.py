"""What probes find is what naive twins find."""

import copy

import numpy as np
import pytest
import torch
from probing import (
    ONE_BY_ONE,
    OPTIMIZERS,
    assert_same,
    bits,
    flat,
    loss_of,
    network,
    shaped,
    some_batches,
    step_of,
    twins,
)
from torch import nn

from trajectory_tools.recorder import Recorder
from trajectory_tools.recorder.buffers import Buffers
from trajectory_tools.recorder.flat_space import FlatSpace
from trajectory_tools.recorder.names import Named
from trajectory_tools.recorder.probe_updates import Updates
from trajectory_tools.recorder.probes import in_rows
from trajectory_tools.recorder.snapshot import untouched
from trajectory_tools.run import open_run


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
            fewer = space.rows_of_stack([*stacked[:5], None, *stacked[6:]], 6)  # a stretch is shorter than before
            updates.make(fewer)
            for i in range(6):
                for found, left_out in ((rows, absent), (fewer, (*absent, 5))):
                    sample = [None if g is None or k in left_out else g[i] for k, g in enumerate(stacked)]
                    one = space.row_of(sample)
                    own = Updates(optimizer, snapshot, space)
                    own._row_step = None
                    own.make(one)
                    assert torch.equal(found.updates[i], one.updates[0])


def test_samples_whose_gradients_come_and_go_take_little_more_room_than_they_fill():
    parameters = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2))]
    space = FlatSpace([Named(str(i), p) for i, p in enumerate(parameters)], Buffers())
    there = [True] * 5 + [i % 2 == 0 for i in range(40)] + [True] * 50
    samples = [([torch.full((3,), float(i)), torch.ones(2) if has else None], None) for i, has in enumerate(there)]
    found, room = [], []
    for rows, gradients in in_rows(samples, space, lambda: 16):
        assert gradients is None
        room.append(rows.grads.untyped_storage().nbytes() / (2 * 4 * 5))
        found += rows.grads[:, 0].tolist()
        assert rows.grads.shape[1] == 3 + 2 * (rows.present is None)
    assert found == list(range(len(there)))
    assert sum(room) <= 16 + 2 * len(there)


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


def test_gradients_that_come_in_the_same_memory_for_every_mini_batch(tmp_path):
    model = network(norm=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    buffers = [torch.empty_like(p) for p in model.parameters()]

    def prepare():
        for p, buffer in zip(model.parameters(), buffers, strict=True):
            p.grad = buffer.copy_(p.grad)

    with Recorder(tmp_path / "run", model, optimizer) as recorder:
        recorder.probe(loss_of(model), some_batches(3, seed=1), prepare=prepare)
        optimizer.step()
        recorder.probe(loss_of(model), some_batches(3, seed=1))
    same_memory, fresh = open_run(tmp_path / "run").probe_sets()
    np.testing.assert_array_equal(same_memory.grad, fresh.grad)
