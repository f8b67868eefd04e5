"""A recorded run: open it, select arrays from it, query it with SQL."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from trajectory_tools.errors import (
    BadArgument,
    MissingData,
    NotARun,
    UnknownName,
    UnsupportedFormat,
)
from trajectory_tools.store.chunks import Chunk, read_chunks
from trajectory_tools.store.metadata import RUN_FILE, read_metadata
from trajectory_tools.store.parts import Part, committed_parts, read_manifest
from trajectory_tools.store.probe_reading import read_probe_sets
from trajectory_tools.store.probe_set import ProbeSet
from trajectory_tools.store.projection import Projection
from trajectory_tools.store.sampling import sampled_coordinates
from trajectory_tools.store.schema import (
    TABLES,
    VALUE_COLUMNS,
)
from trajectory_tools.store.selection import Selection
from trajectory_tools.store.sql import execute
from trajectory_tools.store.verify import Finding, damaged_parts
from trajectory_tools.symmetry import SymmetryGroup

if TYPE_CHECKING:
    import duckdb
    import pandas as pd
    import pyarrow as pa

__all__ = ["KILLED", "Run", "Runs", "Steps", "find_runs", "open_run"]

Steps = int | slice | Sequence[int] | NDArray[np.int64]
"""Step numbers: one, some, or a slice ``start:stop:stride`` of them."""

Damaged = Literal["error", "skip"]

KILLED = "interrupted (was killed)"
"""The status of a run whose recorder is gone without having said how it ended."""

T = TypeVar("T")


class Run:
    """One run folder. Opening it reads run.json and the manifest; data is read when asked for."""

    def __init__(self, path: str | Path, *, damaged: Damaged = "error") -> None:
        if damaged not in ("error", "skip"):
            raise BadArgument(f"damaged is 'error' or 'skip', found {damaged!r}")
        self.path = Path(path)
        self.metadata: dict[str, Any] = read_metadata(self.path)
        self._killed = False
        if self.metadata.get("status") == "recording" and not _is_locked(self.path):
            self.metadata = read_metadata(self.path)  # it may have ended between the two
            self._killed = self.metadata.get("status") == "recording"
        self.skipped: tuple[Finding, ...] = ()
        """The damaged parts that are left out (``damaged='skip'``)."""
        self._parts = committed_parts(self.path)
        if damaged == "skip":
            self.skipped = tuple(damaged_parts(self.path, self.run_id))
            lost = {finding.part for finding in self.skipped}
            self._parts = [part for part in self._parts if part not in lost]
        # With the damaged parts that the manifest lists: what they superseded stays superseded.
        self._starts = _session_starts([*read_manifest(self.path).values(), *self._parts])

    def __repr__(self) -> str:
        size = self.nbytes / 1e6
        saved = "+".join(self.columns) or "scalars only"
        if self.selection and self.columns:
            saved += f" of {self.selection}"
        return (
            f"<Run {self.name!r}: {self.optimizer}, {self.n_steps:,} steps, {len(self.shapes)} parameters"
            f" ({self.n_values:,} values), {saved}, {size:,.1f} MB, {self.status}>"
        )

    @property
    def name(self) -> str:
        """The folder as it was given: what tables and frames call the run."""
        return self.path.as_posix()

    @property
    def run_id(self) -> str:
        """The id that each of the run's parts carries."""
        return str(self.metadata["run_id"])

    @property
    def label(self) -> str:
        """What the user calls the run; runs of one label and several seeds are one curve (see ``metrics.labels``)."""
        return str(self.metadata.get("label") or self.path.name)

    @property
    def seed(self) -> int | None:
        """The seed it was recorded with, where one was given."""
        return self.metadata.get("seed")

    @property
    def status(self) -> str:
        """``recording``, ``finished``, ``interrupted`` or ``failed``, when it was opened; or ``KILLED``."""
        return KILLED if self._killed else str(self.metadata.get("status", "unknown"))

    @property
    def optimizer(self) -> str:
        """The optimizer's class, without its module."""
        return str(self.metadata.get("optimizer", {}).get("class", "unknown optimizer")).rpartition(".")[2]

    @property
    def problem(self) -> str:
        """What was trained: a built-in problem with its options, or the script; runs of one problem are compared."""
        return str(self.metadata.get("problem", {}).get("title") or self.metadata.get("script") or "own training loop")

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Parameter → shape, in recorded order."""
        return {param["name"]: tuple(param["shape"]) for param in self.metadata["params"]}

    @cached_property
    def selection(self) -> Selection:
        """What of the parameters stands in ``tensors``; false where it is everything."""
        return Selection.from_json(self.metadata.get("selection") or {})

    @cached_property
    def recorded_shapes(self) -> dict[str, tuple[int, ...]]:
        """Parameter → the shape of what is recorded of it at a step.

        Its own shape; or (n_selected,) of a subsample, or of a projection that is shorter than the parameter. A
        parameter that ``match`` left out is missing.
        """
        found = {}
        for param in self.metadata["params"]:
            recorded = param.get("recorded", param["numel"])
            if recorded == param["numel"]:
                found[param["name"]] = tuple(param["shape"])
            elif recorded:
                found[param["name"]] = (recorded,)
        return found

    @cached_property
    def whole(self) -> tuple[str, ...]:
        """The parameters that are recorded with every coordinate, in recorded order."""
        return tuple(name for name, shape in self.recorded_shapes.items() if shape == self.shapes[name])

    def coordinates(self, name: str) -> NDArray[np.int64]:
        """Which coordinates of a parameter (flat, C order) ``array`` gives: (n_selected,); ``MissingData`` for sums."""
        self._require_parameter(name)
        numel = int(np.prod(self.shapes[name]))
        if name in self.whole:
            return np.arange(numel)
        if self.selection.kind == "projection":
            raise MissingData(f"{name!r} in {self.path} is recorded as random projections, which are no coordinates")
        return sampled_coordinates(self.selection.seed, name, numel, self.recorded_shapes[name][0])

    def projection(self, name: str) -> Projection:
        """The projection that a parameter is recorded as; ``apply`` projects any vector the same way."""
        self._require_parameter(name)
        if self.selection.projection is None:
            raise MissingData(f"{self.path} records no projections, but {self.selection}")
        return Projection(self.selection.seed, name, int(np.prod(self.shapes[name])), self.selection.projection)

    @property
    def n_values(self) -> int:
        """Number of elements of all parameters."""
        return sum(param["numel"] for param in self.metadata["params"])

    @property
    def columns(self) -> tuple[str, ...]:
        """Which of param, grad, update were saved."""
        return tuple(c for c in VALUE_COLUMNS if c in self.metadata.get("save", VALUE_COLUMNS))

    @cached_property
    def symmetries(self) -> tuple[SymmetryGroup, ...]:
        """The symmetry groups that were declared at recording time."""
        return tuple(SymmetryGroup.from_json(group) for group in self.metadata.get("symmetries", ()))

    @property
    def nbytes(self) -> int:
        """Bytes of the committed parts on the disk."""
        return sum(part.bytes for part in self._parts)

    @cached_property
    def logged_steps(self) -> NDArray[np.int64]:
        """The steps that the optimizer made and the recorder saw (rows of ``scalars``), sorted."""
        return self._steps_of("scalars")

    @cached_property
    def steps(self) -> NDArray[np.int64]:
        """The steps whose tensors were recorded, sorted."""
        return self._steps_of("tensors")

    @cached_property
    def probed_steps(self) -> NDArray[np.int64]:
        """The steps in front of which the noise was probed, sorted."""
        return self._steps_of("probes")

    @property
    def probed_span(self) -> str:
        """The probed steps in words."""
        return _span(self.probed_steps)

    @property
    def n_parts(self) -> int:
        """Number of the committed parts of all tables."""
        return len(self._parts)

    @property
    def n_steps(self) -> int:
        """Number of steps that the recorder saw: those logged, and recorded ones whose scalars were lost (a kill)."""
        logged = self.logged_steps
        last = logged[-1] if len(logged) else -1
        lost = any(part.last_step > last for part in self.parts("tensors"))
        return len(np.union1d(logged, self.steps)) if lost else len(logged)

    def parts(self, table: str) -> list[Part]:
        """The committed parts of a table (``scalars``, ``tensors``, ``stats``, ``probes``, ...), in order."""
        return [part for part in self._parts if part.table == table]

    def files(self, table: str) -> list[Path]:
        """The paths of those parts, to hand to any engine that reads Parquet."""
        return [self.path / part.file for part in self.parts(table)]

    @cached_property
    def superseded_from(self) -> dict[int, int]:
        """Session → the step from which on a later session took over."""
        starts = self._starts
        return {s: min(starts[later] for later in starts if later > s) for s in starts if s < max(starts)}

    def chunks(
        self, columns: Collection[str] = VALUE_COLUMNS, *, steps: NDArray[np.int64] | None = None
    ) -> Iterator[Chunk]:
        """The recorded steps in order, a bounded number of values at a time; ``steps`` keeps only these."""
        for column in columns:
            self._require(column)
        kept = None if steps is None else np.sort(np.asarray(steps, np.int64))
        return read_chunks(
            self.path,
            self.run_id,
            self.parts("tensors"),
            self.recorded_shapes,
            columns=columns,
            steps=kept,
            before=self.superseded_from,
        )

    def probe_sets(self, steps: Steps | None = None) -> Iterator[ProbeSet]:
        """The noise samples of the probed steps in order, one set at a time; ``steps`` keeps only these.

        A step has a set for each batch size that was probed there. ``MissingData`` where nothing was probed, or a step
        asked for by number was not.
        """
        if not self.probed_steps.size:
            raise MissingData(
                f"no probes in {self.path}; record again with rec.probe(loss_fn, batches), or traj record --probe-every"
            )
        kept = None if steps is None else _chosen(steps, self.probed_steps, f"probed steps of {self.path}")
        return read_probe_sets(
            self.path,
            self.run_id,
            self.parts("probes"),
            self.parts("probe_products"),
            {param["name"]: param["numel"] for param in self.metadata["params"]},
            steps=kept,
            before=self.superseded_from,
        )

    def array(self, column: str, name: str, *, steps: Steps = slice(None)) -> NDArray[np.floating]:
        """One parameter's ``param``, ``grad`` or ``update`` at the chosen recorded steps: (n_steps, *shape).

        (n_steps, n_selected) where only some ``coordinates``, or a ``projection``, are recorded. Steps come in
        ascending order, each once. One at which the parameter was not recorded, or its gradient was None, is NaN
        throughout. Memory is that of the result and one chunk.
        """
        self._require(column)
        self._require_parameter(name)
        wanted = self.select_steps(steps)
        dtype = next(p["dtype"] for p in self.metadata["params"] if p["name"] == name)
        result = np.full(
            (len(wanted), *self.recorded_shapes[name]),
            np.nan,
            "float64" if dtype in ("float64", "complex128") else "float32",
        )
        for chunk in self.chunks([column], steps=wanted):
            if name in chunk.values(column):
                result[np.searchsorted(wanted, chunk.steps)] = chunk.values(column)[name]
        return result

    def select_steps(self, steps: Steps) -> NDArray[np.int64]:
        """The recorded steps among those asked for; ``MissingData`` where a step asked for by number is not there."""
        return _chosen(steps, self.steps, f"recorded steps of {self.path}")

    @property
    def span(self) -> str:
        """The recorded steps in words."""
        return _span(self.steps)

    def scalars(self) -> pd.DataFrame:
        """One row per step: loss, lr, wall_time, record_seconds, skipped, n_evals, and what the user logged."""
        return self.query("SELECT * FROM scalars ORDER BY step")

    def stats(self) -> pd.DataFrame:
        """One row per step and parameter: step, name, and norm, min, max, zeros, nonfinite of param, grad and update.

        By step, and in it by parameter as they are recorded. Of all of a parameter's elements, whatever was recorded of
        its tensors; the columns are ``param_norm``, ``param_min``, and so on, see ``store.schema.stats_schema``. Empty
        where the run has none.
        """
        # DuckDB's ORDER BY would leave the parameters of a step in any order.
        found = self.query("SELECT * FROM stats").astype({"name": "str"})
        return found.sort_values("step", kind="stable", ignore_index=True)

    def query(self, sql: str) -> pd.DataFrame:
        """Answer SQL over the tables ``scalars``, ``tensors``, ``stats``, ``probes`` and ``probe_products``, as pandas.

        The query sees nothing else: other files can be neither read nor written.
        """
        return self._execute(lambda connection: connection.execute(sql).df())

    def query_arrow(self, sql: str) -> pa.Table:
        """The same, as an Arrow table, which keeps nulls apart from NaN."""
        return self._execute(lambda connection: connection.sql(sql).to_arrow_table())

    def _execute(self, fetch: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
        tables = {table: self.parts(table) for table in TABLES}
        return execute(fetch, self.path, self.run_id, tables, self.superseded_from)

    def _steps_of(self, table: str) -> NDArray[np.int64]:
        found = [np.empty(0, np.int64)]
        for part in self.parts(table):
            steps = np.unique(part.read_steps(self.path, self.run_id))
            end = self.superseded_from.get(part.id.session)
            found.append(steps if end is None else steps[steps < end])
        return np.unique(np.concatenate(found))

    def _require_parameter(self, name: str) -> None:
        if name not in self.shapes:
            raise UnknownName(f"parameter in {self.path}:", name, self.shapes)
        if name not in self.recorded_shapes:
            raise MissingData(f"{name!r} in {self.path} is not recorded but in its stats: the run has {self.selection}")

    def _require(self, column: str) -> None:
        if column not in VALUE_COLUMNS:
            raise UnknownName("column", column, VALUE_COLUMNS)
        if column not in self.columns:
            raise MissingData(
                f"no {column!r} in {self.path} (it has: {', '.join(self.columns) or 'scalars only'});"
                f" record again with --save {','.join((*self.columns, column))}"
            )


def _chosen(steps: Steps, there: NDArray[np.int64], what: str) -> NDArray[np.int64]:
    """Those of the steps ``there`` that were asked for, sorted."""
    if isinstance(steps, slice):
        start, stop, stride = steps.start or 0, steps.stop, steps.step or 1
        if start < 0 or (stop or 0) < 0 or stride < 1:
            raise BadArgument(f"steps are numbers from 0 on, found {steps}; a slice takes step numbers, not positions")
        keep = (there >= start) & ((there - start) % stride == 0)
        return there[keep if stop is None else keep & (there < stop)]
    wanted: NDArray[np.int64] = np.unique(np.atleast_1d(np.asarray(steps, np.int64)))
    missing = wanted[~np.isin(wanted, there)]
    if missing.size:
        raise MissingData(f"step {missing[0]} is not among the {what}, which are {_span(there)}")
    return wanted


def _span(steps: NDArray[np.int64]) -> str:
    if steps.size < 2:
        return f"{steps[0]}" if steps.size else "none"
    return f"{steps[0]} to {steps[-1]} ({len(steps):,} of them)"


def _is_locked(folder: Path) -> bool:
    """Whether a recorder holds the folder, or may hold it; nothing is written, so that any folder can be asked."""
    lock = folder / ".lock"
    try:
        if not lock.exists():
            return False
        with FileLock(lock, timeout=0):
            return False
    except (OSError, Timeout):
        return True


def _session_starts(parts: Iterable[Part]) -> dict[int, int]:
    """Session → its first step."""
    starts: dict[int, int] = {}
    for part in parts:
        if part.rows:  # one that cannot be read has none, and its steps are not known
            session = part.id.session
            starts[session] = min(part.first_step, starts.get(session, part.first_step))
    return starts


Runs = Run | str | Path | Iterable[Run | str | Path]
"""What ``compute``, ``analyze`` and ``write_report`` take: a run, a folder of runs, or several of them."""


def open_run(path: str | Path, *, damaged: Damaged = "error") -> Run:
    """Open one run folder. ``damaged='skip'`` checks every part's sha256 first and leaves out the damaged ones."""
    folder = Path(path)
    if folder.is_dir() and not (folder / RUN_FILE).exists():
        inside = sorted(found.parent for found in folder.glob(f"*/**/{RUN_FILE}"))
        if inside:
            raise NotARun(f"{folder} is no run but holds {len(inside)}, such as {inside[0]}; give one of them")
    return Run(folder, damaged=damaged)


