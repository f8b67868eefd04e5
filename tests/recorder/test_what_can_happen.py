"""Exceptions, closures, forks, forgotten closes: the training is never disturbed, and the record stays true."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from training import backward, batches, network, recorded, train

from trajectory_tools.errors import BadArgument, OutputExists, RecordingFailed, RunBusy, TrajectoryError
from trajectory_tools.recorder import Recorder
from trajectory_tools.run import KILLED, open_run
from trajectory_tools.store.part_file import PartFile


def sgd(model, **options):
    return torch.optim.SGD(model.parameters(), lr=0.1, **options)


class Moody(torch.optim.SGD):
    """Fails in the middle of the steps that it is told to."""

    failing = ()
    calls = 0

    def step(self, closure=None):
        self.calls += 1
        super().step(closure)
        if self.calls in self.failing:
            raise ValueError("moody")


def test_a_step_that_fails_is_not_recorded_and_the_numbering_goes_on(tmp_path):
    torch.optim.SGD([nn.Parameter(torch.ones(1))])  # so that the parent's step is hooked, too
    model = network()
    optimizer = Moody(model.parameters(), lr=0.1)
    optimizer.failing = (3,)
    kept = []
    with Recorder(tmp_path / "run", model, optimizer) as recorder:
        for i, batch in enumerate(batches(5)):
            loss = backward(model, batch)
            before = model[0].bias.detach().clone()
            if i == 2:
                with pytest.raises(ValueError, match="moody"):
                    optimizer.step()
                continue
            optimizer.step()
            recorder.log(loss=loss)
            kept.append((before, loss.item()))
    run = open_run(tmp_path / "run")
    assert run.steps.tolist() == run.logged_steps.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(run.array("param", "0.bias"), torch.stack([b for b, _ in kept]).numpy())
    assert run.scalars()["loss"].tolist() == [loss for _, loss in kept]


class Twice(torch.optim.SGD):
    """Makes two of its parent's steps in one."""

    def step(self, closure=None):
        super().step()
        super().step()


@pytest.mark.parametrize("parent_first", [True, False])
@pytest.mark.parametrize("kind", [Moody, Twice])
def test_a_subclass_that_calls_its_parents_step_makes_one_record(tmp_path, kind, parent_first):
    if parent_first:
        torch.optim.SGD([nn.Parameter(torch.ones(1))])
    model = network()
    run, seen = recorded(tmp_path / "run", model, kind(model.parameters(), lr=0.1), 4)
    assert run.steps.tolist() == [0, 1, 2, 3]
    for step, (before, grads, after) in enumerate(seen):
        np.testing.assert_array_equal(run.array("grad", "0.weight")[step], grads["0.weight"].numpy())
        np.testing.assert_array_equal(
            run.array("update", "0.weight")[step], (after["0.weight"] - before["0.weight"]).numpy()
        )


@pytest.mark.parametrize("keyword", [True, False])
def test_a_closure_gives_loss_and_first_gradient(tmp_path, keyword):
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)
    plain = network()
    alone = torch.optim.LBFGS(plain.parameters(), lr=0.1, max_iter=4)
    firsts = []
    with Recorder(tmp_path / "run", model, optimizer):
        for batch in batches(3):
            calls = []

            def closure(batch=batch, calls=calls):
                loss = backward(model, batch)
                calls.append((loss.item(), model[0].weight.grad.clone()))
                return loss

            returned = optimizer.step(closure=closure) if keyword else optimizer.step(closure)
            assert returned.item() == calls[0][0]
            alone.step(lambda batch=batch: backward(plain, batch))
            firsts.append((*calls[0], len(calls)))
    run = open_run(tmp_path / "run")
    scalars = run.scalars()
    assert scalars["loss"].tolist() == [loss for loss, _, _ in firsts]
    assert scalars["n_evals"].tolist() == [n for _, _, n in firsts]
    assert max(scalars["n_evals"]) > 1
    np.testing.assert_array_equal(run.array("grad", "0.weight"), torch.stack([g for _, g, _ in firsts]).numpy())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


def test_a_closure_of_sgd_and_one_that_returns_something_else(tmp_path):
    model = network()
    optimizer = sgd(model)
    batch = next(batches(1))
    with Recorder(tmp_path / "run", model, optimizer) as recorder:
        loss = optimizer.step(lambda: backward(model, batch))
        optimizer.step(lambda: (backward(model, batch), "more"))
        optimizer.step(lambda: [backward(model, batch), None][1])
        optimizer.step(lambda: backward(model, batch).item())
        recorder.log(loss=9.0)
    scalars = open_run(tmp_path / "run").scalars()
    assert scalars["loss"][0] == loss.item()
    assert scalars["loss"].isna().tolist() == [False, True, True, False]
    assert scalars["loss"][3] == 9.0
    assert np.isfinite(open_run(tmp_path / "run").array("grad", "0.weight")).all()


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
        train(model, recorder._optimizer, 1)
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


