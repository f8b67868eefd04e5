"""Two gloo processes on this machine: DDP, where rank 0 records, and FSDP2, where each rank records its shards."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from trajectory_tools.run import find_runs, open_run

if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("skipped: no gloo here", allow_module_level=True)

PROGRAM = Path(__file__).with_name("rank_programs.py")
KINDS = ("ddp", "drift", "fsdp")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where each kind was recorded."""
    folder = tmp_path_factory.mktemp("ranks")
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    both = [
        subprocess.Popen(
            list(map(str, [sys.executable, PROGRAM, folder, rank, *KINDS])), env=env, stderr=subprocess.PIPE
        )
        for rank in (0, 1)
    ]
    for process in both:
        _, complaints = process.communicate(timeout=300)
        assert process.returncode == 0, complaints.decode()
    return folder


def as_seen_by_hand(run, hand, prefix=""):
    assert run.steps.tolist() == run.logged_steps.tolist() == list(range(5))
    for name in run.shapes:
        before, grads, after = ([row[prefix + name] for row in hand[key]] for key in ("before", "grad", "after"))
        np.testing.assert_array_equal(run.array("param", name), torch.stack(before).numpy())
        np.testing.assert_array_equal(run.array("grad", name), torch.stack(grads).numpy())
        updates = [new - old for new, old in zip(after, before, strict=True)]
        np.testing.assert_array_equal(run.array("update", name), torch.stack(updates).numpy())


def test_under_ddp_rank_0_records_and_finds_that_the_others_agree(folder):
    run = open_run(folder / "ddp")
    hand, said = torch.load(folder / "ddp-hand-0.pt")
    as_seen_by_hand(run, hand, "module.")
    assert said == []
    assert {part.id.rank for part in run.parts("tensors")} == {0}
    assert run.metadata["sessions"][0]["ranks"] == {"world_size": 2, "agree": True, "compared_until": 4}


def test_ranks_that_train_different_parameters_are_found_out(folder):
    run = open_run(folder / "drift")
    assert run.metadata["sessions"][0]["ranks"] == {"world_size": 2, "agree": False, "differ_at_step": 4}


def test_under_fsdp_each_rank_records_its_shards(folder):
    runs = find_runs(folder / "fsdp")
    assert sorted(run.path.name for run in runs) == ["rank-0", "rank-1"]
    for rank in (0, 1):
        run = open_run(folder / "fsdp" / f"rank-{rank}")
        hand, _ = torch.load(folder / f"fsdp-hand-{rank}.pt")
        as_seen_by_hand(run, hand)
        assert {part.id.rank for part in run.parts("tensors")} == {rank}
        entry = next(p for p in run.metadata["params"] if p["name"] == "0.weight")
        assert entry["global_shape"] == [3, 5]
        assert entry["shape"] == [[2, 5], [1, 5]][rank]
        assert entry["starts_at"] == [[0, 0], [2, 0]][rank]
        assert (entry["placements"], entry["mesh"]) == (["Shard(dim=0)"], [2])
