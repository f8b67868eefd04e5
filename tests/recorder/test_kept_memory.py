"""Memory that a training frees and takes again at every step."""

import os
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


pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="the allocator of glibc is what this is about"
)


def faults(folder, **environment):
    """Pages of 4 KB that the kernel gives the training at each step; 80 MB are 20,000."""
    command = [sys.executable, "-c", TRAINING, str(folder)]
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=plain | environment)
    return int(done.stdout)


def test_gradients_are_not_given_back_to_the_kernel_at_each_step_of_a_recorded_training(tmp_path):
    assert faults(tmp_path / "run") < 1000


def test_what_the_environment_says_of_the_allocator_is_left_as_it_is(tmp_path):
    assert faults(tmp_path / "run", MALLOC_MMAP_THRESHOLD_="131072") > 10_000
