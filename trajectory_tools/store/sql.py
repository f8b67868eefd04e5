"""SQL over the parts of a run, by DuckDB."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from trajectory_tools.errors import BadArgument, DamagedPart
from trajectory_tools.store.parts import ADVICE, Part
from trajectory_tools.store.schema import (
    probe_products_schema,
    probes_schema,
    scalars_schema,
    stats_schema,
    tensors_schema,
)

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa
    import pyarrow.dataset as ds

__all__ = ["execute"]

T = TypeVar("T")

EMPTY: dict[str, Callable[[], pa.Schema]] = {
    "scalars": scalars_schema,
    "tensors": lambda: tensors_schema("float32"),
    "stats": stats_schema,
    "probes": lambda: probes_schema("float32"),
    "probe_products": probe_products_schema,
}


def execute(
    fetch: Callable[[duckdb.DuckDBPyConnection], T],
    folder: Path,
    run_id: str,
    tables: Mapping[str, Iterable[Part]],
    superseded_from: Mapping[int, int],
) -> T:
    """What ``fetch`` gets from a connection that sees the tables and nothing else: no file is read or written.

    Args:
        fetch: executes a query, and takes its result.
        folder: the run's.
        run_id: the run's; a part of another is damage.
        tables: table → its parts.
        superseded_from: session → the step from which on a later session's rows count instead.

    Raises ``DamagedPart`` where a part cannot be read, ``BadArgument`` where the query fails.
    """
    import duckdb
    import pyarrow as pa

    with duckdb.connect() as connection:
        try:
            for table, parts in tables.items():
                sessions = _datasets(folder, run_id, parts)
                selects = []
                for session, dataset in sessions.items():
                    connection.register(f"{table}_{session}", dataset)
                    end = superseded_from.get(session)
                    selects.append(f"SELECT * FROM {table}_{session}" + ("" if end is None else f" WHERE step < {end}"))
                if selects:
                    connection.execute(f"CREATE VIEW {table} AS {' UNION ALL BY NAME '.join(selects)}")
                elif table in EMPTY:
                    connection.register(table, EMPTY[table]().empty_table())
            # A query is often pasted: it sees the run, and neither reads nor writes any other file.
            connection.execute("SET enable_external_access = false; SET lock_configuration = true")
            return fetch(connection)
        except duckdb.Error as error:
            if "checksum" in str(error).lower() or "corrupt" in str(error).lower():
                raise DamagedPart(f"a part of {folder} is damaged: {error}; {ADVICE}") from error
            raise BadArgument(f"the query failed: {_sentence(error, tables)}") from error
        except (OSError, pa.ArrowException) as error:
            raise DamagedPart(f"a part of {folder} cannot be read: {error}; {ADVICE}") from error


def _sentence(error: duckdb.Error, tables: Iterable[str]) -> str:
    """What DuckDB says, without its kind and the drawing below; with the names that are near, or ours of tables."""
    first, *rest = [line.strip() for line in str(error).strip().splitlines()] or [""]
    first = re.sub(r"^[A-Z][A-Za-z ]* Error: ", "", first).rstrip("!.")
    if first.startswith("Table with name") or "FROM clause is missing" in first:
        return f"{first}; the tables are {', '.join(tables)}"
    near = [line for line in rest if line.startswith(("Candidate bindings", "Did you mean"))]
    return "; ".join([first, *(line[0].lower() + line[1:] for line in near)])


def _datasets(folder: Path, run_id: str, parts: Iterable[Part]) -> dict[int, ds.Dataset]:
    """Session → its parts. Read through Arrow, which verifies the page checksums that DuckDB's reader skips."""
    import pyarrow as pa
    import pyarrow.dataset as ds
    from pyarrow.fs import LocalFileSystem

    checked = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    parquet = ds.ParquetFileFormat(default_fragment_scan_options=checked)
    sessions: dict[int, list[Part]] = {}
    for part in parts:
        sessions.setdefault(part.id.session, []).append(part)
    datasets = {}
    for session, of_session in sessions.items():
        schemas = []
        for part in of_session:
            with part.open(folder, run_id) as file:
                schemas.append(file.schema_arrow)
        fragments = [parquet.make_fragment(str(folder / part.file), LocalFileSystem()) for part in of_session]
        schema = pa.unify_schemas(schemas, promote_options="permissive")
        datasets[session] = ds.FileSystemDataset(fragments, schema, parquet, LocalFileSystem())
    return datasets
