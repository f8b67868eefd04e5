"""Parts: the committed files of a run, their names, their identity, and the manifest that lists them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from trajectory_tools.errors import DamagedPart
from trajectory_tools.store.files import append_line
from trajectory_tools.store.schema import TABLES

__all__ = [
    "IDENTITY_KEY",
    "Part",
    "PartId",
    "committed_parts",
    "footer_crc32",
    "read_manifest",
    "repair_manifest",
    "sha256",
]

MANIFEST = "manifest.jsonl"
IDENTITY_KEY = "trajectory_tools"
_NAME = re.compile(r"s(\d{3,})-r(\d{4,})-(\d{6,})\.parquet")


@dataclass(frozen=True, order=True)
class PartId:
    """Which part of a table: the session (a resumed run opens the next one), the rank, the sequence number."""

    session: int
    rank: int
    sequence: int

    @property
    def file_name(self) -> str:
        """``s000-r0000-000000.parquet``."""
        return f"s{self.session:03d}-r{self.rank:04d}-{self.sequence:06d}.parquet"

    @classmethod
    def parse(cls, file_name: str) -> PartId | None:
        """The identity in a file's name; ``None`` for a file that is no part."""
        match = _NAME.fullmatch(file_name)
        return cls(*map(int, match.groups())) if match else None


@dataclass(frozen=True)
class Part:
    """One committed file, as its manifest line describes it. ``file`` is relative to the run folder."""

    file: str
    bytes: int
    sha256: str
    rows: int
    first_step: int
    last_step: int
    footer_crc32: int

    @property
    def table(self) -> str:
        """``scalars``, ``tensors`` or ``probes``."""
        return self.file.split("/")[0]

    @property
    def id(self) -> PartId:
        """Session, rank and sequence, from the file's name."""
        part_id = PartId.parse(self.file.split("/")[1])
        assert part_id is not None, f"{self.file} is no part's name"
        return part_id

    def open(self, folder: Path, run_id: str) -> pq.ParquetFile:
        """The part, opened for reading with page checksums verified; ``DamagedPart`` where it is not what it was."""
        path = folder / self.file
        try:
            if path.stat().st_size != self.bytes:
                raise DamagedPart(f"{path} has {path.stat().st_size} bytes where {self.bytes} were committed; {ADVICE}")
            if footer_crc32(path) != self.footer_crc32:
                raise DamagedPart(f"{path} has changed since it was committed; {ADVICE}")
            file = pq.ParquetFile(path, page_checksum_verification=True)
        except FileNotFoundError as error:
            raise DamagedPart(f"{path} is gone, though its manifest lists it; {ADVICE}") from error
        except (OSError, pa.ArrowException) as error:
            raise DamagedPart(f"{path} cannot be read ({first_line(error)}); {ADVICE}") from error
        found = identity(file.metadata)
        if found.get("run_id") != run_id:
            raise DamagedPart(
                f"{path} belongs to another run (id {found.get('run_id')} in place of {run_id}); {ADVICE}"
            )
        if (named := asdict(self.id)) != {key: found.get(key) for key in named}:
            raise DamagedPart(f"{path} holds another part of this run than its name says; {ADVICE}")
        return file

    def read_steps(self, folder: Path, run_id: str) -> NDArray[np.int64]:
        """The step of each row; ``DamagedPart`` as for ``open``."""
        with self.open(folder, run_id) as file:
            try:
                steps: NDArray[np.int64] = file.read(columns=["step"]).column("step").to_numpy()
            except (OSError, pa.ArrowException, KeyError) as error:
                raise DamagedPart(f"{folder / self.file} cannot be read ({first_line(error)}); {ADVICE}") from error
        return steps


ADVICE = "`traj verify` lists what is damaged, and --skip-damaged (damaged='skip') goes on without it"


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, for one-sentence errors."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def sha256(path: Path) -> str:
    """Hex digest of the file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def footer_crc32(path: Path) -> int:
    """CRC-32 of the Parquet footer: page checksums do not cover it, and a damaged one can abort the whole process."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 8, 0))
        length = int.from_bytes(file.read(4), "little")
        file.seek(max(size - 8 - length, 0))
        return zlib.crc32(file.read())


def identity(metadata: pq.FileMetaData) -> dict[str, Any]:
    """What the writer put into the footer: run id, session, rank, sequence, step range, format version."""
    footer = metadata.metadata or {}
    try:
        data = json.loads(footer.get(IDENTITY_KEY.encode(), b"{}"))
    except ValueError:  # page checksums do not cover the footer
        return {}
    return data if isinstance(data, dict) else {}


def append_to_manifest(folder: Path, part: Part) -> None:
    """Add the part's line to the manifest."""
    append_line(folder / MANIFEST, asdict(part))


def read_manifest(folder: Path) -> dict[str, Part]:
    """File → part, from the lines that can be read: a kill may leave the last one torn."""
    path = folder / MANIFEST
    parts = {}
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            part = Part(**json.loads(line))
            table, name = part.file.split("/")
        except (ValueError, TypeError, AttributeError):
            continue
        if table in TABLES and PartId.parse(name):
            parts[part.file] = part
    return parts


def committed_parts(folder: Path) -> list[Part]:
    """Every part of the run in order: those that the manifest lists, and those whose line a kill prevented.

    A part listed but missing is returned too; opening it says that it is gone.
    """
    parts = read_manifest(folder)
    for file in _part_files(folder):
        if file not in parts:
            parts[file] = _describe(folder, file)
    return sorted(parts.values(), key=lambda part: (TABLES.index(part.table), part.id))


def repair_manifest(folder: Path) -> None:
    """Write the lines that a kill prevented between a part's move and its manifest line."""
    listed = read_manifest(folder)
    for part in committed_parts(folder):
        if part.file not in listed:
            append_to_manifest(folder, part)


def _part_files(folder: Path) -> Iterator[str]:
    for table in TABLES:
        if (folder / table).is_dir():
            yield from (f"{table}/{p.name}" for p in sorted((folder / table).iterdir()) if PartId.parse(p.name))


def _describe(folder: Path, file: str) -> Part:
    """The part as its own footer tells it; one that cannot be read spans every step, so that no reader misses it."""
    path = folder / file
    size, digest, crc = path.stat().st_size, sha256(path), footer_crc32(path)
    try:
        metadata = pq.read_metadata(path)
        found = identity(metadata)
        return Part(file, size, digest, metadata.num_rows, int(found["first_step"]), int(found["last_step"]), crc)
    except (OSError, pa.ArrowException, ValueError, KeyError):
        return Part(file, size, digest, 0, 0, 2**63 - 1, crc)
