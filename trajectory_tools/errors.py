"""The errors a user can meet: each message is one sentence that says what happened, what was found, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "BadArgument",
    "DamagedPart",
    "MissingData",
    "NotARun",
    "OutputExists",
    "RecordingFailed",
    "RunBusy",
    "TrajectoryError",
    "UnknownName",
    "UnsupportedFormat",
]


class TrajectoryError(Exception):
    """Base of every error that this package raises on purpose; the command line prints it and exits with code 2."""


class BadArgument(TrajectoryError, ValueError):
    """An argument has a value that cannot be used."""


class UnknownName(BadArgument):
    """A name that is not registered; the message lists near ones."""

    def __init__(self, what: str, name: str, known: Iterable[str], advice: str = "") -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(known) or 'none'}"
        super().__init__(f"unknown {what} {name!r}; {hint}{f'; {advice}' if advice else ''}")


class NotARun(TrajectoryError):
    """The path holds no recorded run."""


class RunBusy(TrajectoryError):
    """Another recorder is writing to this folder."""


class OutputExists(TrajectoryError):
    """The output is there already and was not to be replaced."""


class UnsupportedFormat(TrajectoryError):
    """The run was written in a format that this version cannot read."""


class DamagedPart(TrajectoryError):
    """A committed part is missing, truncated or changed."""


class MissingData(TrajectoryError):
    """The run does not hold what was asked for; says what it has and how to record it."""


class RecordingFailed(TrajectoryError):
    """The recorder stopped writing (disk full, folder gone); its cause is chained, committed parts stay readable."""
