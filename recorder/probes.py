"""Probes of the noise: what many mini-batches, or single samples, would make the optimizer do, at one step."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer

from trajectory_tools.errors import BadArgument
from trajectory_tools.recorder.buffers import Buffers
from trajectory_tools.recorder.flat_space import FlatSpace, Gradients, Rows, present_in
from trajectory_tools.recorder.names import Named
from trajectory_tools.recorder.probe_gradients import (
    LossFunction,
    batch_gradients,
    concatenated,
    leading_size,
    sample_gradients,
)
from trajectory_tools.recorder.probe_updates import Updates, check_optimizer
from trajectory_tools.recorder.probe_writer import SetWriter
from trajectory_tools.recorder.room import check_room
from trajectory_tools.recorder.sketch import Sketch
from trajectory_tools.recorder.snapshot import Snapshot, no_hooks, untouched
from trajectory_tools.store.size import ProbePlan
from trajectory_tools.store.writer import RunWriter

__all__ = ["LossFunction", "Mode", "ProbeOptions", "Prober", "check_plan", "in_rows"]

Mode = Literal["train", "eval"]
STEPS = "loss_fn steps the optimizer; give a function that only computes the loss of a mini-batch"


@dataclass(frozen=True, kw_only=True)
class ProbeOptions:
    """What ``Recorder.probe`` is told; see there."""

    samples: int | None = None
    surrogates: int = 0
    batch_size: int | None = None
    sketch: int | None = None
    seed: int = 0
    mode: Mode = "train"
    prepare: Callable[[], object] | None = None

    def __post_init__(self) -> None:
        for name, least in (("samples", 2), ("surrogates", 0), ("batch_size", 1), ("sketch", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise BadArgument(f"{name} is {value!r}; give a whole number from {least} on")
        if self.mode not in ("train", "eval"):
            raise BadArgument(f"mode is 'train' or 'eval', found {self.mode!r}")
        if self.samples is not None and self.batch_size is not None:
            raise BadArgument("batch_size is 1 where single samples are probed; leave it out")
        if self.prepare is not None:
            _check_prepare(self.prepare)
        if self.samples is not None and self.prepare is not None:
            raise BadArgument(
                "prepare sees the gradient of one mini-batch at a time; probe single samples as batches of one instead"
            )


def _check_prepare(prepare: Callable[..., object]) -> None:
    """Raise ``BadArgument`` for one that needs arguments; a TypeError from inside it is its own."""
    try:
        inspect.signature(prepare).bind()
    except ValueError:  # written in C, and silent about what it takes
        return
    except TypeError as error:
        raise BadArgument(
            f"prepare is a function that is called without arguments ({error}); give one such as"
            " lambda: clip_grad_norm_(model.parameters(), 1.0)"
        ) from error


class Prober:
    """Probes one optimizer, and hands what it finds to the run's writer."""

    def __init__(
        self, folder: Path, opt: Optimizer, named: Sequence[Named], modules: Sequence[nn.Module], buffers: Buffers
    ) -> None:
        check_optimizer(opt)
        if not modules:
            raise BadArgument(
                "a probe puts the model's buffers back, and the recorder was given no module; give probe(model=...)"
            )
        self._folder = folder
        self._optimizer = opt
        self._modules = modules
        self._space = FlatSpace(named, buffers)

    def probe(
        self,
        loss_fn: LossFunction,
        batches: Iterable[Any],
        options: ProbeOptions,
        *,
        step: int,
        probed: set[int | None],
        writer: RunWriter,
    ) -> None:
        """One set of noise samples; ``probed`` are the batch sizes that were probed at this step already."""
        if not callable(loss_fn) or not (hasattr(batches, "__iter__") or hasattr(batches, "__getitem__")):
            raise BadArgument(
                "a probe takes first a function from a mini-batch to its loss, then a list of mini-batches;"
                f" found {type(loss_fn).__name__}, then {type(batches).__name__}"
            )
        self._check_mode(options)
        with untouched(self._optimizer, self._modules) as snapshot, no_hooks(self._optimizer, refuse=STEPS):
            given = batches if isinstance(batches, Sized) else list(batches)
            n_samples = len(given) if options.samples is None else options.samples
            plan = ProbePlan(n_samples, options.surrogates, self._space.n_values, options.sketch)
            check_plan(plan)
            check_room(plan, self._space.dtype.itemsize, self._folder)
            batch_size, given = _batch_size(given, options)
            if batch_size in probed:
                size = "single samples" if batch_size == 1 else f"mini-batches of {batch_size or 'unknown size'}"
                raise BadArgument(
                    f"step {step} has been probed with {size} already; probe it once with each batch size"
                )
            updates = Updates(self._optimizer, snapshot, self._space)
            to = SetWriter(
                writer,
                self._space,
                updates,
                step=step,
                batch_size=batch_size,
                n_samples=n_samples,
                n_surrogates=options.surrogates,
                seed=options.seed,
                sketch=Sketch(self._space.layout, options.sketch, options.seed) if options.sketch else None,
            )
            if options.samples is None:
                counted = given if isinstance(given, Sequence) else _counted(given, n_samples)
                samples = self._of_batches(loss_fn, counted, options, batch_size, snapshot)
            else:
                samples = self._of_samples(loss_fn, given, options.samples, snapshot)
            try:
                with closing(samples):  # what it does to parameters and hooks ends before all is put back
                    for rows, gradients in in_rows(samples, self._space, lambda: min(updates.size, n_samples)):
                        updates.make(rows, gradients)
                        to.take(rows)
                to.finish()
            finally:
                if to.has_begun:
                    probed.add(batch_size)  # there are rows of it

    def _of_batches(
        self, loss_fn: LossFunction, batches: Any, options: ProbeOptions, batch_size: int | None, snapshot: Snapshot
    ) -> Generator[Sample, None, None]:
        """The gradient of each mini-batch."""
        known = isinstance(batches, Sequence) or options.batch_size is not None  # their sizes were looked at before
        given = batches if known else _of_size(batches, batch_size)
        with closing(batch_gradients(loss_fn, given, snapshot.parameters, prepare=options.prepare)) as found:
            for gradients in found:
                snapshot.restore_buffers()
                self._check_mode(options)  # loss_fn may have changed it
                yield gradients, None

    def _of_samples(
        self, loss_fn: LossFunction, batches: Any, n_samples: int, snapshot: Snapshot
    ) -> Generator[Sample, None, None]:
        """The gradients of single samples, many at a time."""
        batch, model = concatenated(list(batches), n_samples), self._modules[0]
        for gradients, n in sample_gradients(loss_fn, batch, model, snapshot.parameters):
            snapshot.restore_buffers()
            yield gradients, n

    def _check_mode(self, options: ProbeOptions) -> None:
        for module in self._modules:
            if module.training != (options.mode == "train"):
                found, other = ("train", "eval") if module.training else ("eval", "train")
                raise BadArgument(
                    f"the model is in {found} mode, in which it can be another function than in {other} mode (dropout,"
                    f" batch normalization); call model.{other}() first, or, if it is trained like this, give"
                    f" mode={found!r}"
                )


