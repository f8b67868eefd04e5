"""What run.json says of the training: who, what, how, on which machine and versions."""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from trajectory_tools.errors import BadArgument
from trajectory_tools.recorder.names import Named
from trajectory_tools.recorder.one_pass import is_compiled
from trajectory_tools.recorder.ranks import local, shard_of

__all__ = [
    "checked_info",
    "describe_change",
    "describe_command",
    "describe_environment",
    "describe_optimizer",
    "describe_outcome",
    "describe_parameters",
]

OWN_ENTRIES = (
    "format",
    "run_id",
    "created_at",
    "status",
    "sessions",
    "label",
    "seed",
    "symmetries",
    "command",
    "script",
    "params",
    "schedule",
    "save",
    "stats",
    "selection",
    "budget",
    "environment",
)
"""What the recorder itself writes into run.json."""

NOT_COMPARED = ("initial_lr", "foreach", "fused", "capturable", "differentiable")
"""Options that say how an optimizer computes, not what; the first learning rate counts as lr."""


def checked_info(info: Mapping[str, Any] | None) -> dict[str, Any]:
    """A copy of the user's entries for run.json; ``BadArgument`` for what cannot stand there."""
    if not isinstance(info, Mapping | None):
        raise BadArgument(f"info is a dict of entries for run.json, found {type(info).__name__}")
    copied: dict[str, Any] = {}
    for name, value in (info or {}).items():
        if name in OWN_ENTRIES:
            raise BadArgument(f"info has an entry {name!r}, which the recorder fills itself; choose another name")
        if name in ("problem", "optimizer") and not isinstance(value, Mapping):
            raise BadArgument(f"info[{name!r}] is {value!r}; give a dict, such as {{'name': {value!r}}}")
        try:
            copied |= json.loads(json.dumps({name: value}, allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise BadArgument(
                f"info[{name!r}] cannot be written as JSON ({error}); give finite numbers, texts, lists and dicts"
            ) from error
    return copied


def describe_parameters(named: Sequence[Named]) -> list[dict[str, Any]]:
    """Name, shape, dtype, numel and aliases of each parameter; a complex one has a last axis of length 2.

    Of a sharded one the shape is that of this rank's part, beside the whole's and how it is placed.
    """
    return [
        {
            "name": parameter.name,
            "shape": [*local(parameter.tensor).shape, *([2] if parameter.tensor.is_complex() else [])],
            "dtype": str(parameter.tensor.dtype).removeprefix("torch."),
            "numel": local(parameter.tensor).numel() * (2 if parameter.tensor.is_complex() else 1),
            "aliases": list(parameter.aliases),
            **shard_of(parameter.tensor),
        }
        for parameter in named
    ]


def describe_optimizer(*optimizers: Optimizer) -> dict[str, Any]:
    """The class and, for each parameter group, its hyperparameters; of several, the groups counted on."""
    if not optimizers:
        return {}
    kinds = dict.fromkeys(f"{type(each).__module__}.{type(each).__qualname__}" for each in optimizers)
    return {
        "class": " + ".join(kinds),
        "groups": [
            {key: _plain(value) for key, value in group.items() if key not in ("params", "param_names")}
            for optimizer in optimizers
            for group in optimizer.param_groups
        ],
        **({"optimizers": len(optimizers)} if len(optimizers) > 1 else {}),
    }


def describe_change(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between two descriptions of an optimizer, in words; empty where it is the same one.

    A learning rate counts as the one that a scheduler began with. Options that only one of them has do not count:
    versions of torch differ in them.
    """
    kinds = [str(one.get("class")).rpartition(".")[2] for one in (before, now)]
    if before.get("class") != now.get("class"):
        return f"it was {kinds[0]}, now {kinds[1]}"
    groups = [one.get("groups", ()) for one in (before, now)]
    if len(groups[0]) != len(groups[1]):
        return f"it had {len(groups[0])} parameter groups, now {len(groups[1])}"
    changes = {}
    for i, pair in enumerate(zip(*groups, strict=True)):
        old, new = ({**group, "lr": group.get("initial_lr", group.get("lr"))} for group in pair)
        for name in new:
            if name in old and old[name] != new[name] and name not in NOT_COMPARED:
                changes[f"{name}{f' of group {i}' if i else ''}"] = f"was {old[name]}, now {new[name]}"
    return "; ".join(f"{name} {change}" for name, change in changes.items())


def describe_command() -> dict[str, str]:
    """The command line, and the script's name."""
    program = sys.argv[0] if sys.argv and sys.argv[0] else Path(sys.executable).name
    return {"command": shlex.join([Path(program).name, *sys.argv[1:]]), "script": Path(program).name}


def describe_environment(tensors: Sequence[Tensor]) -> dict[str, Any]:
    """Versions, platform, devices, threads, and the commit of the folder that the training runs in."""
    devices = sorted({str(tensor.device) for tensor in tensors})
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "trajectory_tools": version("trajectory-tools"),
        "platform": platform.platform(),
        "devices": [torch.cuda.get_device_name(d) if d.startswith("cuda") else d for d in devices],
        "threads": torch.get_num_threads(),
        "compiled": is_compiled(),
        "git_commit": git_commit(),
    }


def git_commit() -> str | None:
    """The commit that is checked out in the working directory, with ``+changes`` where it was edited since."""
    options = {"capture_output": True, "text": True, "timeout": 5, "env": {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}}
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], **options, check=True)  # type: ignore[call-overload]
        status = subprocess.run(["git", "status", "--porcelain", "-uno"], **options, check=True)  # type: ignore[call-overload]
    except (OSError, subprocess.SubprocessError):
        return None
    return str(head.stdout.strip()) + ("+changes" if status.stdout.strip() else "")


def _plain(value: Any) -> Any:
    """The value as JSON has it; anything without a JSON form as its repr."""
    if isinstance(value, Tensor) and value.numel() == 1:
        return _plain(value.item())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return value if isinstance(value, str | int | float | bool) or value is None else repr(value)


def describe_outcome(error: BaseException | None) -> tuple[str, str | None]:
    """(status, error) of a run that ended with this exception, or without any."""
    if error is None or (isinstance(error, SystemExit) and not error.code):
        return "finished", None
    return "interrupted" if isinstance(error, KeyboardInterrupt) else "failed", f"{type(error).__name__}: {error}"
