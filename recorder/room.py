"""Whether memory and disk hold what is about to be recorded, said before it is."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

from trajectory_tools.errors import BadArgument
from trajectory_tools.store.size import ProbePlan

__all__ = ["check_room"]


def check_room(plan: ProbePlan, itemsize: int, folder: Path) -> None:
    """Raise ``BadArgument`` with the sizes where a probe takes more than there is, of values of so many bytes."""
    asked: tuple[tuple[str, int, Callable[[], int | None]], ...] = (
        ("disk", plan.bytes(itemsize), lambda: free_disk(folder)),
        ("memory", plan.memory(itemsize), free_memory),
    )
    for place, needed, free in asked:
        if needed and (there := free()) is not None and needed > there:
            advice = "probe fewer" if plan.sketch else "probe fewer, or record a sketch (sketch=, --probe-sketch)"
            raise BadArgument(
                f"a probe of {plan.n_samples:,} samples of {plan.n_values:,} values each takes {needed / 1e9:,.2f} GB"
                f" of {place}, and {there / 1e9:,.2f} GB are free; {advice}"
            )


def free_disk(folder: Path) -> int | None:
    """Bytes that can be written where the folder is, or will be made; None where the system does not say."""
    for place in (folder, *folder.parents):
        with contextlib.suppress(OSError):
            return shutil.disk_usage(place).free
    return None


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
