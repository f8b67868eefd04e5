"""Running metrics over runs: one pass over the files for all of them, on any executor, and saved beside the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial, reduce
from pathlib import Path
from traceback import format_exc
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trajectory_tools.errors import BadArgument, DamagedPart, MissingData
from trajectory_tools.metrics.base import Metric
from trajectory_tools.metrics.labels import told_apart
from trajectory_tools.metrics.registry import make_metric, metrics
from trajectory_tools.metrics.saved import load_saved, save
from trajectory_tools.run import Run, Runs, find_runs
from trajectory_tools.store.chunks import Chunk, read_chunks
from trajectory_tools.store.parts import Part, first_line

__all__ = ["Analysis", "analyze", "compute"]

ATTRIBUTES = ("run", "label", "seed")
"""The columns that say of which run a row is."""


@dataclass(frozen=True)
class Analysis:
    """One metric's numbers for the runs that have them, and the reason for each run that has not.

    Among these are the runs of which the metric itself ``failed``: to each its traceback.
    """

    metric: str
    frame: pd.DataFrame
    skipped: Mapping[str, str]
    failed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Skipped:
    """Stands for what a metric could not make, with the reason; with the traceback where it was the metric's fault."""

    reason: str
    traceback: str = ""


def compute(
    runs: Runs, metric: str | Metric[Any, Any], *, executor: Executor | None = None, **options: Any
) -> pd.DataFrame:
    """One metric of one or several runs, as a tidy frame; nothing is saved.

    Columns: run, label (see ``metrics.labels``), seed (categorical), then step, what the number is of (group or
    parameter, kind, quantity), value, low, high (float64), n. ``executor`` spreads the parts over threads, processes or
    machines. A run that cannot be measured, or with which the metric fails, is named, with the reason, in
    ``frame.attrs["skipped"]``; ``MissingData`` where none can.
    """
    made = make_metric(metric, **options)
    analysis = _analyze(find_runs(runs), [made], executor=executor, saved=False)[made.name]
    if analysis.skipped and analysis.frame.empty:
        run, reason = next(iter(analysis.skipped.items()))
        error = MissingData(f"no {made.name} of {run}: {reason}")
        if run in analysis.failed:
            error.add_note(analysis.failed[run])
        raise error
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

    What was computed is saved in the run's ``analysis/`` and taken from there while the run and the options stay. A
    metric that fails with a run does not stop the others (see ``Analysis.failed``).
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
    skipped: dict[str, dict[str, Skipped]] = {metric.name: {} for metric in wanted}
    labels = told_apart(runs)
    for run in runs:
        found: dict[str, pd.DataFrame | None] = {m.name: load_saved(run, m) if saved else None for m in wanted}
        missing = [metric for metric in wanted if found[metric.name] is None]
        for metric, frame in _measure(run, missing, executor):
            if isinstance(frame, Skipped):
                skipped[metric.name][run.name] = frame
            else:
                found[metric.name] = frame
                if saved:
                    save(run, metric, frame)
        for name, frame in found.items():
            if frame is not None:
                frames[name].append(_attributed(run, frame, labels[run.name]))
    return {
        name: Analysis(
            name,
            _stacked(frames[name]),
            {run: why.reason for run, why in without.items()},
            {run: why.traceback for run, why in without.items() if why.traceback},
        )
        for name, without in skipped.items()
    }


