"""The numbers of every step against NumPy in float64, and that measuring changed nothing."""

import warnings

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn
from training import network, recorded, train

from trajectory_tools.recorder import Recorder
from trajectory_tools.recorder.capture import Capture
from trajectory_tools.recorder.host_capture import HostCapture
from trajectory_tools.recorder.names import Named
from trajectory_tools.recorder.one_pass import PIECE_VALUES
from trajectory_tools.run import open_run
from trajectory_tools.store.stats_rows import StatsBatch, joined_stats

KINDS = ("param", "grad", "update")


def wide(tensor):
    """Its values as float64, those of a complex tensor as real and imaginary parts."""
    tensor = tensor.detach().to_dense() if tensor.is_sparse else tensor.detach()
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return tensor.to(torch.float64).numpy().ravel()


def naive(values):
    """norm, min, max, zeros, nonfinite: in plain NumPy."""
    finite = values[np.isfinite(values)]
    extrema = (finite.min(), finite.max()) if finite.size else (None, None)
    with np.errstate(all="ignore"):
        norm = np.sqrt(np.sum(values * values))
    return (norm, *extrema, np.count_nonzero(values == 0), values.size - finite.size)


def row_of(frame, step, name, kind):
    row = frame[(frame["step"] == step) & (frame["name"] == name)].iloc[0]
    values = [row[f"{kind}_{stat}"] for stat in ("norm", "min", "max", "zeros", "nonfinite")]
    return [None if v is None or (i in (1, 2) and np.isnan(v)) else v for i, v in enumerate(values)]


def assert_is(found, expected, label):
    np.testing.assert_allclose(found[0], expected[0], rtol=2e-6, err_msg=label)
    assert [None if x is None else float(x) for x in found[1:]] == [
        None if x is None else float(x) for x in expected[1:]
    ], label


