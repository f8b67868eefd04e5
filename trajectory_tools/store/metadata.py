"""run.json: who, what, how. Written before the first step, replaced as a whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trajectory_tools.errors import NotARun, UnsupportedFormat
from trajectory_tools.store.files import read_json
from trajectory_tools.store.schema import FORMAT_NAME, FORMAT_VERSION

__all__ = ["RUN_FILE", "read_metadata"]

RUN_FILE = "run.json"


def read_metadata(folder: Path) -> dict[str, Any]:
    """The content of run.json, once its format is known to be one that this version reads."""
    if not folder.exists():
        raise NotARun(f"no run at {folder}: there is no such folder; `traj list` shows the runs below a folder")
    try:
        data = read_json(folder / RUN_FILE)
        found = data["format"]
        name, version = found["name"], found["version"]
    except FileNotFoundError as error:
        raise NotARun(f"{folder} is no run: it has no {RUN_FILE}; give the folder that a recorder wrote") from error
    except NotADirectoryError as error:
        raise NotARun(f"{folder} is no run: it is a file; give the folder that a recorder wrote") from error
    except (json.JSONDecodeError, UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise NotARun(f"{folder / RUN_FILE} cannot be read as a run's description ({error})") from error
    if name != FORMAT_NAME:
        raise NotARun(f"{folder / RUN_FILE} is of the format {name!r}, not {FORMAT_NAME!r}")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise UnsupportedFormat(
            f"{folder} was recorded in format version {version}, this version reads up to {FORMAT_VERSION};"
            " upgrade trajectory-tools"
        )
    return data
