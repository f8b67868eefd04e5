"""The hook that captures a run. Importing this loads no torch: a script that is recorded sets up the process first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trajectory_tools.recorder.schedule import at, every, logarithmic

if TYPE_CHECKING:
    from trajectory_tools.recorder.recorder import Recorder

__all__ = ["Recorder", "at", "every", "logarithmic"]


def __getattr__(name: str) -> Any:
    """Load the recorder when it is first used."""
    if name != "Recorder":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from trajectory_tools.recorder.recorder import Recorder

    return Recorder
