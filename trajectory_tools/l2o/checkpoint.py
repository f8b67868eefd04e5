"""Checkpoints of a meta-training: written as a whole or not at all."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import torch

from trajectory_tools.errors import BadArgument, TrajectoryError
from trajectory_tools.store.files import sync

__all__ = ["load_checkpoint", "save_checkpoint"]

FORMAT = "trajectory-tools meta-training 1"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Replace the file by one that holds ``state`` (tensors, numbers, texts); after a kill it is the old or the new.

    Raises ``TrajectoryError`` where it cannot be written; what was there before stays.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(buffer.getbuffer())
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise TrajectoryError(
            f"the checkpoint {path} cannot be written: {error.strerror or error}; meta-training stopped, and an earlier"
            " checkpoint, if there was one, is still whole"
        ) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """What ``save_checkpoint`` wrote; nothing in the file is run. Raises ``BadArgument`` for anything else."""
    if not path.is_file():
        raise BadArgument(f"there is no checkpoint {path} to go on from; start without --resume")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or foreign file can raise anything
        raise BadArgument(
            f"{path} is no checkpoint of a meta-training, or is damaged; start without --resume"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise BadArgument(f"{path} is no checkpoint of a meta-training of this version; start without --resume")
    return state
