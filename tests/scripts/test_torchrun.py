"""A script that a launcher starts once for each rank."""

import subprocess
import sys
from pathlib import Path

from trajectory_tools.run import open_run

SCRIPT = """
import torch, torch.distributed as dist
from torch import nn

dist.init_process_group("gloo")
torch.manual_seed(0)
model = nn.parallel.DistributedDataParallel(nn.Linear(4, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
torch.manual_seed(dist.get_rank())
for _ in range(3):
    loss = model(torch.randn(8, 4)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
dist.destroy_process_group()
"""


def test_rank_0_of_torchrun_records(tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT)
    launched = [Path(sys.executable).with_name("torchrun"), "--nproc-per-node", "2", "-m", "trajectory_tools"]
    done = subprocess.run(
        [*launched, "record", "train.py", "-o", "runs/ddp"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "recorded 3 steps of SGD (2 parameters, 10 values) in runs/ddp" in done.stderr
    run = open_run(tmp_path / "runs/ddp")
    assert (run.n_steps, run.status) == (3, "finished")
    assert run.metadata["sessions"][0]["ranks"]["world_size"] == 2
