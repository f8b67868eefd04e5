"""run.json: who, what, how. Written before the first step, replaced as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trajectory_tools.errors import BadArgument, NotARun, UnsupportedFormat
from trajectory_tools.store.files import read_json
from trajectory_tools.store.schema import FORMAT_NAME, FORMAT_VERSION

__all__ = ["RUN_FILE", "merged_params", "read_metadata"]

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
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NotARun(f"{folder / RUN_FILE} cannot be read as a run's description ({error!r})") from error
    if name != FORMAT_NAME:
        raise NotARun(f"{folder / RUN_FILE} is of the format {name!r}, not {FORMAT_NAME!r}")
    if not isinstance(version, int):
        raise NotARun(f"{folder / RUN_FILE} cannot be read as a run's description: its version is {version!r}")
    if version > FORMAT_VERSION:
        raise UnsupportedFormat(
            f"{folder} was recorded in format version {version}, this version reads up to {FORMAT_VERSION};"
            " upgrade trajectory-tools"
        )
    for key, kind in (("run_id", str), ("params", list), ("sessions", list)):
        if not isinstance(data.get(key), kind):
            raise NotARun(
                f"{folder / RUN_FILE} cannot be read as a run's description: its {key!r} is missing or damaged"
            )
    return data


def merged_params(earlier: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The parameters of all of a run's steps, those that the optimizer holds ``now`` first, once each.

    What was recorded stays readable only as long as run.json has the shape that it was recorded with.
    """
    shapes = {param["name"]: param["shape"] for param in earlier}
    for param in now:
        if (before := shapes.get(param["name"], param["shape"])) != param["shape"]:
            raise BadArgument(
                f"the run has recorded {param['name']!r} with the shape {tuple(before)}, found {tuple(param['shape'])};"
                " record into another folder"
            )
    names = {param["name"] for param in now}
    return [*now, *(param for param in earlier if param["name"] not in names)]
