"""Durable files: synced writes, moves that never replace, and small files that are replaced as a whole."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

__all__ = ["append_line", "move_without_replacing", "read_json", "sync", "write_json"]

# What a file system answers that has no hard links (FAT, some network and FUSE mounts).
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES, errno.EMLINK}


def sync(path: Path) -> None:
    """Return once the file's bytes, or the folder's entries, are on the disk."""
    if path.is_dir() and os.name == "nt":  # Windows cannot open a folder, and needs no such call
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move_without_replacing(source: Path, target: Path) -> None:
    """Give ``source`` the name ``target``; raises ``FileExistsError`` where that name is taken."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # The folder's lock keeps other recorders out between these two lines.
        if target.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        source.rename(target)
    else:
        source.unlink()
    sync(target.parent)


def append_line(path: Path, data: dict[str, Any]) -> None:
    """Append one JSON line and sync; a torn last line, left by a kill, is ended first."""
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            torn = file.read(1) != b"\n"
        else:
            torn = False
        file.write(b"\n" * torn + json.dumps(data).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Replace the file as a whole: a reader sees the old text or the new one, also after a kill."""
    temporary = path.with_name(f".{path.name}.tmp")
    # A lone surrogate, from an argument that is no UTF-8, becomes its JSON escape.
    with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
        json.dump(data, file, indent=2, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync(path.parent)


def read_json(path: Path) -> dict[str, Any]:
    """The object in the file; ``ValueError`` where it holds anything else."""
    data = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(data, dict):
        raise ValueError(f"expected an object, found {type(data).__name__}")
    return data
