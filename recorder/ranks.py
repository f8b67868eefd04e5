"""Training in several processes: who records, what a shard is, and whether the ranks hold the same parameters."""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Agreement", "is_sharded", "local", "process_rank", "shard_of"]


def process_rank() -> tuple[int, int]:
    """(this process's rank, how many there are): of the process group, or as a launcher's environment says."""
    if _is_distributed():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    try:
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except (KeyError, ValueError):
        return 0, 1


def is_sharded(tensors: Sequence[Tensor]) -> bool:
    """Whether each rank holds another part of these (FSDP2's ``fully_shard``, tensor parallelism)."""
    return any(not place.is_replicate() for tensor in tensors for place in getattr(tensor, "placements", ()))


def local(tensor: Tensor) -> Tensor:
    """What this rank holds of the tensor. A DTensor's own part; nothing is communicated."""
    return tensor.to_local() if _is_dtensor(tensor) else tensor  # type: ignore[attr-defined]


def shard_of(tensor: Tensor) -> dict[str, Any]:
    """Of which whole this rank's part is: ``global_shape``, ``placements``, ``mesh``, and where the part begins."""
    if not _is_dtensor(tensor):
        return {}
    mesh, placements = tensor.device_mesh, tensor.placements  # type: ignore[attr-defined]
    shape, start = list(tensor.shape), [0] * tensor.dim()
    for axis, place in enumerate(placements):
        if place.is_shard():
            dim = place.dim
            chunk = -(-shape[dim] // mesh.size(axis))  # as torch.chunk cuts
            begin = min(chunk * mesh.get_local_rank(axis), shape[dim])
            start[dim] += begin
            shape[dim] = min(chunk, shape[dim] - begin)
    return {
        "global_shape": list(tensor.shape),
        "placements": [repr(place) for place in placements],
        "mesh": list(mesh.shape),
        "starts_at": start,
    }


class Agreement:
    """Whether all ranks train the same parameters (DDP), looked at in steps 0, 1, 2, 4, 8, ...

    Each rank leaves a checksum of its θ_t in the process group's key-value store, and rank 0 looks whether the others'
    are there: no rank waits for another, and a rank that is late is compared the next time.
    """

    def __init__(self, name: str) -> None:
        self.rank, self.world = process_rank()
        self._name = name
        self._open: dict[tuple[int, int], int] = {}  # (step, rank) → rank 0's checksum, to be compared
        self.compared_until = -1
        self.differs: tuple[int, int] | None = None

    def look(self, step: int, tensors: Sequence[Tensor]) -> None:
        """Leave, or compare, the checksum of this step, if it is one of those."""
        if step & (step - 1) or self.world < 2 or self.differs:
            return
        if (store := _store()) is None:
            return
        mine = _checksum(tensors)
        if self.rank:
            store.set(self._key(step, self.rank), str(mine))
            return
        self._open |= {(step, rank): mine for rank in range(1, self.world)}
        self.compare()

    def compare(self) -> None:
        """Compare what the other ranks have left by now."""
        if (store := _store()) is None:
            return
        for (step, rank), mine in list(self._open.items()):
            key = self._key(step, rank)
            if store.check([key]):
                del self._open[step, rank]
                if int(store.get(key)) == mine:
                    self.compared_until = max(self.compared_until, step)
                else:
                    self.differs = self.differs or (step, rank)

    def outcome(self) -> dict[str, Any]:
        """What run.json says of it."""
        if self.differs is not None:
            return {"world_size": self.world, "agree": False, "differ_at_step": self.differs[0]}
        agree = True if self.compared_until >= 0 else None
        return {"world_size": self.world, "agree": agree, "compared_until": self.compared_until}

    def _key(self, step: int, rank: int) -> str:
        return f"trajectory_tools/{self._name}/{step}/{rank}"


def _checksum(tensors: Sequence[Tensor]) -> int:
    checksum = 0
    for tensor in tensors:
        values = tensor.detach().contiguous().cpu().reshape(-1)
        if values.numel():
            checksum = zlib.crc32(values.view(torch.uint8).numpy().tobytes(), checksum)
    return checksum


def _store() -> Any:
    """The process group's key-value store; ``None`` where there is none (any more)."""
    try:
        return torch.distributed.distributed_c10d._get_default_store() if _is_distributed() else None
    except (AttributeError, ValueError):
        return None


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _is_dtensor(tensor: Tensor) -> bool:
    module = sys.modules.get("torch.distributed.tensor")  # where it was not imported there is none
    return module is not None and isinstance(tensor, module.DTensor)
