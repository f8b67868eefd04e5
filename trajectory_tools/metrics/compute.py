"""Running metrics over runs: one pass over the files for all of them, on any executor, and saved beside the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trajectory_tools.errors import BadArgument, MissingData
from trajectory_tools.metrics.base import Metric
from trajectory_tools.metrics.registry import make_metric, metrics
from trajectory_tools.metrics.saved import load_saved, save
from trajectory_tools.run import Run, Runs, find_runs
from trajectory_tools.store.chunks import Chunk, read_chunks
from trajectory_tools.store.parts import Part

__all__ = ["Analysis", "analyze", "compute"]


@dataclass(frozen=True)
class Analysis:
    """One metric's numbers for the runs that have them, and the reason for each run that has not."""

    metric: str
    frame: pd.DataFrame
    skipped: Mapping[str, str]


def compute(
    runs: Runs, metric: str | Metric[Any, Any], *, executor: Executor | None = None, **options: Any
) -> pd.DataFrame:
    """One metric of one or several runs, as a tidy frame; nothing is saved.

    Columns: run, label, seed (categorical), then step, what the number is of (group or parameter, kind, quantity),
    value, low, high (float64), n. ``executor`` spreads the parts over threads, processes or machines. A run that cannot
    be measured is named, with the reason, in ``frame.attrs["skipped"]``; ``MissingData`` where none can.
    """
    made = make_metric(metric, **options)
    analysis = _analyze(find_runs(runs), [made], executor=executor, saved=False)[made.name]
    if analysis.skipped and analysis.frame.empty:
        run, reason = next(iter(analysis.skipped.items()))
        raise MissingData(f"no {made.name} of {run}: {reason}")
    analysis.frame.attrs["skipped"] = dict(analysis.skipped)
    return analysis.frame


def analyze(
    runs: Runs,
    names: Sequence[str | Metric[Any, Any]] | None = None,
    *,
    executor: Executor | None = None,
    saved: bool = True,
) -> dict[str, Analysis]:
    """Several metrics (all registered ones unless told) in one pass over each run.

    What was computed is saved in the run's ``analysis/`` and taken from there while the run and the options stay.
    """
    wanted: dict[str, Metric[Any, Any]] = {}
    for metric in map(make_metric, names or metrics()):
        if wanted.setdefault(metric.name, metric) != metric:
            raise BadArgument(f"two metrics are called {metric.name!r}; analyze them one after the other")
    return _analyze(find_runs(runs), list(wanted.values()), executor=executor, saved=saved)


def _analyze(
    runs: Sequence[Run], wanted: Sequence[Metric[Any, Any]], *, executor: Executor | None, saved: bool
) -> dict[str, Analysis]:
    frames: dict[str, list[pd.DataFrame]] = {metric.name: [] for metric in wanted}
    skipped: dict[str, dict[str, str]] = {metric.name: {} for metric in wanted}
    for run in runs:
        found: dict[str, pd.DataFrame | None] = {m.name: load_saved(run, m) if saved else None for m in wanted}
        missing = [metric for metric in wanted if found.get(metric.name) is None]
        contexts: dict[str, Any] = {}
        for metric in missing:
            try:
                contexts[metric.name] = metric.prepare(run)
            except MissingData as reason:
                skipped[metric.name][run.name] = str(reason)
        due = [metric for metric in missing if metric.name in contexts]
        skipped_here = {metric.name: "nothing that it measures was recorded" for metric in due}
        for metric, frame in _measure(run, due, contexts, executor):
            if not frame.empty:
                del skipped_here[metric.name]
                found[metric.name] = frame
                if saved:
                    save(run, metric, frame)
        for name, nothing in skipped_here.items():
            skipped[name][run.name] = nothing
        for name, frame in found.items():
            if frame is not None:
                frames[name].append(_attributed(run, frame))
    return {name: Analysis(name, _stacked(frames[name]), skipped[name]) for name in frames}


