"""Exceptions of the training and faults of the recording: the first stay as they are, the second disturb nothing."""

import warnings

import pytest
import torch
from training import network, sgd, train

from trajectory_tools.errors import RecordingFailed
from trajectory_tools.recorder import Recorder
from trajectory_tools.run import open_run
from trajectory_tools.store.part_file import PartFile


def test_where_warnings_are_errors_they_still_stop_nothing(tmp_path, monkeypatch, capsys):
    """``python -W error`` is common in test suites and CI."""

    def fail(self, *arguments, **keywords):
        raise OSError(28, "No space left on device")

    def schedule(step):
        raise RuntimeError("schedule is out")

    weights = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, options in {"plain": None, "fault": {"schedule": schedule}, "full": {"queue_bytes": 3000}}.items():
            model = network()
            optimizer = sgd(model)
            if name == "full":
                monkeypatch.setattr(PartFile, "write", fail)
            recorder = None if options is None else Recorder(tmp_path / name, model, optimizer, **options).attach()
            train(model, optimizer, 30, recorder=recorder)
            weights.append(list(model.parameters()))
            if recorder is not None:
                with pytest.raises(RecordingFailed, match=r"schedule is out|No space left"):
                    recorder.close()
                recorder.log(loss=0.0)
        monkeypatch.undo()
        with Recorder(tmp_path / "none", network(), sgd(network())) as recorder:
            recorder.log(loss=0.0)
    assert all(torch.equal(a, b) for other in weights[1:] for a, b in zip(weights[0], other, strict=True))
    said = capsys.readouterr().err.splitlines()
    stopped = [f"RuntimeWarning: recording into {tmp_path / name} stopped: " for name in ("fault", "full")]
    assert [line.startswith(start) for line, start in zip(said, stopped, strict=False)] == [True, True]
    assert said[1].count("stopped") == said[1].count("the training goes on unrecorded") == 1
    assert said[2].startswith(f"RuntimeWarning: no step was recorded into {tmp_path / 'none'}")
    assert len(said) == 3


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("oh"), "failed"),
        (KeyboardInterrupt(), "interrupted"),
        (SystemExit(0), "finished"),
        (SystemExit(3), "failed"),
    ],
)
def test_an_exception_in_the_body_keeps_what_there_is(tmp_path, error, status):
    model = network()
    optimizer = sgd(model)
    with pytest.raises(type(error)) as caught, Recorder(tmp_path / "run", model, optimizer) as recorder:  # noqa: PT012
        train(model, optimizer, 3, recorder=recorder)
        raise error
    assert caught.value is error
    run = open_run(tmp_path / "run")
    assert (run.status, run.n_steps, len(run.steps)) == (status, 3, 3)
    assert run.metadata["sessions"][0].get("error") == (
        None if status == "finished" else f"{type(error).__name__}: {error}"
    )
    train(model, optimizer, 1)  # the hooks are gone
    assert open_run(tmp_path / "run").n_steps == 3


def test_a_writer_that_fails_warns_once_and_lets_the_training_go_on(tmp_path, monkeypatch):
    def fail(self, *arguments, **keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PartFile, "write", fail)
    model, plain = network(), network()
    optimizer = sgd(model)
    recorder = Recorder(tmp_path / "run", model, optimizer, queue_bytes=3000).attach()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(model, optimizer, 30, recorder=recorder)
    (warned,) = (str(w.message) for w in caught if "recording" in str(w.message))
    assert warned.startswith(f"recording into {tmp_path / 'run'} stopped: [Errno 28] No space left on device; ")
    with pytest.raises(RecordingFailed, match="No space left") as failure:
        recorder.close()
    assert isinstance(failure.value.__cause__, OSError)
    assert open_run(tmp_path / "run").status == "failed"
    train(plain, sgd(plain), 30)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


def test_the_trainings_own_exception_stays_the_one_that_is_seen(tmp_path, monkeypatch):
    def fail(self, *arguments, **keywords):
        raise OSError(28, "No space left on device")

    model = network()
    optimizer = sgd(model)
    with pytest.raises(ValueError, match="mine") as caught, Recorder(tmp_path / "run", model, optimizer):  # noqa: PT012
        optimizer.step()
        monkeypatch.setattr(PartFile, "write", fail)
        raise ValueError("mine")
    assert "No space left" in caught.value.__notes__[0]


def test_a_fault_of_the_recorder_ends_the_recording_and_keeps_what_came_before(tmp_path):
    def schedule(step):
        if step == 3:
            raise RuntimeError("schedule is out")
        return True

    model = network()
    optimizer = sgd(model)
    recorder = Recorder(tmp_path / "run", model, optimizer, schedule=schedule).attach()
    with pytest.warns(RuntimeWarning, match="schedule is out"):
        train(model, optimizer, 6, recorder=recorder)
    with pytest.raises(RecordingFailed, match="schedule is out"):
        recorder.close()
    recorder.close()
    run = open_run(tmp_path / "run")
    assert run.steps.tolist() == run.logged_steps.tolist() == [0, 1, 2]
    assert run.status == "failed"
    assert "schedule is out" in run.metadata["sessions"][0]["error"]
