"""Each command as a person or a program uses it."""

from __future__ import annotations

import io
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
from commands import TRAJ, refused, traj

import trajectory_tools as tt
from trajectory_tools.errors import NotARun, TrajectoryError
from trajectory_tools.metrics import metrics


def test_record_prints_the_run_folders_and_the_next_command(tmp_path):
    done = traj(
        "record", "quadratic", "--optimizer", "sgd", "--lr", 0.001, "--seeds", 2, "--steps", 3, "-o", "q", cwd=tmp_path
    )
    assert done.stdout.splitlines() == ["q/seed-0", "q/seed-1"]
    assert done.stderr.splitlines()[-1] == "next: traj report q -o report.html"
    run = tt.open_run(tmp_path / "q/seed-1")
    assert (run.n_steps, run.seed, run.label) == (3, 1, "q")
    assert run.metadata["command"] == "traj record quadratic --optimizer sgd --lr 0.001 --seeds 2 --steps 3 -o q"


def test_a_label_is_text_whatever_it_says(tmp_path):
    traj("record", "quadratic", "--steps", 3, "-o", "b/nan", cwd=tmp_path)
    rows = traj("analyze", "b/nan", "-m", "loss", cwd=tmp_path).stdout.splitlines()
    assert rows[-1].split()[0] == "nan"


def test_record_takes_the_options_of_problem_and_optimizer(tmp_path):
    options = (
        "--hidden",
        "8,6",
        "--activation=relu",
        "--batch-norm",
        "--batch-size",
        32,
        "--momentum",
        0.9,
        "--nesterov",
    )
    traj("record", "digits-mlp", "--optimizer", "sgd", *options, "--steps", 4, "--at", "0,3", "-o", "r", cwd=tmp_path)
    run = tt.open_run(tmp_path / "r")
    assert run.metadata["problem"]["options"] == {
        "hidden": [8, 6],
        "activation": "relu",
        "batch_norm": True,
        "batch_size": 32,
    }
    assert run.metadata["optimizer"]["groups"][0]["nesterov"] is True
    assert run.shapes["3.weight"] == (6, 8)
    assert run.steps.tolist() == [0, 3]
    assert run.logged_steps.tolist() == [0, 1, 2, 3]


def test_a_tuned_learning_rate_comes_with_its_table(tmp_path):
    done = traj("record", "digits-mlp", "--optimizer", "adam", "--lr", "tune", "--steps", 2, "-o", "r", cwd=tmp_path)
    tuning = tt.open_run(tmp_path / "r").metadata["tuning"]
    means = {row["lr"]: row["mean"] for row in tuning["table"] if row["mean"] is not None}
    assert len(tuning["table"]) == 10
    assert tuning["best"] == min(means, key=means.__getitem__)
    assert f"chose lr = {tuning['best']:g}" in done.stderr


def test_the_same_seed_gives_the_same_bytes_another_seed_others(runs, tmp_path):
    options = ("--optimizer", "adam", "--steps", 12, "--activation", "leaky_relu")
    traj("record", "digits-mlp", *options, "--seed", 1, "-o", "again", cwd=tmp_path)
    tensors = "tensors/s000-r0000-000000.parquet"
    first, again = runs / "runs/adam/seed-1" / tensors, tmp_path / "again" / tensors
    assert first.read_bytes() == again.read_bytes()
    one, other = tt.find_runs([runs / "runs/adam"])
    assert (one.array("param", "0.weight", steps=0) != other.array("param", "0.weight", steps=0)).any()


def test_force_replaces_and_leaves_no_seed_of_before(tmp_path):
    record = ("record", "quadratic", "--optimizer", "sgd", "--lr", 0.001, "-o", "q")
    traj(*record, "--seeds", 3, "--steps", 3, cwd=tmp_path)
    traj(*record, "--seeds", 2, "--steps", 5, "--force", cwd=tmp_path)
    assert [run.n_steps for run in tt.find_runs([tmp_path / "q"])] == [5, 5]


def test_analyze_saves_the_numbers_and_prints_a_summary(runs):
    done = traj("analyze", "runs", "--json", cwd=runs)
    rows = {row["label"]: row for row in json.loads(done.stdout)}
    assert rows["adam"]["seeds"] == 2
    assert rows["sgd"]["rescale share"] < 1e-10
    assert rows["adam"]["rescale share"] > 1e-3
    saved = pd.read_parquet(runs / "runs/sgd/analysis/symmetry.parquet")
    assert {"step", "group", "kind", "quantity", "value", "low", "high", "n"} <= set(saved)
    assert "share" in traj("analyze", "runs", "-m", "symmetry", cwd=runs).stdout


