"""Copying and measuring what is in the host's own memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trajectory_tools.recorder.buffers import Buffers
from trajectory_tools.recorder.capture import Capture, Captured
from trajectory_tools.recorder.kept_memory import LARGE_BYTES, keep_freed_memory
from trajectory_tools.recorder.names import Named
from trajectory_tools.recorder.one_pass import Pieces, flat, take
from trajectory_tools.recorder.projector import Projector
from trajectory_tools.store.rows import StepRows
from trajectory_tools.store.sampling import sampled_coordinates
from trajectory_tools.store.selection import Selection
from trajectory_tools.store.stats_rows import StatsLayout, StepStats

__all__ = ["HostCapture"]

KINDS = ("param", "update", "grad")
"""As they follow each other in a ``StatsLayout``."""

PLANS_KEPT = 64
"""Where gradients come and go at random, every step may need another one."""

Floats = NDArray[np.floating]


class HostCapture(Capture):
    """``Capture`` of tensors in the host's memory.

    With stats each value is read once as θ_t, once as θ_{t+1} and once as g_t.
    """

    def __init__(
        self,
        named: Sequence[Named],
        save: Collection[str],
        *,
        stats: bool = False,
        selection: Selection | None = None,
        counts: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(named, save, stats=stats, selection=selection, counts=counts)
        self._width = np.dtype(self.layout.dtype)
        if sum(self._numels) * self._width.itemsize >= LARGE_BYTES:
            keep_freed_memory()
        self._buffers = Buffers()
        self._plans: dict[bytes, Plan] = {}
        chosen, names, numels = self.selection, self._names, self._numels
        self._projector: Projector | None = None
        self._picked: dict[int, NDArray[np.int64] | None] = {}  # parameter → its chosen coordinates, None for all
        if chosen.projection is not None and not self._whole:
            self._projector = Projector(names, numels, self._recorded, chosen.projection, chosen.seed)
        elif not self._whole:
            for i in self._recorded:
                count = self.counts[names[i]]
                sampled = count < numels[i]
                self._picked[i] = sampled_coordinates(chosen.seed, names[i], numels[i], count) if sampled else None
        self._chosen_in_pass = stats and bool(self._picked)
        self._pieces = Pieces(self._numels, self._picked if stats else None)
        self._all = self._now = self._plan(np.ones(len(self.tensors), bool))

    def before(self, record: bool = True) -> None:
        """Copy θ_t."""
        self._record, self._now, self._graded = record, self._all, False
        self._values: dict[str, Floats] = {}  # what is recorded of a selection
        kept = self._kept(record)
        n = self._all.pieces.n_values
        if self.stats:
            self._numbers = np.empty((3 * len(self._all.pieces.table), 5))
        self._buffer, self._release = self._buffers.take(len(kept) * n, self._width)
        self._rows = {kind: self._buffer[i * n : (i + 1) * n] for i, kind in enumerate(kept)}
        self._room: dict[str, Floats] = {}
        self._release_chosen: Callable[[], None] | None = None
        if record and self._chosen_in_pass:
            n = self._all.pieces.n_chosen
            chosen, self._release_chosen = self._buffers.take(len(self._save) * n, self._width)
            self._room = {kind: chosen[i * n : (i + 1) * n] for i, kind in enumerate(sorted(self._save))}
        if "param" in self._rows or (record and self._picked and self._save & {"param", "update"}):
            self._take("param", self._all, self.tensors)

    def gradients(self, scale: Tensor | None = None, given: Sequence[Tensor | None] | None = None) -> None:
        """Copy g_t, as ``Capture`` does."""
        self._graded = True
        if not (self.stats or (self._record and "grad" in self._save)):
            return
        grads = [tensor.grad for tensor in self.tensors] if given is None else list(given)
        found = [grad for grad in grads if grad is not None]
        self._now = self._all
        if len(found) < len(grads):
            self._now = self._plan(np.array([grad is not None for grad in grads]))
        if "grad" in self._rows:
            self._rows["grad"] = self._rows["grad"][: self._now.pieces.n_values]
        self._take("grad", self._now, found, divisor=1.0 if scale is None else float(scale))

    def after(self, step: int) -> Captured:
        """Subtract θ_t from θ_{t+1}, and hand over everything that was copied and measured for this step."""
        if not self._graded:
            self.gradients()
        if self.stats or (self._record and "update" in self._save):
            self._take("update", self._all, self.tensors, minus=self._rows.get("param"))
        stats = (
            StepStats(step, self._now.layout, self._numbers[: len(self._now.layout.owner)].T) if self.stats else None
        )
        in_buffer = self._record and self._whole
        rows = None
        if self._record:
            values = self._rows if in_buffer else self._values
            values = {kind: found for kind, found in values.items() if kind in self._save}
            self._present = None if self._now is self._all else self._now.present
            held = (self._release, self._buffer.nbytes) if in_buffer else (self._release_chosen, 0)
            rows = StepRows(step, self.layout, values, self._present_rows(values), None, *held)
        if not in_buffer:
            self._release()
        del self._rows, self._buffer, self._release, self._values, self._room, self._release_chosen
        return Captured(rows, stats)

    @cached_property
    def held_per_step(self) -> int:
        """Bytes of memory that one recorded step holds until it is written: of θ_t also where it is not saved."""
        if not self._whole:
            return self.bytes_per_step
        return len(self._kept(True)) * self._all.pieces.n_values * self._width.itemsize

    def release(self) -> None:
        """Let go of the memory that is kept for the steps to come."""
        self._buffers.forget()

    def _kept(self, record: bool) -> list[str]:
        """What is copied as a whole."""
        saved = self._save if record and self._whole else frozenset()
        projected = self._save if record and self._projector is not None else frozenset()
        return [
            *(["param"] if self.stats or (saved | projected) & {"param", "update"} else []),
            *(kind for kind in ("update", "grad") if kind in saved),
        ]

    def _plan(self, present: NDArray[np.bool_]) -> Plan:
        """How the gradients are gone through when these parameters have one."""
        key = present.tobytes()
        if key not in self._plans:
            if len(self._plans) == PLANS_KEPT:
                del self._plans[next(iter(self._plans))]
            self._plans[key] = Plan.of(self._names, self._pieces, present)
        return self._plans[key]

    def _take(
        self, kind: str, plan: Plan, tensors: Sequence[Tensor], *, minus: Floats | None = None, divisor: float = 1.0
    ) -> None:
        """Copy, measure and select these values, less ``minus``, or over ``divisor``, as far as each was asked for."""
        into = self._rows.get(kind)
        if self.stats:
            start = KINDS.index(kind) * len(self._all.pieces.table)
            numbers = self._numbers[start : start + len(plan.pieces.table)]
            chosen = None
            if kind in self._room:
                chosen = self._values[kind] = self._room[kind][: plan.pieces.n_chosen]
            take(plan.pieces, tensors, self._dtype, numbers, minus=minus, divisor=divisor, into=into, chosen=chosen)
        elif into is not None:
            copy(plan.pieces, tensors, into, minus, divisor)
        if self._record and not self._whole and not self._chosen_in_pass:
            self._values |= self._selected(kind, plan, tensors, minus, divisor)

    @np.errstate(all="ignore")  # NaN and Inf are data here
    def _selected(
        self, kind: str, plan: Plan, tensors: Sequence[Tensor], minus: Floats | None, divisor: float
    ) -> dict[str, Floats]:
        """What is recorded of a selection; of θ_t also what only the update is made from."""
        if kind not in self._save and not (kind == "param" and "update" in self._save and self._picked):
            return {}
        parts: list[NDArray[np.floating]] = [np.empty(0, self._width)]
        stop = 0
        for i, tensor in zip(plan.there, tensors, strict=True):
            numel = self._numels[i]
            start, stop = stop, stop + numel
            if self._projector is not None and i in self._projector:
                old = None if minus is None else minus[start:stop]
                parts.append(self._projector(i, flat(tensor, numel, self._dtype), old, divisor))
            elif i in self._picked:
                places, chosen = self._picked[i], flat(tensor, numel, self._dtype)
                parts.append(chosen if places is None else chosen.take(places))
        values = np.concatenate(parts).astype(self._width, copy=False)
        if self._picked and kind == "update":
            values -= self._values["param"]
        elif self._picked and divisor != 1:
            values /= divisor
        return {kind: values}


@dataclass(frozen=True)
class Plan:
    """How the gradients of ``there``, the parameters that have one (``present``), are gone through."""

    present: NDArray[np.bool_]
    there: list[int]
    pieces: Pieces
    layout: StatsLayout

    @classmethod
    def of(cls, names: Sequence[str], everything: Pieces, present: NDArray[np.bool_]) -> Plan:
        """The plan for these; ``everything`` are the pieces of all parameters."""
        n, there = len(names), np.flatnonzero(present)
        pieces = everything.only(there.tolist())
        owners = [everything.owner, everything.owner + n, there[pieces.owner] + 2 * n]
        return cls(present, there.tolist(), pieces, StatsLayout(tuple(names), np.concatenate(owners), present))


@np.errstate(all="ignore")  # NaN and Inf are data here
@torch.no_grad()
def copy(pieces: Pieces, tensors: Sequence[Tensor], into: Floats, minus: Floats | None, divisor: float) -> None:
    """Copy all values, put together, less ``minus``, or over ``divisor``; exact, as ``into`` is as wide."""
    out = torch.from_numpy(into)
    if tensors and pieces.addresses(tensors, out.dtype) is not None:
        torch.cat([tensor.view(-1) for tensor in tensors], out=out)
    else:
        stop = 0
        for tensor, numel in zip(tensors, pieces.numels, strict=True):
            start, stop = stop, stop + numel
            into[start:stop] = flat(tensor, numel, out.dtype)
    if minus is not None:
        np.subtract(into, minus, out=into)
    if divisor != 1:
        np.divide(into, divisor, out=into)