def _measure(
    run: Run, wanted: Sequence[Metric[Any, Any]], executor: Executor | None
) -> Iterator[tuple[Metric[Any, Any], pd.DataFrame | Skipped]]:
    contexts: dict[str, Any] = {}
    steps: dict[str, NDArray[np.int64] | None] = {}
    states: dict[str, Any] = {}  # metric → its state, or why there is none
    for metric in wanted:
        context = contexts[metric.name] = _attempt(metric, metric.prepare, run)
        looked_at = context if isinstance(context, Skipped) else _attempt(metric, metric.steps, context)
        if isinstance(looked_at, Skipped):
            states[metric.name] = looked_at
        else:
            steps[metric.name] = looked_at
    tensors = [metric for metric in wanted if metric.name in steps and metric.table == "tensors"]
    if tensors:
        kept = _kept(tensors, steps)
        columns = [c for c in run.columns if any(c in metric.columns for metric in tensors)]
        job = partial(_pass, _Source.of(run, columns, kept), [(metric, contexts[metric.name]) for metric in tensors])
        parts = run.parts("tensors")
        partial_states = executor.map(job, [[part] for part in parts]) if executor else [job(parts)]
        states |= reduce(partial(_combine, tensors), partial_states, dict[str, Any]())
    probing = [metric for metric in wanted if metric.name in steps and metric.table == "probes"]
    if probing:
        kept = _kept(probing, steps)
        probed = run.probed_steps if kept is None else np.intersect1d(run.probed_steps, kept)
        job = partial(_probe_pass, run, [(metric, contexts[metric.name]) for metric in probing])
        partial_states = executor.map(job, _by_part(run, probed)) if executor else [job(probed)]
        states |= reduce(partial(_combine, probing), partial_states, dict[str, Any]())
    for metric in wanted:
        if metric.name in steps and metric.table == "scalars":
            states[metric.name] = _attempt(metric, metric.update, contexts[metric.name], _scalar_chunk(run))
    for metric in wanted:
        state = states.get(metric.name)
        if state is None:
            state = metric.nothing(contexts[metric.name]) or NOTHING
        if not isinstance(state, Skipped):
            state = _attempt(metric, _finished, metric, contexts[metric.name], state)
        yield metric, state


def _kept(
    wanted: Sequence[Metric[Any, Any]], steps: Mapping[str, NDArray[np.int64] | None]
) -> NDArray[np.int64] | None:
    """The steps that one of them needs, or None for all."""
    chosen = [steps[metric.name] for metric in wanted]
    given = [s for s in chosen if s is not None]
    return np.unique(np.concatenate(given)) if len(given) == len(chosen) else None


NOTHING = Skipped("nothing that it measures was recorded")


def _attempt(metric: Metric[Any, Any], call: Callable[..., Any], *arguments: Any) -> Any:
    """What the call gives, or why there is nothing: a metric that fails, of another package perhaps, stops no other."""
    try:
        with np.errstate(all="ignore"):  # NaN and Inf are data here, and counted
            return call(*arguments)
    except MissingData as reason:
        return Skipped(str(reason))
    except DamagedPart:
        raise
    except Exception as error:
        return Skipped(f"{metric.name} failed: {type(error).__name__}: {first_line(error)}", format_exc())


def _finished(metric: Metric[Any, Any], context: Any, state: Any) -> pd.DataFrame:
    frame = metric.finish(context, state)
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"finish gives a tidy frame, and gave {type(frame).__name__}")
    if taken := set(ATTRIBUTES) & set(frame):
        raise ValueError(f"its frame has a column {min(taken)!r} of its own, which is to say of which run a row is")
    if frame.empty:
        raise MissingData(NOTHING.reason)
    return frame


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
        return cls(run.path, run.run_id, run.recorded_shapes, columns, steps, run.superseded_from)

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
    for chunk in source.chunks(parts):
        exact = chunk.float64()
        found = {metric.name: _attempt(metric, metric.update, context, exact) for metric, context in wanted}
        states = _combine(only, states, found)
    return states


def _by_part(run: Run, probed: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The probed steps, those of one part together."""
    starts = np.unique([part.first_step for part in run.parts("probes")])
    part = np.searchsorted(starts, probed, side="right")
    return np.split(probed, np.flatnonzero(np.diff(part)) + 1)


def _probe_pass(run: Run, wanted: Sequence[tuple[Metric[Any, Any], Any]], steps: NDArray[np.int64]) -> dict[str, Any]:
    """The states of all metrics over the probes of these steps."""
    states: dict[str, Any] = {}
    only = [metric for metric, _ in wanted]
    for probes in run.probe_sets(steps) if steps.size else ():
        found = {metric.name: _attempt(metric, metric.update, context, probes) for metric, context in wanted}
        states = _combine(only, states, found)
    return states


def _combine(wanted: Sequence[Metric[Any, Any]], left: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
    if not left or not right:
        return left or right
    return {metric.name: _joined(metric, left[metric.name], right[metric.name]) for metric in wanted}


def _joined(metric: Metric[Any, Any], left: Any, right: Any) -> Any:
    skipped = [state for state in (left, right) if isinstance(state, Skipped)]
    return skipped[0] if skipped else _attempt(metric, metric.combine, left, right)


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


def _attributed(run: Run, frame: pd.DataFrame, label: str) -> pd.DataFrame:
    frame = frame.copy(deep=False)
    for position, (name, value) in enumerate(zip(ATTRIBUTES, (run.name, label, run.seed), strict=True)):
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