FAILING = """
from trajectory_tools.metrics import Metric

class Failing(Metric):
    \"\"\"Fails.\"\"\"
    name = "failing"
    def prepare(self, run): return 1 / 0
    def update(self, context, chunk): ...
    def combine(self, left, right): ...
    def finish(self, context, state): ...
"""


@pytest.fixture
def failing_metric(tmp_path, monkeypatch):
    """Another package's metric that fails, installed."""
    info = tmp_path / "site/failing-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: failing\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[trajectory_tools.metrics]\nfailing = failing_metric:Failing\n")
    (info.parent / "failing_metric.py").write_text(FAILING)
    monkeypatch.syspath_prepend(info.parent)
    metrics.cache_clear()
    yield
    metrics.cache_clear()


@pytest.mark.usefixtures("failing_metric")
def test_a_metric_that_fails_is_flagged_and_the_rest_goes_on(runs, tmp_path):
    why = "skipped: failing failed: ZeroDivisionError: division by zero"
    shutil.copytree(runs / "runs/sgd", tmp_path / "sgd", ignore=shutil.ignore_patterns("analysis"))
    done = traj("analyze", "sgd", cwd=tmp_path, code=2)
    assert f"{why} (sgd)" in done.stderr.splitlines()
    assert done.stderr.splitlines()[-1] == "traj: failing failed, as said above; everything else was computed and saved"
    assert "rescale share" in done.stdout
    assert {path.stem for path in (tmp_path / "sgd/analysis").iterdir()} == {
        "loss",
        "symmetry",
        "histogram",
        "dynamics",
        "temporal_covariance",
    }
    with pytest.raises(TrajectoryError) as error:
        traj("analyze", "sgd", "--debug", cwd=tmp_path)
    assert "return 1 / 0" in error.value.__notes__[0]
    traj("report", "sgd", "-m", "loss", "-m", "failing", cwd=tmp_path)
    assert why in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("format", "read"),
    [("csv", lambda text: pd.read_csv(io.StringIO(text))), ("json", lambda text: pd.DataFrame(json.loads(text)))],
)
def test_query_formats_are_read_back(runs, format, read):
    sql = "SELECT step, loss FROM scalars WHERE step < 4 ORDER BY step"
    done = traj("query", "runs/sgd", sql, "--format", format, cwd=runs)
    assert done.stderr == "next: traj report runs/sgd -o report.html\n"
    answer = read(done.stdout)
    pd.testing.assert_frame_equal(answer, tt.open_run(runs / "runs/sgd").scalars().loc[:3, ["step", "loss"]])


