"""Import every module of the installed package, and check that none of them comes from a checkout."""

import importlib
import pkgutil
import sys
from pathlib import Path

import trajectory_tools

names = ["trajectory_tools"]
names += [module.name for module in pkgutil.walk_packages(trajectory_tools.__path__, "trajectory_tools.")]
imported = 0
for name in names:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if name.startswith("trajectory_tools.integrations.") and error.name == name.rpartition(".")[2]:
            continue  # the library that this one is for is an extra
        raise
    imported += 1
    home = Path(module.__file__ or "")
    assert home.is_relative_to(sys.prefix), f"{name} was imported from {home}"
print(f"imported {imported} modules of trajectory_tools {trajectory_tools.__version__}")