SCRIPT = """
model = torch.nn.Linear(3, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
recorder = Recorder(sys.argv[1], model, optimizer).attach()
for step in range(5):
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    recorder.log(loss=step)
"""


FORK = (
    SCRIPT
    + """
if (child := os.fork()) == 0:
    for step in range(3):
        optimizer.step()
        recorder.log(loss=-1)
    {ending}
_, status = os.waitpid(child, 0)
assert status == 0, status
try:
    Recorder(sys.argv[1], model, optimizer, if_exists="resume").attach()
except RunBusy:
    pass
else:
    raise AssertionError("the child has freed the folder")
optimizer.step()
recorder.close()
"""
)

WORKERS = """
model = torch.nn.Linear(3, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
with Recorder(sys.argv[1], model, optimizer) as recorder:
    for epoch in range(2):
        data = TensorDataset(torch.randn(16, 3))
        for (x,) in DataLoader(data, batch_size=4, num_workers=2, multiprocessing_context="fork"):
            loss = model(x).sum()
            loss.backward()
            optimizer.step()
            recorder.log(loss=loss)
"""

PROGRAMS = {
    "end": SCRIPT,
    "killed": SCRIPT + "os.kill(os.getpid(), 9)",
    "error": SCRIPT + "raise ValueError('x')",
    "interrupt": SCRIPT + "raise KeyboardInterrupt",
    "fork-close": FORK.replace("{ending}", "recorder.close(); os._exit(0)"),
    "fork-exit": FORK.replace("{ending}", "sys.exit(0)"),
    "workers": WORKERS,
    "no-pandas": SCRIPT + "recorder.close()\nassert 'pandas' not in sys.modules",
}

# Each program is a process of its own, from start to natural end; they share the seconds that importing torch takes.
LAUNCHER = """
import json, os, sys, warnings
import torch
from torch.utils.data import DataLoader, TensorDataset
from trajectory_tools.errors import RunBusy
from trajectory_tools.recorder import Recorder
warnings.simplefilter("ignore")
torch.set_num_threads(1)
torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])  # the first optimizer imports the other half of torch
folder, programs = sys.argv[1], json.loads(sys.argv[2])
codes = {}
for name, program in programs.items():
    if (pid := os.fork()) == 0:
        sys.argv = ["program", os.path.join(folder, name)]
        exec(program)
        sys.exit()
    codes[name] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
print(json.dumps(codes))
"""


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """(the folder of their runs, the exit code of each program)."""
    if not hasattr(os, "fork"):
        pytest.skip("skipped: no fork here")
    folder = tmp_path_factory.mktemp("programs")
    command = [sys.executable, "-c", LAUNCHER, folder, json.dumps(PROGRAMS)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    return folder, json.loads(done.stdout), done.stderr.decode()


@pytest.mark.parametrize(
    ("name", "code", "status"),
    [("end", 0, "finished"), ("error", 1, "failed"), ("interrupt", None, "interrupted")],
)
def test_a_forgotten_close_is_made_up_for_at_exit(programs, name, code, status):
    folder, codes, complaints = programs
    assert code is None or codes[name] == code, complaints
    run = open_run(folder / name)
    assert run.steps.tolist() == run.logged_steps.tolist() == list(range(5))
    assert run.scalars()["loss"].tolist() == list(range(5))
    assert run.status == status


def test_a_killed_run_says_so_and_can_be_resumed(programs):
    folder, codes, complaints = programs
    assert codes["killed"] == -9, complaints
    run = open_run(folder / "killed")
    assert (run.status, run.metadata["status"]) == (KILLED, "recording")
    assert "interrupted (was killed)" in repr(run)
    model = nn.Linear(3, 2)
    with Recorder(folder / "killed", model, sgd(model), if_exists="resume"):
        assert open_run(folder / "killed").status == "recording"
    assert open_run(folder / "killed").status == "finished"


@pytest.mark.parametrize("name", ["fork-close", "fork-exit"])
def test_a_forked_child_writes_nothing_and_frees_nothing(programs, name):
    folder, codes, complaints = programs
    assert codes[name] == 0, complaints
    run = open_run(folder / name)
    assert run.logged_steps.tolist() == list(range(6))
    assert run.status == "finished"
    assert -1 not in run.scalars()["loss"].tolist()


def test_workers_of_a_data_loader(programs):
    folder, codes, complaints = programs
    assert codes["workers"] == 0, complaints
    assert open_run(folder / "workers").logged_steps.tolist() == list(range(8))


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


def test_recording_imports_no_pandas(programs):
    """It takes a second, holds the interpreter meanwhile, and cannot be imported any more while that one ends."""
    _, codes, complaints = programs
    assert codes["no-pandas"] == 0, complaints
