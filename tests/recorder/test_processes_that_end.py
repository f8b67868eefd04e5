"""Forgotten closes, kills, forks, workers, in processes of their own: the record stays true."""

import json
import os
import subprocess
import sys

import pytest
from torch import nn
from training import sgd

from trajectory_tools.recorder import Recorder
from trajectory_tools.run import KILLED, open_run

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


def test_recording_imports_no_pandas(programs):
    """It takes a second, holds the interpreter meanwhile, and cannot be imported any more while that one ends."""
    _, codes, complaints = programs
    assert codes["no-pandas"] == 0, complaints
