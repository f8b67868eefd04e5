"""Runs that several tests read; none changes them."""

import metric_runs as runs
import pytest
import torch


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def adam(folder):
    return runs.train(folder / "adam", "adam", hidden=(6, 5), activation="leaky_relu", options={"lr": 0.01})[0]


@pytest.fixture(scope="session")
def momentum(folder):
    options = {"lr": 0.1, "momentum": 0.9}
    return runs.train(folder / "mom", "sgd", dtype=torch.float64, hidden=(6, 5), activation="relu", options=options)[0]


@pytest.fixture(scope="session")
def sparse(folder):
    """Every third step only."""
    return runs.train(folder / "sparse", "adam", every=3, hidden=(6,), activation="relu", options={"lr": 0.01})[0]


@pytest.fixture(scope="session")
def every_step(folder):
    """The same training, recorded at every step."""
    return runs.train(folder / "dense", "adam", hidden=(6,), activation="relu", options={"lr": 0.01})[0]


@pytest.fixture(scope="session")
def walked(folder):
    """A random walk of 4-dimensional parameters, written in several parts."""
    run = runs.write_run(folder / "walk", *runs.walk(24), steps=range(24), parts=6)
    assert len(run.parts("tensors")) >= 5
    return run


@pytest.fixture(scope="session")
def odd(folder):
    return runs.write_run(folder / "odd", *runs.odd_arrays(), steps=range(12), parts=6)


@pytest.fixture
def own(tmp_path):
    """A run of the test's own, to be changed."""
    return runs.write_run(tmp_path / "own", *runs.walk(6), steps=range(6), parts=3)
