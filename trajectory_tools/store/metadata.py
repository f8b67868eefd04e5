"""run.json: who, what, how. Written before the first step, replaced as a whole. Importing this loads no NumPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trajectory_tools.errors import BadArgument, NotARun, OutputExists, UnsupportedFormat
from trajectory_tools.store.files import read_json

__all__ = [
    "FORMAT_NAME",
    "FORMAT_VERSION",
    "RUN_FILE",
    "merged_params",
    "read_metadata",
    "refuse_foreign",
    "refuse_unwritable",
]

FORMAT_NAME = "trajectory-tools"
FORMAT_VERSION = 1
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


def refuse_foreign(folder: Path) -> None:
    """Raise for a folder that holds anything but a run; what a kill before run.json can leave is nothing."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputExists(f"{folder} is a file; choose a folder to record into")
    if (folder / RUN_FILE).exists():
        try:
            read_metadata(folder)
        except NotARun as error:
            raise OutputExists(f"{error}; it is not touched, choose a new folder to record into") from error
        except UnsupportedFormat:
            pass  # a run, if one of a newer version
    elif any(entry.name not in (".lock", f".{RUN_FILE}.tmp") for entry in folder.iterdir()):
        raise OutputExists(
            f"{folder} is not empty and holds no run, so it is not touched; choose a new folder to record into"
        )


def refuse_unwritable(folder: Path) -> None:
    """Raise where the folder could not be made or written: said before anything is trained for it."""
    import tempfile

    nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if _exists(path))
    if not nearest.is_dir():
        raise OutputExists(f"cannot record into {folder}: {nearest} is a file; choose another folder")
    try:  # permissions do not tell everything: not of root's rights, nor of a file system that is read-only
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise BadArgument(f"cannot record into {folder}: {nearest} cannot be written; choose another folder") from error


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # below a folder that may not be searched
        return False


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
