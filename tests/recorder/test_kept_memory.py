"""Memory that a training frees and takes again at every step."""

import platform
import subprocess
import sys

import pytest

TRAINING = """
import resource, sys, torch
from trajectory_tools.recorder import Recorder

weights = [torch.nn.Parameter(torch.zeros(2**20)) for _ in range(10)]  # gradients of 4 MB each, freed at each step
optimizer = torch.optim.SGD(weights, lr=0.1)
recorder = Recorder(sys.argv[1], list(zip("abcdefghij", weights)), optimizer, save=[], stats=False)
if len(sys.argv) > 2:
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


def faults(*args):
    """Pages that the kernel gives the training at each step."""
    done = subprocess.run([sys.executable, "-c", TRAINING, *args], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator of glibc is what this is about")
def test_gradients_are_not_given_back_to_the_kernel_at_each_step_of_a_recorded_training(tmp_path):
    assert faults(tmp_path / "run", "attached") < 1000  # of 4 KB; 40 MB are 10,000
