"""The logged scalars, as they were logged."""

import math

import metric_runs as runs
import pytest
import torch

from trajectory_tools.metrics import analyze, compute
from trajectory_tools.recorder import Recorder
from trajectory_tools.run import open_run

SHAPES = {"w": (2,)}


def written(path, scalars, n=6, **options):
    return runs.write_run(path, *runs.walk(n, shapes=SHAPES), steps=range(n), symmetries=[], scalars=scalars, **options)


def test_nan_stays_and_what_was_not_logged_is_left_out(tmp_path):
    losses = [1.0, math.nan, None, math.inf, -math.inf, 0.0]
    rows = [
        {"loss": loss, "lr": 0.1 * step, **({"Größe 'x'": step / 2} if step % 2 else {}), "never": None}
        for step, loss in enumerate(losses)
    ]
    frame = compute(written(tmp_path / "r", lambda step: rows[step], parts=3), "loss")
    assert list(frame) == ["run", "label", "seed", "step", "quantity", "value", "low", "high", "n"]
    assert set(frame["quantity"]) == {"loss", "lr", "Größe 'x'"}
    loss = runs.series(frame, quantity="loss")
    assert loss.index.tolist() == [0, 1, 3, 4, 5]
    assert loss.tolist() == pytest.approx([1, math.nan, math.inf, -math.inf, 0], nan_ok=True)
    assert runs.series(frame, quantity="lr").tolist() == [0.1 * step for step in range(6)]
    logged = runs.series(frame, quantity="Größe 'x'")
    assert dict(logged) == {1: 0.5, 3: 1.5, 5: 2.5}
    assert frame[["low", "high"]].isna().all(axis=None)
    assert (frame["n"] == 1).all()


def test_the_loss_of_a_training_is_the_one_that_was_logged(tmp_path):
    w = torch.nn.Parameter(torch.tensor([2.0]))
    groups = [{"params": [w], "lr": 0.1}, {"params": [torch.nn.Parameter(torch.ones(()))], "lr": 0.2}]
    optimizer = torch.optim.SGD(groups)
    logged = []
    with Recorder(tmp_path / "r", None, optimizer, every=4) as recorder:
        for step in range(6):
            optimizer.zero_grad()
            loss = (w**2).sum()
            loss.backward()
            optimizer.step()
            if step != 2:
                logged.append(loss.item())
                recorder.log(loss=loss, accuracy=step / 10)
    frame = compute(open_run(tmp_path / "r"), "loss")
    assert runs.series(frame, quantity="loss").to_dict() == dict(zip([0, 1, 3, 4, 5], logged, strict=True))
    assert runs.series(frame, quantity="accuracy").index.tolist() == [0, 1, 3, 4, 5]
    assert runs.series(frame, quantity="lr").tolist() == [0.1] * 6
    assert runs.series(frame, quantity="lr_group1").tolist() == [0.2] * 6


def test_of_overlapping_sessions_the_later_one_counts(tmp_path):
    written(tmp_path / "r", lambda step: {"loss": float(step), "old": 1.0})
    run = runs.write_run(
        tmp_path / "r",
        *runs.walk(4, shapes=SHAPES),
        steps=range(3, 7),
        symmetries=[],
        scalars=lambda step: {"loss": 100.0 + step},
        if_exists="resume",
    )
    frame = compute(run, "loss")
    assert runs.series(frame, quantity="loss").to_dict() == {
        **{s: s for s in range(3)},
        **{s: 100 + s for s in range(3, 7)},
    }
    assert runs.series(frame, quantity="old").index.tolist() == [0, 1, 2]


def test_nothing_logged_is_said(tmp_path, adam):
    nothing = written(tmp_path / "r", lambda step: {"lr": None, "loss": None})
    analysis = analyze([nothing, adam], ["loss"], saved=False)["loss"]
    assert set(analysis.frame["run"]) == {adam.name}
    assert list(analysis.skipped) == [nothing.name]
    assert "nothing" in analysis.skipped[nothing.name]
    empty = written(tmp_path / "e", None, n=0)
    assert analyze(empty, ["loss"], saved=False)["loss"].skipped == {empty.name: "no step was recorded"}