class Kinds(nn.Module):
    """Every kind of parameter; the large ones take several blocks."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)

        def normal(*shape, dtype=torch.float32):
            return nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype))

        self.small = normal(5)
        self.scalar = nn.Parameter(torch.tensor(0.0))
        self.empty = nn.Parameter(torch.empty(0, 3))
        self.singles_of_16 = normal(70, dtype=torch.float16)
        self.brains = normal(130_000, dtype=torch.bfloat16)
        self.large = normal(300, 300)
        self.strided = nn.Parameter(normal(3, 40_000).data.t())
        self.table = nn.Embedding(1000, 8, sparse=True)
        self.complexes = nn.Parameter(torch.view_as_complex(normal(6, 2).data))
        self.unused = normal(4)
        self.zeros = nn.Parameter(torch.zeros(7))


@pytest.mark.parametrize("doubles", [False, True])
@pytest.mark.parametrize("every", [1, 3])
def test_stats_are_those_of_numpy_whatever_the_parameter(tmp_path, every, doubles):
    model = Kinds()
    if doubles:
        model.doubles = nn.Parameter(torch.linspace(-1, 1, 99, dtype=torch.float64))
    named = dict(model.named_parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    seen = []
    with Recorder(tmp_path / "run", model, optimizer, every=every):
        for step in range(4):
            optimizer.zero_grad()
            for name, parameter in named.items():
                generator = torch.Generator().manual_seed(step)
                if name == "table.weight":
                    rows = torch.sparse_coo_tensor(
                        [[3, 3, 7]], torch.ones(3, 8), parameter.shape, check_invariants=False
                    )
                    parameter.grad = rows
                elif name != "unused" and not (name == "scalar" and step == 1):
                    noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                    parameter.grad = (noise * (noise > 0)).to(parameter.dtype)
            if step == 2:
                model.small.grad[1:3] = torch.tensor([float("nan"), float("inf")])
                model.large.grad[100, 5] = -float("inf")
                model.zeros.grad[:] = float("nan")
            before = {name: wide(p).copy() for name, p in named.items()}
            grads = {name: None if p.grad is None else wide(p.grad).copy() for name, p in named.items()}
            optimizer.step()
            after = {name: wide(p).copy() for name, p in named.items()}
            seen.append((before, grads, after))
    run = open_run(tmp_path / "run")
    frame = run.stats()
    assert len(frame) == 4 * len(named)
    assert run.steps.tolist() == list(range(0, 4, every))
    precise = np.float64 if doubles else np.float32
    for step, (before, grads, after) in enumerate(seen):
        for name in named:
            with np.errstate(all="ignore"):
                moved = (after[name].astype(precise) - before[name].astype(precise)).astype(float)
            for kind, values in zip(KINDS, (before[name], grads[name], moved), strict=True):
                found = row_of(frame, step, name, kind)
                if values is None:
                    row = frame[(frame["step"] == step) & (frame["name"] == name)]
                    assert row[[c for c in frame if c.startswith("grad_")]].isna().all(axis=None)
                else:
                    assert_is(found, naive(values), f"{kind} of {name} at {step}")


@pytest.mark.parametrize("values", [1e-30, 1e-22, 1e19, 3e38, -1e-40])
@pytest.mark.parametrize("size", [10, PIECE_VALUES + 10])
def test_squares_that_float32_cannot_hold(tmp_path, values, size):
    weight = nn.Parameter(torch.full((size,), values))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    with Recorder(tmp_path / "run", None, optimizer, save=[]):
        optimizer.step()
    frame = open_run(tmp_path / "run").stats()
    assert_is(row_of(frame, 0, "group0.0", "param"), naive(wide(weight)), "")


def captured(kind, model, step=0, **options):
    """What a capture makes of one step."""
    named = [Named(name, p) for name, p in model.named_parameters()]
    capture = kind(named, KINDS, stats=True, **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    capture.before(record=True)
    capture.gradients()
    optimizer.step()
    return capture.after(step)


def test_on_a_device_and_in_the_hosts_memory_the_same_is_found():
    """The code for devices runs here on the host's memory; what it copies asynchronously from CUDA is not tested."""
    found = {}
    for kind in (HostCapture, Capture):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(300, 400), nn.ReLU(), nn.Linear(400, 3))
        model(torch.randn(4, 300)).sum().backward()
        model[2].bias.grad = None
        model[0].weight.grad[0, :2] = torch.tensor([float("nan"), float("inf")])
        rows, stats = captured(kind, model)
        batch = StatsBatch(stats.layout)
        batch.add(stats)
        (make,) = batch.row_groups(batch.schema(None))
        found[kind] = rows, pa.table(make().numbers).to_pylist()
    (host, of_host), (device, of_device) = found.values()
    for column in KINDS:
        np.testing.assert_array_equal(host.values[column], device.values[column])
    assert host.present["grad"].tolist() == device.present["grad"].tolist() == [True, True, True, False]
    for one, other in zip(of_host, of_device, strict=True):
        for key, value in one.items():
            assert other[key] == (pytest.approx(value, rel=2e-6, nan_ok=True) if isinstance(value, float) else value)


def test_stats_of_several_optimizers_are_put_together_and_one_may_rest():
    torch.manual_seed(0)
    models = [nn.Linear(3, 2), nn.Linear(300, 300)]
    captures = [
        HostCapture([Named(f"{i}.{name}", p) for name, p in model.named_parameters()], KINDS, stats=True)
        for i, model in enumerate(models)
    ]
    models[0](torch.ones(3)).sum().backward()
    captures[0].before()
    captures[0].gradients()
    torch.optim.SGD(models[0].parameters(), lr=0.1).step()
    first, second = captures[0].after(4), captures[1].at_rest(4)
    assert second.rows.present["grad"].tolist() == [False, False]
    assert not second.rows.values["update"].any()
    stats = joined_stats(4, [first.stats, second.stats])
    assert joined_stats(5, [first.stats, second.stats]).layout is stats.layout
    batch = StatsBatch(stats.layout)
    batch.add(stats)
    (make,) = batch.row_groups(batch.schema(None))
    rows = {row["name"]: row for row in pa.table(make().numbers).to_pylist()}
    assert list(rows) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert rows["0.bias"]["grad_norm"] == pytest.approx(2**0.5)
    assert rows["1.weight"]["grad_norm"] is None
    assert rows["1.weight"]["update_zeros"] == 90_000
    assert rows["1.weight"]["param_norm"] == pytest.approx(np.linalg.norm(wide(models[1].weight)), rel=1e-6)


