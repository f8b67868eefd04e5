"""Writing one file: nothing is replaced unasked, and a reader sees the whole file or none."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from trajectory_tools.errors import OutputExists, TrajectoryError

__all__ = ["new_file"]


@contextmanager
def new_file(path: Path, *, force: bool) -> Iterator[Callable[[str], None]]:
    """What writes the file's text, made before the text is, so that a bad path is found at once; folders are made.

    Raises ``OutputExists`` without ``force``, ``TrajectoryError`` where the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")

    def write(text: str) -> None:
        temporary.write_bytes(text.encode("utf-8", "replace"))  # a name from outside may hold a lone surrogate
        _refuse_existing(path, force)
        temporary.replace(path)

    try:
        _refuse_existing(path, force)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        try:
            yield write
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise TrajectoryError(f"{path} cannot be written: {error.strerror or error}; choose another output") from error


def _refuse_existing(path: Path, force: bool) -> None:
    if path.is_dir():
        raise TrajectoryError(f"{path} is a folder; give the name of a file, such as {path / 'report.html'}")
    if path.exists() and not force:
        raise OutputExists(f"{path} is there already; choose another output, or replace it with --force (force=True)")
