"""Format version 1: the tables of a run folder, their columns, and how they are encoded in Parquet."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

__all__ = [
    "FORMAT_NAME",
    "FORMAT_VERSION",
    "MAX_ROW_VALUES",
    "RESERVED_SCALARS",
    "ROW_GROUP_VALUES",
    "STATS",
    "TABLES",
    "VALUE_COLUMNS",
    "scalars_schema",
    "stats_schema",
    "tensors_schema",
    "writer_options",
]

FORMAT_NAME = "trajectory-tools"
FORMAT_VERSION = 1

TABLES = ("scalars", "tensors", "stats", "probes")
"""The folders of a run that hold parts."""

VALUE_COLUMNS = ("param", "grad", "update")
"""θ_t before the step, the gradient as the optimizer used it, and θ_{t+1} − θ_t as it happened."""

STATS = {"norm": pa.float64(), "min": pa.float64(), "max": pa.float64(), "zeros": pa.int64(), "nonfinite": pa.int64()}
"""What ``stats`` says of each of param, grad and update: ``param_norm``, ``param_min``, and so on."""

MAX_ROW_VALUES = 2**20
"""A parameter with more elements is split into rows by ``offset``."""

ROW_GROUP_VALUES = 2**20
"""About how many values of one column a row group holds."""

RESERVED_SCALARS = ("step", "lr", "wall_time", "record_seconds", "skipped", "n_evals")
"""Scalar columns that the recorder fills itself; ``loss`` is there in every run, other names are the user's."""


def tensors_schema(dtype: str) -> pa.Schema:
    """Columns of ``tensors``: one row per (step, parameter, offset); ``dtype`` is ``float32`` or ``float64``."""
    values = pa.list_(pa.field("element", pa.type_for_alias(dtype), nullable=False))
    return pa.schema(
        [
            pa.field("step", pa.int64(), nullable=False),
            pa.field("name", pa.dictionary(pa.int32(), pa.string()), nullable=False),
            pa.field("offset", pa.int64(), nullable=False),
            *(pa.field(column, values) for column in VALUE_COLUMNS),
        ]
    )


def scalars_schema() -> pa.Schema:
    """Columns of ``scalars``, one row per step; each name that the user logs adds a nullable float64."""
    return pa.schema(
        [
            pa.field("step", pa.int64(), nullable=False),
            pa.field("loss", pa.float64()),
            pa.field("lr", pa.float64()),
            pa.field("wall_time", pa.float64(), nullable=False),
            pa.field("record_seconds", pa.float64(), nullable=False),
            pa.field("skipped", pa.bool_(), nullable=False),
            pa.field("n_evals", pa.int32(), nullable=False),
        ]
    )


def stats_schema() -> pa.Schema:
    """Columns of ``stats``: one row per (step, parameter), at every step, whatever the schedule of the tensors.

    Of each of param, grad and update: ``norm``, ‖·‖₂ over all elements, so NaN or infinite where one is; ``min`` and
    ``max`` of the finite elements, null where there is none; ``zeros``, how many are exactly 0; ``nonfinite``, how many
    are NaN or infinite. Those of a gradient that was None are null. A complex parameter counts as its real and
    imaginary parts.
    """
    return pa.schema(
        [
            pa.field("step", pa.int64(), nullable=False),
            pa.field("name", pa.dictionary(pa.int32(), pa.string()), nullable=False),
            *(pa.field(f"{kind}_{stat}", dtype) for kind in VALUE_COLUMNS for stat, dtype in STATS.items()),
        ]
    )


def writer_options(schema: pa.Schema, compression: str) -> dict[str, Any]:
    """Options of ``ParquetWriter``: values split by byte where compressed; dictionary, statistics on the keys only."""
    # Splitting by byte makes nothing smaller by itself: without compression values are written as they are.
    split = compression != "none"
    lists = [field.name for field in schema if split and pa.types.is_list(field.type)]
    keys = [name for name in schema.names if name in ("step", "name", "offset")]
    return {
        "compression": compression,
        "compression_level": 1 if compression == "zstd" else None,
        "use_dictionary": ["name"] if "name" in schema.names else False,
        "column_encoding": {f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in lists} or None,
        "write_statistics": keys,
        "write_page_checksum": True,
    }
