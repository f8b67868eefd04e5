"""What the loop logs, and what the recorder writes beside it: each value in the row of its own step."""

import numpy as np
import pytest
import torch
from training import backward, batches, network, sgd, train

from trajectory_tools.errors import BadArgument
from trajectory_tools.recorder import Recorder
from trajectory_tools.run import open_run


def test_log_on_either_side_of_the_step_lands_in_its_row(tmp_path):
    for side in ("before", "after"):
        model = network()
        optimizer = sgd(model)
        with Recorder(tmp_path / side, model, optimizer) as recorder:
            for i, batch in enumerate(batches(5)):
                backward(model, batch)
                if side == "before":
                    recorder.log(i=i, loss=torch.tensor(float(i)))
                optimizer.step()
                if side == "after":
                    recorder.log(i=i, loss=np.float32(i))
                if i == 3:
                    recorder.log(late=torch.tensor([[7]]))
        scalars = open_run(tmp_path / side).scalars()
        assert scalars["step"].tolist() == scalars["i"].tolist() == scalars["loss"].tolist() == [0, 1, 2, 3, 4]
        assert scalars["late"].isna().tolist() == [True, True, True, False, True]


def test_what_cannot_be_logged_is_refused_and_nothing_of_it_kept(tmp_path):
    model = network()
    optimizer = sgd(model)
    with Recorder(tmp_path / "run", model, optimizer) as recorder:
        optimizer.step()
        for values, words in (
            ({"a": 1, "b": "many"}, "'b': a number is needed, found str"),
            ({"a": 1, "b": torch.ones(3)}, r"'b'.*shape \(3,\)"),
            ({"a": 1, "b": None}, "'b'"),
            ({"a": 1, "step": 3}, "'step'"),
            ({"lr": 0.1}, "'lr'"),
            ({"LR": 0.1}, "'LR'"),
            ({"wall_time": 0}, "'wall_time'"),
        ):
            with pytest.raises(BadArgument, match=words):
                recorder.log(**values)
        recorder.log(good=float("nan"), **{"val/acc": 1})
        optimizer.step()
    scalars = open_run(tmp_path / "run").scalars()
    assert "a" not in scalars
    assert np.isnan(scalars["good"][0])
    assert scalars["val/acc"][0] == 1
    with pytest.warns(RuntimeWarning, match=r"after close\(\) is not recorded"):
        recorder.log(after="the end")
    recorder.log(after="the end")  # said once
    assert "after" not in open_run(tmp_path / "run").scalars()


def test_logging_before_anything_is_recorded_is_refused(tmp_path):
    model = network()
    recorder = Recorder(tmp_path / "run", model, sgd(model))
    with pytest.raises(BadArgument, match=r"before recording begins; call attach\(\) first"):
        recorder.log(loss=1.0)
    with recorder:
        recorder.log(loss=1.0)
        train(model, recorder.optimizers[0], 1)
    assert open_run(tmp_path / "run").scalars()["loss"].tolist() == [1.0]


def test_a_run_without_steps_though_values_were_logged_is_pointed_out(tmp_path):
    model = network()
    with (
        pytest.warns(RuntimeWarning, match=r"no step was recorded into .*run, though values were logged, for its SGD"),
        Recorder(tmp_path / "run", model, sgd(model)) as recorder,
    ):
        train(model, sgd(model), 2, recorder=recorder)  # another optimizer
    with Recorder(tmp_path / "silent", model, sgd(model)):
        pass
    with pytest.raises(ValueError, match="early"), Recorder(tmp_path / "early", model, sgd(model)) as recorder:  # noqa: PT012
        recorder.log(loss=1.0)
        raise ValueError("early")


def test_learning_rate_schedulers_and_several_groups(tmp_path):
    model = network()
    optimizer = torch.optim.SGD(
        [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[2].parameters(), "lr": 0.1}]
    )
    with Recorder(tmp_path / "run", model, optimizer) as recorder:
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, [lambda e: 1.0, lambda e: 0.5**e])
        for batch in batches(3):
            loss = backward(model, batch)
            optimizer.step()
            scheduler.step()
            recorder.log(loss=loss)
    scalars = open_run(tmp_path / "run").scalars()
    assert scalars["lr"].tolist() == [0.1] * 3
    assert scalars["lr_group1"][1:].tolist() == [0.05, 0.025]
    assert scalars["skipped"].tolist() == [False] * 3
    assert (scalars["record_seconds"] >= 0).all()
    assert scalars["wall_time"].is_monotonic_increasing