def check_plan(plan: ProbePlan) -> None:
    """Raise ``BadArgument`` for a set of noise samples that cannot be."""
    if plan.n_samples < 2:
        batches = "mini-batch" if plan.n_samples == 1 else "mini-batches"
        raise BadArgument(f"the spread of {plan.n_samples} {batches} is not defined; give at least 2")
    if plan.sketch is not None and plan.sketch > plan.n_values:
        raise BadArgument(
            f"a sketch of {plan.sketch:,} coordinates is more than the {plan.n_values:,} that there are; leave it out"
        )


Sample = tuple[Gradients, int | None]
"""The gradients of n samples, (n, *shape) for each parameter; or of one, in the parameters' shapes, and None."""


def in_rows(
    samples: Iterable[Sample], space: FlatSpace, size: Callable[[], int]
) -> Iterator[tuple[Rows, Gradients | None]]:
    """The samples in rows, ``size`` at a time where they can be; beside a row of its own its gradients as they were."""
    rows: Rows | None = None
    kinds: list[torch.layout | None] = []
    filled, room = 0, size()
    for gradients, n in samples:
        if n is not None:
            at_a_time = size()
            for start in range(0, n, at_a_time):
                part = [None if g is None else g[start : start + at_a_time] for g in gradients]
                yield space.rows_of_stack(part, min(at_a_time, n - start)), None
            continue
        before, kinds = kinds, [None if g is None else g.layout for g in gradients]
        if rows is not None and kinds != before:
            yield rows.first(filled), None
            rows, room = None, 1  # it may go on like this: then most of a large buffer would stay empty
        if rows is None and (size() == 1 or not {*kinds} <= {None, torch.strided}):
            yield space.row_of(gradients), gradients
            continue
        if rows is None:
            rows, filled = space.rows(min(room, size()), present_in(gradients)), 0
            room *= 2
        # Copied at once: the next sample's gradients may come in the same memory (DDP's buckets, buffers of prepare).
        space.fill(rows, filled, gradients)
        filled += 1
        if filled == len(rows):
            yield rows, None
            rows = None
    if rows is not None:
        yield rows.first(filled), None


def _batch_size(batches: Any, options: ProbeOptions) -> tuple[int | None, Any]:
    """How many training samples a gradient is the mean of, and the mini-batches, to be gone through once.

    ``BadArgument`` where they differ in it.
    """
    if options.samples is not None:
        return 1, batches
    if options.batch_size is not None:
        return options.batch_size, batches
    if not isinstance(batches, Sequence):
        rest = iter(batches)  # a DataLoader starts its workers here
        if (batch := next(rest, None)) is None:
            raise BadArgument(_length_differs(len(batches), "none"))
        return leading_size(batch), chain([batch], rest)
    first, *rest = [leading_size(batch) for batch in batches]
    for size in rest:
        if size != first:
            raise BadArgument(_sizes_differ(first, size))
    return first, batches


def _counted(batches: Iterable[Any], length: int) -> Iterator[Any]:
    """They, once it is seen that they are as many as was said before."""
    found = 0
    for found, batch in enumerate(batches, 1):
        if found > length:
            raise BadArgument(_length_differs(length, "more"))
        yield batch
    if found < length:
        raise BadArgument(_length_differs(length, f"{found}"))


def _of_size(batches: Iterable[Any], size: int | None) -> Iterator[Any]:
    """They, each once it is seen that it is as large as was said before."""
    for batch in batches:
        if (found := leading_size(batch)) != size:
            raise BadArgument(_sizes_differ(size, found))
        yield batch


def _length_differs(said: int, found: str) -> str:
    return f"the mini-batches are {found}, and their length (len) says {said}; give a list of them"


def _sizes_differ(first: int | None, other: int | None) -> str:
    return (
        f"the mini-batches have {first} and {other} samples, and the noise of a gradient depends on its batch size;"
        " leave those of another size out"
    )
