from __future__ import annotations

from pathlib import Path

import pytest
from commands import traj


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs/adam (two seeds) and runs/sgd, recorded by the command line; not to be changed."""
    folder = tmp_path_factory.mktemp("cli")
    options = ("--steps", 12, "--activation", "leaky_relu")
    traj("record", "digits-mlp", "--optimizer", "adam", "--seeds", 2, *options, "-o", "runs/adam", cwd=folder)
    traj("record", "digits-mlp", "--optimizer", "sgd", "--lr", 0.1, *options, "-o", "runs/sgd", cwd=folder)
    return folder
