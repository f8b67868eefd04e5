"""Stats of small networks, whose steps are measured some at a time: each step's numbers are that step's own."""

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
