"""Import every module of the installed package, and check that none of them comes from a checkout."""

import importlib
import pkgutil
import sys
from pathlib import Path

import trajectory_tools

names = ["trajectory_tools"]
names += [module.name for module in pkgutil.walk_packages(trajectory_tools.__path__, "trajectory_tools.")]
for name in names:
    module = importlib.import_module(name)
    home = Path(module.__file__ or "")
    assert home.is_relative_to(sys.prefix), f"{name} was imported from {home}"
print(f"imported {len(names)} modules of trajectory_tools {trajectory_tools.__version__}")