def find_runs(paths: Runs, *, damaged: Damaged = "error") -> list[Run]:
    """Every run at or below the given folders, each once, in the order of the paths; an opened run stays as it is.

    Those below a folder come in the order in which they were recorded, and a run.json of another program is passed
    over. ``NotARun`` for a folder without any run.
    """
    found: dict[Path, Run] = {}
    for path in [paths] if isinstance(paths, Run | str | Path) else paths:
        if isinstance(path, Run):
            found.setdefault(path.path.resolve(), path)
            continue
        folders = _with_later(Path(path)) if (Path(path) / RUN_FILE).exists() else _runs_below(Path(path))
        below = [Run(f, damaged=damaged) for f in folders if f.resolve() not in found]
        for run in sorted(below, key=lambda run: str(run.metadata.get("created_at"))):
            found[run.path.resolve()] = run
    if not found:
        raise BadArgument("no runs were given; name at least one run folder")
    return list(found.values())


def with_steps(runs: Sequence[Run]) -> list[Run]:
    """Those of the runs that have a recorded step; ``MissingData`` where none has."""
    found = [run for run in runs if run.n_steps]
    if not found:
        others = len(runs) - 1
        which = runs[0].name + (f" and {others:,} other run{'s' * (others > 1)}" if others else "")
        raise MissingData(f"no step was recorded in {which}; record at least one step, there is nothing to compute of")
    return found


def _with_later(path: Path) -> list[Path]:
    """The run and those of the optimizers that its script made later, which stand below it."""
    return [path, *(file.parent for file in sorted(path.glob(f"optimizer-*/{RUN_FILE}")))]


def _runs_below(path: Path) -> list[Path]:
    below = []
    for file in sorted(path.glob(f"*/**/{RUN_FILE}")) if path.is_dir() else ():
        try:
            read_metadata(file.parent)
        except NotARun:
            continue
        except UnsupportedFormat:
            pass  # it is a run: opening it says why it cannot be read
        below.append(file.parent)
    if not below:
        read_metadata(path)  # raises the sentence that says why
    return below
