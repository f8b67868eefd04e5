"""A run that goes on: what it must have in common with what there is, and what is noted where it has not."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trajectory_tools.errors import BadArgument
from trajectory_tools.recorder.description import describe_change
from trajectory_tools.recorder.warning import warn
from trajectory_tools.store.selection import Selection
from trajectory_tools.store.session import Session

__all__ = ["note_other_optimizer", "refuse_other_selection"]


def refuse_other_selection(path: Path, before: Mapping[str, Any], selection: Selection) -> None:
    """A run has one selection: what its parts hold could not be told otherwise. ``before`` is its run.json."""
    recorded = Selection.from_json(before.get("selection") or {})
    if recorded != selection:
        raise BadArgument(
            f"{path} has {recorded}, and would go on with {selection}; give the same match, subsample,"
            " projection and selection_seed, or record into another folder"
        )


def note_other_optimizer(session: Session, earlier: dict[str, Any], now: dict[str, Any]) -> None:
    """Where the run goes on with another optimizer, say so, and note with each session which one it had."""
    if not (change := describe_change(earlier, now)):
        return
    warn(f"{session.folder} goes on with another optimizer than before ({change}); run.json notes it with each session")
    *before, this = session.metadata["sessions"]
    for entry in before:
        entry.setdefault("optimizer", earlier)
    this["optimizer"] = now
    with contextlib.suppress(OSError):  # the writer says so when it meets it, and the session's end tries again
        session.update()
