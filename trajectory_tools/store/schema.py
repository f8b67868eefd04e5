"""Format version 1: the tables of a run folder, their columns, and how they are encoded in Parquet."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

__all__ = [
    "MAX_ROW_VALUES",
    "PROBE_SOURCES",
    "PROBE_TABLES",
    "RESERVED_SCALARS",
    "ROW_GROUP_VALUES",
    "STATS",
    "TABLES",
    "VALUE_COLUMNS",
    "probe_products_schema",
    "probes_schema",
    "scalars_schema",
    "stats_schema",
    "tensors_schema",
    "writer_options",
]

TABLES = ("scalars", "tensors", "stats", "probes", "probe_products")
"""The folders of a run that hold parts."""

PROBE_TABLES = ("probes", "probe_products")
"""What was measured in front of a step, which need not have been made."""

PROBE_SOURCES = ("batch", "surrogate", "mean")
"""Whose gradient a row of a probe holds, in the order of the rows."""

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


def probes_schema(dtype: str) -> pa.Schema:
    """Columns of ``probes``: at θ_t and the optimizer's state in front of step t, what gradients would do.

    One row per (step, source, batch_size, sample, parameter, offset). ``grad`` is a gradient, and ``update`` what the
    optimizer would make of it. ``source`` says whose: ``batch``, of a mini-batch, the mean over its ``batch_size``
    training samples (1: a single sample; null: not known), numbered by ``sample``; ``mean``, the mean of these
    gradients; ``surrogate``, Gaussian ones of the same mean and sample covariance. A null gradient was None.

    A step can have a set of each batch size. A set's rows stand together, those of its mean last: a set without is one
    that an exception cut short, and readers pass over it.

    ``coordinates``, of a sketch alone, and in the rows of the mean: which elements of the parameter (numbers in C
    order) the lists of the set hold. Where it is null they are all there, in rows split by ``offset``.
    """
    values = pa.list_(pa.field("element", pa.type_for_alias(dtype), nullable=False))
    return pa.schema(
        [
            pa.field("step", pa.int64(), nullable=False),
            pa.field("name", pa.dictionary(pa.int32(), pa.string()), nullable=False),
            pa.field("offset", pa.int64(), nullable=False),
            pa.field("source", pa.dictionary(pa.int32(), pa.string()), nullable=False),
            pa.field("batch_size", pa.int64()),
            pa.field("sample", pa.int32(), nullable=False),
            pa.field("grad", values),
            pa.field("update", values),
            pa.field("coordinates", pa.list_(pa.field("element", pa.int64(), nullable=False))),
        ]
    )


def probe_products_schema() -> pa.Schema:
    """Columns of ``probe_products``: a sketch's inner products over all coordinates, not only those that it holds.

    One row per (step, source, batch_size, sample), for the K samples and then their mean, so that three symmetric or
    square matrices stand in the rows: ``grad_grad``, ``update_update`` and ``update_grad`` are K + 1 float64, the inner
    products of this row's gradient or update with that of each sample and of the mean. They are not centred.
    """
    products = pa.list_(pa.field("element", pa.float64(), nullable=False))
    return pa.schema(
        [
            pa.field("step", pa.int64(), nullable=False),
            pa.field("source", pa.dictionary(pa.int32(), pa.string()), nullable=False),
            pa.field("batch_size", pa.int64()),
            pa.field("sample", pa.int32(), nullable=False),
            *(pa.field(name, products) for name in ("grad_grad", "update_update", "update_grad")),
        ]
    )


def writer_options(schema: pa.Schema, compression: str) -> dict[str, Any]:
    """Options of ``ParquetWriter``: dictionaries for names, statistics on the keys only. Lists it writes as null."""
    return {
        "compression": compression,
        "compression_level": 1 if compression == "zstd" else None,
        "use_dictionary": [name for name in ("name", "source") if name in schema.names] or False,
        "write_statistics": [name for name in schema.names if name in ("step", "name", "offset")],
        "write_page_checksum": True,
        "write_page_index": False,  # whose offsets would have to be put right as well
    }
