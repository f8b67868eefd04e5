"""Computed numbers beside the run: ``analysis/<metric>.parquet``, which can be deleted and computed again."""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import asdict, is_dataclass
from importlib.metadata import version
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from trajectory_tools.metrics.base import Metric
from trajectory_tools.run import Run
from trajectory_tools.store.parts import first_line
from trajectory_tools.store.session import ANALYSIS

__all__ = ["load_saved", "save"]

KEY = b"trajectory_tools"


def load_saved(run: Run, metric: Metric[Any, Any]) -> pd.DataFrame | None:
    """The saved frame, if it was made of the same parts with the same options by the same version; else None.

    A file that was damaged, in whatever place, counts as none.
    """
    path = run.path / ANALYSIS / f"{metric.name}.parquet"
    if not path.exists():
        return None
    try:
        table = pq.read_table(path)
        frame = table.to_pandas()
        if (table.schema.metadata or {}).get(KEY) != _provenance(run, metric, frame):
            return None
    except (OSError, pa.ArrowException, ValueError, TypeError, LookupError):
        return None
    return frame


def save(run: Run, metric: Metric[Any, Any], frame: pd.DataFrame) -> None:
    """Save the frame; where that is not possible (the folder, the frame's types), a warning says so."""
    path = run.path / ANALYSIS / f"{metric.name}.parquet"
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        table = pa.Table.from_pandas(frame, preserve_index=False)
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), KEY: _provenance(run, metric, frame)})
        path.parent.mkdir(exist_ok=True)
        pq.write_table(table, temporary, compression="zstd")
        temporary.replace(path)
    except (OSError, pa.ArrowException, ValueError, TypeError) as error:
        warnings.warn(f"the {metric.name} of {run.name} was not saved: {first_line(error)}", stacklevel=2)


def _provenance(run: Run, metric: Metric[Any, Any], frame: pd.DataFrame) -> bytes:
    """What the numbers were made of and by, and what they are."""
    parts = hashlib.sha256(
        "".join(part.sha256 for table in ("tensors", "scalars", "probes") for part in run.parts(table)).encode()
    )
    return json.dumps(
        {
            "metric": metric.name,
            "metric_version": metric.version,
            "options": asdict(metric) if is_dataclass(metric) else repr(metric),
            "package": version("trajectory-tools"),
            "parts": parts.hexdigest(),
            "frame": [[str(column), str(dtype)] for column, dtype in frame.dtypes.items()],
            "numbers": hashlib.sha256(pd.util.hash_pandas_object(frame, index=False).to_numpy()).hexdigest(),
            "symmetries": run.metadata.get("symmetries", []),
        },
        sort_keys=True,
        default=repr,
    ).encode()
