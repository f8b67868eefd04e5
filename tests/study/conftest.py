"""Weights of learned optimizers that were never trained, and small figures that take a moment to record."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trajectory_tools.experiments.study.design import MetaTrained
from trajectory_tools.l2o.network import CoordinatewiseLSTM
from trajectory_tools.l2o.weights import save_weights


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights for digits, all untrained and all different, called as shipped ones are."""
    folder = tmp_path_factory.mktemp("weights")
    networks = [MetaTrained("sigmoid"), MetaTrained("leaky_relu"), MetaTrained("relu", batch_norm=True)]
    for number, network in enumerate(networks):
        torch.manual_seed(number)
        save_weights(folder / f"{network.name('digits')}.safetensors", CoordinatewiseLSTM())
    return folder
