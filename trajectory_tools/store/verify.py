"""Whether a run's committed files are still the bytes that were committed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trajectory_tools.errors import DamagedPart
from trajectory_tools.store.parts import Part, committed_parts, sha256

__all__ = ["Finding", "damaged_parts", "verify"]


@dataclass(frozen=True)
class Finding:
    """One part and what is wrong with it; ``problem`` is empty where nothing is."""

    part: Part
    problem: str

    @property
    def damaged(self) -> bool:
        """Whether the part is not what was committed."""
        return bool(self.problem)


def verify(folder: Path, run_id: str) -> list[Finding]:
    """Check every committed part: there, of its size, of its sha256, readable, and of this run."""
    return [Finding(part, _problem(folder, run_id, part)) for part in committed_parts(folder)]


def damaged_parts(folder: Path, run_id: str) -> list[Finding]:
    """The findings of ``verify`` that are damaged."""
    return [finding for finding in verify(folder, run_id) if finding.damaged]


def _problem(folder: Path, run_id: str, part: Part) -> str:
    path = folder / part.file
    if not path.exists():
        return "missing"
    if (size := path.stat().st_size) != part.bytes:
        return f"{size} bytes in place of {part.bytes}"
    if sha256(path) != part.sha256:
        return "changed: its sha256 is not the committed one"
    try:
        part.open(folder, run_id).close()
    except DamagedPart as error:
        return str(error)
    return ""
