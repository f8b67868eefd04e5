"""Stats of small networks, whose steps are measured some at a time: each step's numbers are that step's own."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from trajectory_tools.recorder import Recorder
from trajectory_tools.recorder.names import Named
from trajectory_tools.recorder.slab_capture import MAX_STEPS, SlabCapture
from trajectory_tools.run import open_run

STEPS = 2 * MAX_STEPS + 5  # the last ones are measured because the recording ends


def naive(values):
    """One tensor's numbers, in NumPy's plain words."""
    wide = values.numpy().astype(np.float64).ravel()
    finite = wide[np.isfinite(wide)]
    return [np.linalg.norm(wide), finite.min(), finite.max(), (wide == 0).sum(), (~np.isfinite(wide)).sum()]


@pytest.mark.parametrize("options", [{"save": []}, {"every": 7}, {"subsample": 0.5, "every": 3}], ids=str)
def test_each_step_has_its_own_numbers(tmp_path, options):
    torch.manual_seed(0)
    model = nn.Linear(6, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
    expected, moved = [], {}
    with Recorder(tmp_path / "run", model, optimizer, **options) as recorder:
        for step in range(STEPS):
            optimizer.zero_grad()
            model(torch.randn(3, 6).relu()).square().sum().backward()
            if step % 5 == 3:  # gradients come and go, such that the slab changes, with θ_t already in it
                model.bias.grad = None
            if step == MAX_STEPS:
                model.weight.grad[0, 0] = float("nan")
            before = [p.detach().clone() for p in model.parameters()]
            optimizer.step()
            after = [p.detach().clone() for p in model.parameters()]
            for p, old, new in zip(model.parameters(), before, after, strict=True):
                expected.append((old, None if p.grad is None else p.grad.clone(), new - old))
            moved[step] = (after[1] - before[1]).numpy()
            if step == MAX_STEPS:  # trained on without the NaN
                torch.nn.init.ones_(model.weight)
                optimizer.state.clear()
            recorder.log(loss=0.0)
    run = open_run(tmp_path / "run")
    rows = run.stats().to_dict("records")
    assert [row["name"] for row in rows] == ["weight", "bias"] * STEPS
    for row, values in zip(rows, expected, strict=True):
        for kind, found in zip(("param", "grad", "update"), values, strict=True):
            numbers = [row[f"{kind}_{stat}"] for stat in ("norm", "min", "max", "zeros", "nonfinite")]
            if found is None:
                assert pd.isna(numbers).all()
            else:
                assert numbers == pytest.approx(naive(found), rel=2e-6, nan_ok=True)
    if "every" in options:
        places = run.coordinates("bias") if "subsample" in options else slice(None)
        for found, step in zip(run.array("update", "bias"), range(0, STEPS, options["every"]), strict=True):
            np.testing.assert_array_equal(found.ravel(), moved[step][places])


def test_numbers_may_be_asked_for_before_the_slab_is_full():
    weight = nn.Parameter(torch.zeros(3))
    capture = SlabCapture([Named("w", weight)], [], stats=True)

    def step(to):
        capture.before(record=False)
        weight.grad = torch.full((3,), to)
        capture.gradients()
        with torch.no_grad():
            weight.fill_(to)
        return capture.after(0).stats

    made = [step(float(to)) for to in range(1, 4)]
    made[0].ready()  # as the writer does when a part has become old
    made += [step(float(to)) for to in range(4, MAX_STEPS + 3)]
    for stats in made:
        stats.ready()
    largest = np.array([stats.pieces[2] for stats in made])  # of param, update and gradient
    to = np.arange(1.0, MAX_STEPS + 3)
    np.testing.assert_array_equal(largest, np.stack([to - 1, np.ones_like(to), to], axis=1))


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


def test_gradients_that_come_and_go_at_every_step_take_no_more_memory():
    weights = [nn.Parameter(torch.zeros(50)) for _ in range(12)]
    capture = SlabCapture([Named(str(i), weight) for i, weight in enumerate(weights)], [], stats=True)
    slab, rng = capture._slab, np.random.default_rng(0)
    for step in range(3 * MAX_STEPS):
        there = rng.random(12) < 0.5
        capture.before(record=False)
        for weight, has in zip(weights, there, strict=True):
            weight.grad = torch.full((50,), float(step)) if has else None
        capture.gradients()
        stats = capture.after(step).stats
        stats.ready()
        assert stats.layout.grads.tolist() == there.tolist()
        np.testing.assert_array_equal(stats.pieces[2, 24:], step)
    assert capture._slab is slab
    assert len(capture._places) == len(slab)
    assert len(capture._grad_places) <= len(slab)
