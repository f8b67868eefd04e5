"""Reading probes back: one set of noise samples at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trajectory_tools.errors import DamagedPart
from trajectory_tools.store.chunks import any_in, select_rows, whole_steps
from trajectory_tools.store.parts import ADVICE, Part, first_line
from trajectory_tools.store.probe_set import ProbeSet

__all__ = ["read_probe_sets"]

KEYS = ("source", "batch_size", "sample")
UNKNOWN = -1
"""Stands for the batch size that is not known."""

Matrices = dict[str, NDArray[np.float64]]


def read_probe_sets(
    folder: Path,
    run_id: str,
    parts: Sequence[Part],
    product_parts: Sequence[Part],
    numels: Mapping[str, int],
    *,
    steps: NDArray[np.int64] | None = None,
    before: Mapping[int, int] | None = None,
) -> Iterator[ProbeSet]:
    """The complete sets in the order of their steps, one in memory at a time (and the rows of its step).

    ``numels`` is the size of each parameter; ``steps`` and ``before`` are those of ``read_chunks``.
    """
    products = _Products(folder, run_id, product_parts, before or {})
    for part, table in _tables(folder, run_id, parts, steps, before or {}):
        found = _runs(table)
        pending: dict[str, pa.Table] = {}
        for start, stop in pairwise(found):
            rows = table.slice(start, stop - start)
            source = rows.column("source")[0].as_py()
            if source == "batch":
                pending = {}  # what an exception cut short has no mean
            pending[source] = rows
            if source == "mean" and "batch" in pending:
                yield _probe_set(folder / part.file, pending, numels, products)


def _tables(
    folder: Path, run_id: str, parts: Sequence[Part], steps: NDArray[np.int64] | None, before: Mapping[int, int]
) -> Iterator[tuple[Part, pa.Table]]:
    """The rows of whole steps."""
    for part in parts:
        end = before.get(part.id.session)
        if (end is not None and part.first_step >= end) or not any_in(steps, part.first_step, part.last_step):
            continue
        with part.open(folder, run_id) as file:
            try:
                for first, last, groups in whole_steps(file.metadata):
                    if (end is None or first < end) and any_in(steps, first, last):
                        table = select_rows(file.read_row_groups(groups), steps, end)
                        if table.num_rows:
                            yield part, table.unify_dictionaries().combine_chunks()
            except (OSError, pa.ArrowException) as error:
                raise DamagedPart(f"{folder / part.file} cannot be read ({first_line(error)}); {ADVICE}") from error


def _runs(table: pa.Table) -> list[int]:
    """Where rows of another step, batch size or source begin, and the end."""
    keys = np.stack(
        [
            table.column("step").to_numpy(),
            pc.fill_null(table.column("batch_size"), UNKNOWN).to_numpy(),
            table.column("source").chunk(0).indices.to_numpy(),
        ]
    )
    changes = (keys[:, 1:] != keys[:, :-1]).any(axis=0)
    return [0, *(np.flatnonzero(changes) + 1).tolist(), table.num_rows]


def _probe_set(path: Path, rows: Mapping[str, pa.Table], numels: Mapping[str, int], products: _Products) -> ProbeSet:
    step, batch_size = (rows["mean"].column(name)[0].as_py() for name in ("step", "batch_size"))
    names = rows["mean"].column("name").to_pylist()
    lengths = pc.list_value_length(rows["mean"].column("update")).to_numpy()
    widths = dict.fromkeys(names, 0)
    for name, length in zip(names, lengths, strict=True):
        widths[name] += int(length)
    if unknown := [name for name in widths if name not in numels]:
        raise DamagedPart(f"{path}: rows of {', '.join(unknown)}, which run.json does not list; {ADVICE}")
    sketched = rows["mean"].column("coordinates").null_count == 0
    if not sketched and any(widths[name] != numels[name] for name in widths):
        raise DamagedPart(f"{path}: rows do not fit the parameters that run.json lists; {ADVICE}")
    arrays: dict[str, Any] = {}
    for source, column, to in (
        ("batch", "grad", "grad"),
        ("batch", "update", "update"),
        ("mean", "update", "mean_update"),
        ("surrogate", "grad", "surrogate_grad"),
        ("surrogate", "update", "surrogate_update"),
    ):
        if source in rows:
            arrays[to] = _matrix(path, rows[source], column, lengths)
    arrays["mean_update"] = arrays["mean_update"][0]
    ends = list(accumulate(widths.values(), initial=0))
    return ProbeSet(
        step=step,
        batch_size=batch_size,
        n_values=sum(numels[name] for name in widths),
        spans={name: slice(*ends[i : i + 2]) for i, name in enumerate(widths)},
        products=products.of(step, batch_size) if sketched else {},
        **arrays,
    )


def _matrix(path: Path, rows: pa.Table, column: str, lengths: NDArray[np.int64]) -> NDArray[np.floating]:
    """(samples, values): the lists put together, sample by sample; a null one, of a gradient that was None, is 0."""
    n_samples, rest = divmod(rows.num_rows, len(lengths))
    lists = rows.column(column).combine_chunks()
    found = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    null = np.asarray(lists.is_null())
    if rest or (found != np.where(null, 0, np.tile(lengths, n_samples))).any():
        raise DamagedPart(f"{path}: the samples of step {rows.column('step')[0]} differ in their parameters; {ADVICE}")
    values = lists.flatten().to_numpy()
    if null.any():
        there = np.repeat(~null, np.tile(lengths, n_samples))
        whole = np.zeros(len(there), values.dtype)
        whole[there] = values
        values = whole
    return values.reshape(n_samples, int(lengths.sum()))


class _Products:
    """The inner products of sketches, read step by step."""

    def __init__(self, folder: Path, run_id: str, parts: Sequence[Part], before: Mapping[int, int]) -> None:
        self._source = (folder, run_id, parts)
        self._before = before
        self._step = -1
        self._found: dict[int | None, Matrices] = {}

    def of(self, step: int, batch_size: int | None) -> Matrices:
        """Those of this set, under the names that ``ProbeSet.products`` has; none where they are lost."""
        if step != self._step:
            folder, run_id, parts = self._source
            self._step, self._found = step, {}
            for _, table in _tables(folder, run_id, parts, np.array([step]), self._before):
                for start, stop in pairwise(_runs(table)):
                    rows = table.slice(start, stop - start)
                    size = rows.column("batch_size")[0].as_py()
                    # The rows of the samples, and then, in a run of its own, that of the mean.
                    for name in ("grad_grad", "update_update", "update_grad"):
                        products = rows.column(name).combine_chunks().flatten().to_numpy().reshape(len(rows), -1)
                        known = self._found.setdefault(size, {})
                        known[name] = np.concatenate([known[name], products]) if name in known else products
        return _named(self._found[batch_size]) if batch_size in self._found else {}


def _named(found: Matrices) -> Matrices:
    gg, uu, ug = (found[name] for name in ("grad_grad", "update_update", "update_grad"))
    k = len(gg) - 1
    return {
        "grad·grad": gg[:k, :k],
        "update·update": uu[:k, :k],
        "update·grad": ug[:k, :k],
        "mean_update·update": uu[k, :k],
        "mean_update·grad": ug[k, :k],
        "mean_update·mean_update": uu[k, k],
    }
