"""A recording session: the folder's lock, run.json before the first step, the writer, and how it all ended."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from trajectory_tools.errors import (
    BadArgument,
    OutputExists,
    RecordingFailed,
    TrajectoryError,
)
from trajectory_tools.store.files import write_json
from trajectory_tools.store.lock import lock_run
from trajectory_tools.store.metadata import (
    FORMAT_NAME,
    FORMAT_VERSION,
    RUN_FILE,
    merged_params,
    read_metadata,
    refuse_foreign,
)
from trajectory_tools.store.parts import MANIFEST, committed_parts, first_line, repair_manifest
from trajectory_tools.store.schema import PROBE_TABLES, TABLES
from trajectory_tools.store.writer import RunWriter, WriterOptions

__all__ = ["ANALYSIS", "IfExists", "Session", "remove_run"]

IfExists = Literal["error", "resume", "replace"]
ANALYSIS = "analysis"


class Session:
    """One recorder's hold on a run folder, from its lock to its last part.

    ``description`` is what run.json says beside the format, the run's id and its sessions. ``if_exists`` is for a
    folder that holds a run: refuse, open its next session, or replace it. Anything else is never touched.
    ``next_step`` is the step after the last one that earlier sessions recorded.
    """

    def __init__(
        self,
        folder: Path,
        description: Mapping[str, Any],
        *,
        if_exists: IfExists = "error",
        run_id: str | None = None,
        rank: int = 0,
        **writer_options: Any,
    ) -> None:
        options = WriterOptions(**writer_options)
        if if_exists not in ("error", "resume", "replace"):
            raise BadArgument(f"if_exists is 'error', 'resume' or 'replace', found {if_exists!r}")
        self.folder = folder
        try:
            refuse_foreign(folder)
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = lock_run(folder)
            try:
                previous = self._take_over(if_exists)
                self._open(description, previous, run_id, rank, options)
            except BaseException:
                self._lock.release()
                raise
        except OSError as error:
            raise TrajectoryError(
                f"cannot record into {folder}: {first_line(error)}; choose a folder that can be written"
            ) from error

    def update(self, **changes: Any) -> None:
        """Change what run.json says; parameters are added to those that it lists."""
        if "params" in changes:
            changes["params"] = merged_params(self.metadata.get("params", []), changes["params"])
        self.metadata |= changes
        write_json(self.folder / RUN_FILE, self.metadata)

    def close(self, status: str, **outcome: Any) -> None:
        """Commit what is queued, write down how it ended, free the folder; raises ``RecordingFailed``."""
        try:
            self.writer.close()
        except RecordingFailed as error:
            status, outcome["error"] = "failed", str(error)
            raise
        finally:
            try:
                self._entry |= {
                    "ended_at": utc_now(),
                    "status": status,
                    "wait_seconds": self.writer.wait_seconds,
                    **outcome,
                }
                self.update(status=status)
            except OSError as error:
                if self.writer.error is None:
                    raise RecordingFailed(f"cannot finish {self.folder}: {first_line(error)}") from error
            finally:
                self._lock.release()

    def _take_over(self, if_exists: IfExists) -> dict[str, Any] | None:
        """The metadata of the run to resume, after clearing what a kill left behind; ``None`` for a new run."""
        if not (self.folder / RUN_FILE).exists():
            return None
        if if_exists == "replace":
            _clear(self.folder)
            return None
        if if_exists == "error":
            raise OutputExists(
                f"{self.folder} holds a run already; choose another folder, or replace it"
                " (--force, if_exists='replace'), or continue it (if_exists='resume')"
            )
        previous = read_metadata(self.folder)
        for table in TABLES:
            for left_over in (self.folder / table).glob(".*.tmp"):
                left_over.unlink()
        repair_manifest(self.folder)
        return previous

    def _open(
        self,
        description: Mapping[str, Any],
        previous: dict[str, Any] | None,
        run_id: str | None,
        rank: int,
        options: WriterOptions,
    ) -> None:
        sessions = previous["sessions"] if previous else []
        parts = [part for part in committed_parts(self.folder) if part.rows]
        number = 1 + max([-1, *(entry["session"] for entry in sessions), *(part.id.session for part in parts)])
        # The last session with parts has superseded what earlier ones recorded further on.
        latest = max((part.id.session for part in parts), default=0)
        of_latest = [part for part in parts if part.id.session == latest]
        made = [part.last_step for part in of_latest if part.table not in PROBE_TABLES]
        probed = [part.first_step for part in of_latest]  # in front of a step that was perhaps not made
        self.next_step = 1 + max(made) if made else min(probed, default=0)
        self._entry: dict[str, Any] = {"session": number, "rank": rank, "started_at": utc_now(), "status": "recording"}
        own: dict[str, Any] = {
            "format": {"name": FORMAT_NAME, "version": FORMAT_VERSION},
            "run_id": previous["run_id"] if previous else run_id or uuid.uuid4().hex,
            "created_at": previous["created_at"] if previous else utc_now(),
            "status": "recording",
            "sessions": [*sessions, self._entry],
        }
        self.metadata = own | dict(description) | own  # no description can change what makes the run readable
        self.metadata["params"] = merged_params(previous["params"] if previous else [], description.get("params", []))
        write_json(self.folder / RUN_FILE, self.metadata)
        for table in ("scalars", "tensors"):
            (self.folder / table).mkdir(exist_ok=True)
        self.writer = RunWriter(self.folder, run_id=self.metadata["run_id"], session=number, rank=rank, options=options)


def remove_run(folder: Path) -> None:
    """Remove a run, and its folder if nothing else is in it; ``NotARun`` or ``RunBusy`` where that must not be."""
    read_metadata(folder)
    lock = lock_run(folder)
    try:
        _clear(folder)
    finally:
        lock.release()
    (folder / ".lock").unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def _clear(folder: Path) -> None:
    for name in (*TABLES, ANALYSIS):
        if (folder / name).exists():
            shutil.rmtree(folder / name)
    for name in (MANIFEST, RUN_FILE):
        (folder / name).unlink(missing_ok=True)


def utc_now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