def _measure(
    run: Run, wanted: Sequence[Metric[Any, Any]], contexts: Mapping[str, Any], executor: Executor | None
) -> Iterator[tuple[Metric[Any, Any], pd.DataFrame]]:
    states: dict[str, Any] = {}
    tensors = [metric for metric in wanted if metric.table == "tensors"]
    if tensors:
        steps = [metric.steps(contexts[metric.name]) for metric in tensors]
        kept = None if any(s is None for s in steps) else np.unique(np.concatenate([s for s in steps if s is not None]))
        columns = [c for c in run.columns if any(c in metric.columns for metric in tensors)]
        job = partial(_pass, _Source.of(run, columns, kept), [(metric, contexts[metric.name]) for metric in tensors])
        parts = run.parts("tensors")
        partial_states = executor.map(job, [[part] for part in parts]) if executor else [job(parts)]
        with np.errstate(all="ignore"):
            states = reduce(partial(_combine, tensors), partial_states, {})
    for metric in wanted:
        if metric.table == "scalars":
            states[metric.name] = metric.update(contexts[metric.name], _scalar_chunk(run))
    for metric in wanted:
        if metric.name in states:
            with np.errstate(all="ignore"):
                yield metric, metric.finish(contexts[metric.name], states[metric.name])


@dataclass(frozen=True)
class _Source:
    """What a worker needs to read the run's parts; it can be pickled."""

    folder: Path
    run_id: str
    shapes: dict[str, tuple[int, ...]]
    columns: list[str]
    steps: NDArray[np.int64] | None
    superseded_from: dict[int, int]

    @classmethod
    def of(cls, run: Run, columns: list[str], steps: NDArray[np.int64] | None) -> _Source:
        return cls(run.path, run.run_id, run.shapes, columns, steps, run.superseded_from)

    def chunks(self, parts: Sequence[Part]) -> Iterator[Chunk]:
        return read_chunks(
            self.folder,
            self.run_id,
            parts,
            self.shapes,
            columns=self.columns,
            steps=self.steps,
            before=self.superseded_from,
        )


def _pass(source: _Source, wanted: Sequence[tuple[Metric[Any, Any], Any]], parts: Sequence[Part]) -> dict[str, Any]:
    """The states of all metrics over these parts."""
    states: dict[str, Any] = {}
    only = [metric for metric, _ in wanted]
    with np.errstate(all="ignore"):  # NaN and Inf are data here, and counted
        for chunk in source.chunks(parts):
            exact = chunk.float64()
            states = _combine(only, states, {metric.name: metric.update(context, exact) for metric, context in wanted})
    return states


def _combine(wanted: Sequence[Metric[Any, Any]], left: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
    if not left or not right:
        return left or right
    return {metric.name: metric.combine(left[metric.name], right[metric.name]) for metric in wanted}


def _scalar_chunk(run: Run) -> Chunk:
    """The run's scalars; a step at which a name was not logged is masked, which NaN is not."""
    table = run.query_arrow("SELECT * FROM scalars ORDER BY step")
    values = {
        name: np.ma.masked_array(
            table[name].cast("float64").fill_null(np.nan).to_numpy(), table[name].is_null().to_numpy()
        )
        for name in table.column_names
        if name != "step"
    }
    return Chunk(table["step"].to_numpy(), scalars=values)


def _attributed(run: Run, frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.copy(deep=False)
    for position, (name, value) in enumerate({"run": run.name, "label": run.label, "seed": run.seed}.items()):
        frame.insert(position, name, pd.Categorical.from_codes(np.zeros(len(frame), np.int8), [str(value)]))
    return frame


def _stacked(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The frames below each other, with the union of the categories."""
    if not frames:
        return pd.DataFrame()
    names = [name for name in frames[0] if isinstance(frames[0][name].dtype, pd.CategoricalDtype)]
    unions = {name: pd.api.types.union_categoricals([frame[name] for frame in frames]) for name in names}
    stacked = pd.concat([frame.drop(columns=names) for frame in frames], ignore_index=True)
    for name in frames[0]:
        if name in unions:
            stacked.insert(list(frames[0]).index(name), name, unions[name])
    return stacked
