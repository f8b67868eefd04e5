"""The examples in the docstrings."""

import doctest
import importlib
import pkgutil

import numpy as np
import pytest

import trajectory_tools.metrics
from trajectory_tools.metrics import metrics

MODULES = [found.name for found in pkgutil.iter_modules(trajectory_tools.metrics.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(f"trajectory_tools.metrics.{name}")
    done = doctest.testmod(module, extraglobs={"np": np})
    assert done.failed == 0
    assert done.attempted >= {"symmetry": 1, "histogram": 2}.get(name, 0)


@pytest.mark.parametrize("name", ["loss", "symmetry", "histogram", "dynamics", "temporal_covariance"])
def test_every_quantity_is_documented(name, adam, momentum):
    from trajectory_tools.metrics import compute

    frame = compute([adam, momentum], name)
    for quantity in {*frame["quantity"].astype(str)} - {"lr"}:
        shown = quantity if not quantity.startswith("temporal_eigenvalue") else "temporal_eigenvalue_1"
        assert f"``{shown}``" in metrics()[name].__doc__ or name == "loss"