def test_an_update_of_infinities_is_no_warning(tmp_path):
    """Which would end the recording where warnings are errors."""
    weight = nn.Parameter(torch.full((4,), float("inf")))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    with warnings.catch_warnings(action="error"), Recorder(tmp_path / "run", None, optimizer, subsample=2) as recorder:
        for _ in range(3):
            weight.grad = torch.ones(4)
            optimizer.step()
            recorder.log(loss=0.0)
    assert open_run(tmp_path / "run").stats()["update_nonfinite"].tolist() == [4, 4, 4]


def test_gradients_that_are_given_may_be_flat(tmp_path):
    weight = nn.Parameter(torch.zeros(2, 3))
    recorder = Recorder(tmp_path / "run", [("w", weight)], None, save=[])
    with recorder, recorder.step(grads={"w": torch.arange(6.0)}):
        weight.data.add_(1)
    assert open_run(tmp_path / "run").stats()["grad_norm"].tolist() == pytest.approx([55**0.5])


def test_stats_can_be_turned_off(tmp_path):
    model = network()
    run, _ = recorded(tmp_path / "run", model, torch.optim.SGD(model.parameters(), lr=0.1), 3, stats=False)
    assert run.metadata["stats"] is False
    assert not (tmp_path / "run" / "stats").exists()
    assert run.stats().empty
    assert list(run.stats())[:3] == ["step", "name", "param_norm"]


def test_a_resumed_run_has_the_stats_of_the_later_session(tmp_path):
    model = network()
    for options in ({}, {"if_exists": "resume", "start_step": 2}):
        recorded(tmp_path / "run", model, torch.optim.SGD(model.parameters(), lr=0.1), 4, every=3, **options)
    run = open_run(tmp_path / "run")
    frame = run.stats()
    assert frame["step"].tolist() == [step for step in range(6) for _ in range(4)]
    last = frame[(frame["step"] == 3) & (frame["name"] == "0.weight")].iloc[0]
    weights = run.array("param", "0.weight", steps=3)
    assert last["param_norm"] == pytest.approx(np.linalg.norm(weights.astype(float)), rel=1e-6)


OPTIONS = [
    {"save": []},
    {"every": 3, "stats": True},
    {"match": "weight"},
    {"subsample": 0.3},
    {"projection": 4},
    {"subsample": 5, "match": "^0", "save": ["update"]},
    {"budget": "200kB", "steps": 8},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("size", ["small", "large"])
def test_no_option_changes_the_training(tmp_path, options, size):
    def build():
        if size == "small":
            return network()
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 9000), nn.Tanh(), nn.Linear(9000, 3))

    plain, watched = build(), build()
    optimizers = [torch.optim.Adam(m.parameters(), lr=0.01) for m in (plain, watched)]
    torch.manual_seed(7)
    train(plain, optimizers[0], 5)
    state = torch.get_rng_state()
    torch.manual_seed(7)
    numpy_state = np.random.get_state()[1].tolist()
    options = options | ({"budget": "20MB"} if size == "large" and "budget" in options else {})
    with Recorder(tmp_path / "run", watched, optimizers[1], **options) as recorder:
        train(watched, optimizers[1], 5, recorder=recorder)
    assert torch.equal(state, torch.get_rng_state())
    assert np.random.get_state()[1].tolist() == numpy_state
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), watched.parameters(), strict=True))


def test_a_buffer_is_used_again_only_when_its_step_is_written(tmp_path):
    """Many large steps through a short queue: each must hold what happened then."""
    weight = nn.Parameter(torch.zeros(400_000))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    with Recorder(tmp_path / "run", None, optimizer, queue_bytes=12_000_000, compression="none"):
        for step in range(12):
            weight.grad = torch.full_like(weight, float(-step))
            optimizer.step()
    run = open_run(tmp_path / "run")
    for column, expected in (("update", np.arange(12)), ("param", np.cumsum(np.arange(12)) - np.arange(12))):
        values = run.array(column, "group0.0")
        assert (values == expected[:, None]).all()
