"""Memory that a training frees and takes again at every step."""

import platform
import subprocess
import sys

import pytest

TRAINING = """
import resource, sys, torch
from trajectory_tools.recorder import Recorder

weights = [torch.nn.Parameter(torch.zeros(2**20)) for _ in range(20)]  # gradients of 4 MB each, freed at each step
optimizer = torch.optim.Adam(weights)  # makes and frees as much once more
recorder = Recorder(sys.argv[1], list(zip("abcdefghijklmnopqrst", weights)), optimizer, save=[], stats=False)
recorder.attach()
for step in range(30):
    if step == 20:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for weight in weights:
        weight.grad = torch.empty_like(weight).fill_(1)
    optimizer.step()
    optimizer.zero_grad()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 10)
recorder.close()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator of glibc is what this is about")
def test_gradients_are_not_given_back_to_the_kernel_at_each_step_of_a_recorded_training(tmp_path):
    command = [sys.executable, "-c", TRAINING, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1000  # pages of 4 KB at each step; 80 MB are 20,000
