"""Whose a run folder is: two recorders, a run that goes on, folders that are not to be written."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from training import network, recorded, sgd, train

from trajectory_tools.errors import BadArgument, OutputExists, RunBusy, TrajectoryError
from trajectory_tools.recorder import Recorder
from trajectory_tools.run import open_run


def test_two_recorders_on_one_folder_and_two_on_one_optimizer(tmp_path):
    model = network()
    optimizer = sgd(model)
    with Recorder(tmp_path / "one", model, optimizer) as one:
        for if_exists in ("error", "resume", "replace"):
            with pytest.raises(RunBusy):
                Recorder(tmp_path / "one", model, optimizer, if_exists=if_exists).attach()
        with pytest.raises(BadArgument, match="attached already"):
            one.attach()
        with Recorder(tmp_path / "two", model, optimizer, every=2):
            train(model, optimizer, 4, recorder=one)
    one.close()
    assert open_run(tmp_path / "one").steps.tolist() == [0, 1, 2, 3]
    assert open_run(tmp_path / "two").steps.tolist() == [0, 2]
    with pytest.raises(OutputExists):
        Recorder(tmp_path / "one", model, optimizer).attach()


def test_resuming_numbers_on_or_from_where_it_is_told(tmp_path):
    model = network()
    for options in ({}, {"if_exists": "resume"}, {"if_exists": "resume", "start_step": 4}):
        recorded(tmp_path / "run", model, sgd(model), 3, **options)
    run = open_run(tmp_path / "run")
    assert run.steps.tolist() == list(range(7))
    assert [s["first_step"] for s in run.metadata["sessions"]] == [0, 3, 4]
    recorded(tmp_path / "run", model, sgd(model), 2, if_exists="replace")
    assert open_run(tmp_path / "run").steps.tolist() == [0, 1]


def test_a_run_that_goes_on_with_another_optimizer_says_so_and_notes_both(tmp_path):
    model = network()

    def session(optimizer, **options):
        with Recorder(tmp_path / "run", model, optimizer, if_exists="resume", **options):
            train(model, optimizer, 2)

    session(sgd(model, momentum=0.9))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decayed = sgd(model, momentum=0.9, foreach=False)
        torch.optim.lr_scheduler.ConstantLR(decayed, factor=0.5)  # the rate that it began with is the same
        session(decayed)
    assert not any("optimizer" in entry for entry in open_run(tmp_path / "run").metadata["sessions"])
    with pytest.warns(RuntimeWarning, match=r"\(momentum was 0\.9, now 0\.5; nesterov was False, now True\)"):
        session(sgd(model, momentum=0.5, nesterov=True))
    with pytest.warns(RuntimeWarning, match=r"\(it was SGD, now Adam\)"):
        session(torch.optim.Adam(model.parameters()))
    with pytest.warns(RuntimeWarning, match=r"\(it had 1 parameter groups, now 2\)"):
        session(torch.optim.Adam([{"params": layer.parameters()} for layer in (model[0], model[2])]))
    run = open_run(tmp_path / "run")
    noted = [entry["optimizer"] for entry in run.metadata["sessions"]]
    assert [one["class"].rpartition(".")[2] for one in noted] == ["SGD", "SGD", "SGD", "Adam", "Adam"]
    assert [one["groups"][0].get("momentum") for one in noted] == [0.9, 0.9, 0.5, None, None]
    assert run.metadata["optimizer"] == noted[-1]


@pytest.mark.parametrize("parent", ["/proc", "/sys"])
def test_a_folder_that_cannot_be_written_is_said_before_the_training(parent):
    model = network()
    optimizer = sgd(model)
    with pytest.raises(TrajectoryError, match="cannot record into"):
        Recorder(f"{parent}/run", model, optimizer).attach()
    optimizer.step()  # not hooked


def test_a_foreign_run_json_is_not_replaced(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"mine": True}))
    (tmp_path / "tensors").mkdir()
    (tmp_path / "tensors" / "mine.bin").write_bytes(b"x")
    model = network()
    with pytest.raises(OutputExists, match="not touched"):
        Recorder(tmp_path, model, sgd(model), if_exists="replace").attach()
    assert sorted(p.name for p in Path(tmp_path).rglob("*")) == ["mine.bin", "run.json", "tensors"]
