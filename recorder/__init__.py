"""The hook that captures a run."""

from trajectory_tools.recorder.recorder import Recorder
from trajectory_tools.recorder.schedule import at, every, logarithmic

__all__ = ["Recorder", "at", "every", "logarithmic"]
