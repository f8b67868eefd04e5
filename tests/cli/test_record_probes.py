"""``traj record --probe-every``, ``--dry-run``, ``traj show`` and ``traj query`` of probes."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
from commands import TRAJ, refused, traj

PROBED = [
    *("record", "digits-mlp", "--optimizer", "sgd", "--steps", "4"),
    *("--probe-every", "2", "--probe-batches", "3", "--probe-surrogates", "2"),
]


def test_a_dry_run_says_how_large_the_run_is_and_the_run_is(tmp_path):
    done = traj(*PROBED, "--dry-run", "--json", "-o", "run", cwd=tmp_path)
    said = {size["table"]: size for size in json.loads(done.stdout)["tables"]}
    assert list(tmp_path.iterdir()) == []
    table = traj(*PROBED, "--dry-run", "--seeds", "2", cwd=tmp_path)
    assert "probes" in table.stdout
    assert "for each of 2 seeds" in table.stderr
    traj(*PROBED, "-o", "run", cwd=tmp_path)
    rows = traj("query", "run", "SELECT count(*) n FROM probes", "--format", "json", cwd=tmp_path)
    assert json.loads(rows.stdout)[0]["n"] == said["probes"]["rows"] == 2 * 6 * 4
    shown = traj("show", "run", cwd=tmp_path).stdout
    assert "0 to 2 (2 of them)" in next(line for line in shown.splitlines() if line.startswith("probes at"))


@pytest.mark.parametrize("probes", [[], ["--probe-every", "2", "--probe-batches", "3"]])
def test_a_dry_run_and_a_budget_count_the_same_bytes(tmp_path, probes):
    of_five = ["record", "digits-mlp", "--steps", "5", "-o", "run", "--dry-run", *probes]
    total = json.loads(traj(*of_five, "--json", cwd=tmp_path).stdout)["total_bytes"]
    assert f"{total / 1e6:.4g}" in traj(*of_five, cwd=tmp_path).stdout.splitlines()[-1]
    kept = traj(*of_five, "--budget", str(total), cwd=tmp_path).stderr
    assert "all coordinates every step" in kept
    assert "all coordinates every 2 steps" in traj(*of_five, "--budget", str(total - 1), cwd=tmp_path).stderr


def test_a_sketch_is_small(tmp_path):
    traj(*PROBED, "--probe-sketch", "50", "-o", "run", cwd=tmp_path)
    answer = traj(
        "query",
        "run",
        "SELECT source, len(grad_grad) n FROM probe_products WHERE step = 2",
        "--format",
        "json",
        cwd=tmp_path,
    )
    assert json.loads(answer.stdout) == [*[{"source": "batch", "n": 4}] * 3, {"source": "mean", "n": 4}]


def test_more_mini_batches_than_there_is_room_for_are_refused_before_one_is_drawn(tmp_path):
    done = traj(*PROBED[:-4], "--probe-batches", "100000000", "-o", "run", cwd=tmp_path, code=2)
    assert "a probe of 100,000,000 samples of 1,510 values each takes 1,208.0" in done.stderr
    assert "record a sketch" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_not_replaced_by_one_that_cannot_be_probed(tmp_path):
    traj(*PROBED, "-o", "run", cwd=tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    words = [str(TRAJ), *PROBED, "--probe-sketch", "1511", "--force", "-o", "run"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "a sketch of 1,511 coordinates is more than the 1,510 that there are" in done.stderr
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_probes_that_a_budget_has_no_room_for(tmp_path):
    said = refused(*PROBED, "--budget", "90kB", "-o", "run", cwd=tmp_path)
    assert re.search(r"the probes take 14\d kB, and the budget is 90 kB; give a larger one, fewer probes, or", said)
    assert list(tmp_path.iterdir()) == []


def test_probes_are_refused_before_a_learning_rate_is_tuned(tmp_path):
    assert "batches is 1" in refused(*PROBED[:-4], "--probe-batches", 1, "--lr", "tune", "-o", "run", cwd=tmp_path)
