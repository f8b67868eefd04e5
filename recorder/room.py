"""Whether memory and disk hold what is about to be recorded, said before it is."""

from __future__ import annotations

import shutil
from pathlib import Path

from trajectory_tools.errors import BadArgument

__all__ = ["check_room"]


def check_room(what: str, folder: Path, *, disk: int, memory: int, advice: str) -> None:
    """Raise ``BadArgument`` with the sizes where these bytes are more than there are."""
    for place, needed, there in (("disk", disk, shutil.disk_usage(folder).free), ("memory", memory, free_memory())):
        if there is not None and needed > there:
            raise BadArgument(
                f"{what} takes {needed / 1e9:,.2f} GB of {place}, and {there / 1e9:,.2f} GB are free; {advice}"
            )


def free_memory() -> int | None:
    """Bytes that can be allocated; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None
    try:  # a container's own limit
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return free
    return min(free, max(limit, 0))