def test_query_output_can_be_cut_short(runs):
    command = (
        f"{TRAJ} query runs/sgd 'SELECT * FROM scalars, range(20000)' --format csv | head -1; echo ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(["bash", "-c", command], cwd=runs, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1] == "0"
    assert done.stderr == ""


def test_show_and_list(runs):
    shown = traj("show", "runs/sgd", cwd=runs).stdout
    assert all(
        word in shown
        for word in ("torch.optim.sgd.SGD", "lr 0.1 ", "0.weight", "20x64", "rescale 0.weight+0.bias → 2.weight")
    )
    assert max(map(len, shown.splitlines())) < 120
    assert "momentum" not in shown  # what is off is left out
    assert json.loads(traj("show", "runs/sgd", "--json", cwd=runs).stdout)["steps"] == 12
    listed = json.loads(traj("list", "--json", cwd=runs).stdout)
    assert [(row["run"], row["steps"]) for row in listed] == [
        ("runs/adam/seed-0", 12),
        ("runs/adam/seed-1", 12),
        ("runs/sgd", 12),
    ]
    for option, name in (("--problems", "digits-mlp"), ("--optimizers", "lion-sgd"), ("--metrics", "symmetry")):
        assert name in traj("list", option).stdout


def test_verify_says_which_file_and_exits_1(tmp_path):
    traj("record", "quadratic", "--optimizer", "sgd", "--lr", 0.001, "--steps", 5, "-o", "q", cwd=tmp_path)
    done = traj("verify", "q", cwd=tmp_path)
    assert (done.stdout, done.stderr.splitlines()[-1]) == ("", "next: traj analyze q")
    part = tmp_path / "q/tensors/s000-r0000-000000.parquet"
    damaged = bytearray(part.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    part.write_bytes(damaged)
    done = traj("verify", "q", cwd=tmp_path, code=1)
    assert "q/tensors/s000-r0000-000000.parquet (steps 0 to 4)" in done.stdout
    assert done.stderr.splitlines()[-1] == "next: traj analyze q --skip-damaged"
    assert "--skip-damaged" in refused("analyze", "q", cwd=tmp_path)
    done = traj("analyze", "q", "--skip-damaged", cwd=tmp_path)
    assert "left out tensors/s000-r0000-000000.parquet" in done.stderr


def test_report(runs, tmp_path):
    output = tmp_path / "new/report.html"
    assert traj("report", "runs", "-o", output, cwd=runs).stdout.strip() == str(output)
    assert output.read_text().startswith("<!doctype html>")
    assert "--force" in refused("report", "runs", "-o", output, cwd=runs)
    traj("report", "runs", "-o", output, "--force", cwd=runs)


def test_an_interrupt_keeps_what_was_recorded(tmp_path):
    """Ctrl-C in the middle of a recording: exit code 130, and the steps so far can be read."""
    options = ["--steps", "1000000", "--hidden", "1000", "-o", "r"]  # a part is full after some dozen steps
    process = subprocess.Popen(
        [str(TRAJ), "record", "digits-mlp", *options],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background job ignores Ctrl-C, and so would what it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    deadline = time.monotonic() + 60
    while not any(tmp_path.glob("r/tensors/*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert "interrupted" in (process.stderr.read() if process.stderr else "")
    run = tt.open_run(tmp_path / "r")
    assert run.status == "interrupted"
    assert run.n_steps > 0
    process.stderr.close()


def test_progress_is_for_a_terminal_only(tmp_path):
    command = ["record", "quadratic", "--optimizer", "sgd", "--lr", "0.001", "--steps", "30", "-o"]
    assert "\x1b" not in traj(*command, "plain", cwd=tmp_path).stderr
    parent, child = pty.openpty()
    process = subprocess.Popen([str(TRAJ), *command, "shown"], cwd=tmp_path, stderr=child, stdout=subprocess.DEVNULL)
    os.close(child)
    seen = b""
    while chunk := _read(parent):
        seen += chunk
    assert process.wait() == 0
    os.close(parent)
    assert b"seed 0" in seen
    assert b"\x1b[" in seen


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # how a terminal says that the other side is closed
        return b""


WITHOUT_TORCH = """
import sys
from trajectory_tools.cli.main import main
for command in sys.argv[1:]:
    sys.argv = ["traj", *command.split("|")]
    try:
        main()
    except SystemExit as end:
        assert not end.code, end.code
    assert "torch" not in sys.modules, command
"""


def test_what_needs_no_torch_does_not_import_it(runs):
    commands = ["--help", "record|--help", "list", "list|--optimizers", "show|runs/sgd", "query|runs/sgd|SELECT 1"]
    commands += ["verify|runs", "analyze|runs", "report|runs|--force"]
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *commands], cwd=runs, capture_output=True, check=True)


def test_every_command_and_option_has_a_help_text():
    import typer.main

    from trajectory_tools.cli.main import app

    commands = typer.main.get_command(app).commands
    names = "record analyze report query show list verify demo meta-train reproduce"
    assert set(commands) == set(names.split())
    for name, command in commands.items():
        assert command.help, name
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{name} {parameter.name}"


def test_debug_gives_the_traceback(tmp_path):
    with pytest.raises(NotARun):
        traj("show", "nowhere", "--debug", cwd=tmp_path)


def test_force_touches_nothing_but_the_runs_of_its_own(tmp_path):
    record = ("record", "quadratic", "--optimizer", "sgd", "--lr", 0.001, "--steps", 2)
    traj(*record, "-o", "p/keep/x", cwd=tmp_path)
    other = tmp_path / "p/other"
    other.mkdir()
    (other / "run.json").write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    refused(*record, "-o", "p", "--force", cwd=tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    traj(*record, "-o", "q", "--seeds", 2, cwd=tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for wrong in (("--save", "foo"), ("--compression", "gzip"), ("--momentum", -1)):
        refused(*record, "-o", "q", "--seed", 5, "--seeds", 3, "--force", *wrong, cwd=tmp_path)
        assert sorted(tmp_path.rglob("*")) == before
