"""Copying and measuring what is in the host's own memory: block by block, on as many threads as the training has."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trajectory_tools.recorder.buffers import Buffers
from trajectory_tools.recorder.capture import PLAIN, Capture, Captured, real
from trajectory_tools.recorder.names import Named
from trajectory_tools.recorder.projector import Projector
from trajectory_tools.recorder.sweep import (
    BLOCK_VALUES,
    Block,
    Blocks,
    Scratch,
    Source,
    copy_values,
    gather,
    measure,
    sweep,
)
from trajectory_tools.store.rows import StepRows
from trajectory_tools.store.sampling import sampled_coordinates
from trajectory_tools.store.selection import Selection
from trajectory_tools.store.stats_rows import StatsLayout, StepStats

__all__ = ["HostCapture", "Plan"]

Floats = NDArray[np.floating]
Take = Callable[[Block, Scratch], Floats]


class HostCapture(Capture):
    """``Capture`` of tensors in the host's memory.

    Before the step θ_t is copied, no more. The gradients are gone through once, and after the step both θ_t and
    θ_{t+1}, block by block in a core's cache: each block is measured, subtracted and projected where it lies. See
    ``SlabCapture`` for networks so small that calls cost more than values.
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
        self._buffers = Buffers()
        self._plans: dict[bytes, Plan] = {}
        self._scratch: list[Scratch] = []  # fresh memory costs more than what is done in it
        self._all = self.plan(np.ones(len(self.tensors), bool))
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

    def before(self, record: bool = True) -> None:
        """Copy θ_t."""
        self._record, self._now, self._graded = record, self._all, False
        self._pieces: dict[str, NDArray[np.float64]] = {}
        self._values: dict[str, Floats] = {}  # what is recorded of a selection
        saved = self._save if record and self._whole else frozenset()
        projected = self._save if record and self._projector is not None else frozenset()
        kept = [
            *(["param"] if self.stats or (saved | projected) & {"param", "update"} else []),
            *(kind for kind in ("update", "grad") if kind in saved),
        ]
        n = self._all.blocks.n_values
        self._buffer, self._release = self._buffers.take(len(kept) * n, self._width)
        self._rows = {kind: self._buffer[i * n : (i + 1) * n] for i, kind in enumerate(kept)}
        if "param" in self._rows:
            copy_tensors(self.tensors, self._rows["param"])
        if record and self._picked and self._save & {"param", "update"}:
            self._values["param"] = self._pick(self._sources(self.tensors))

    @np.errstate(all="ignore")  # NaN and Inf are data here, and counted
    def gradients(self, scale: Tensor | None = None, given: Sequence[Tensor | None] | None = None) -> None:
        """Copy g_t, as ``Capture`` does."""
        self._graded = True
        if not (self.stats or (self._record and "grad" in self._save)):
            return
        grads = [tensor.grad for tensor in self.tensors] if given is None else list(given)
        found = [grad for grad in grads if grad is not None]
        self._now = self._all
        if len(found) < len(grads):
            self._now = self.plan(np.array([grad is not None for grad in grads]))
        divisor = None if scale is None else float(scale)
        if "grad" in self._rows:
            values = self._rows["grad"] = self._rows["grad"][: self._now.blocks.n_values]
            copy_tensors(found, values)
            if divisor is not None:
                values /= divisor
            self._go_through(self._now, {"grad": _part_of(values)})
        elif self.stats or self._projector is not None:
            self._go_through(self._now, {"grad": partial(self._seen, self._sources(found), divisor)})
        if self._record and self._picked and "grad" in self._save:
            self._values["grad"] = self._pick(self._sources(found), divisor=divisor)

    @np.errstate(all="ignore")  # NaN and Inf are data here, and counted
    def after(self, step: int) -> Captured:
        """Subtract θ_t from θ_{t+1}, and hand over everything that was copied and measured for this step."""
        if not self._graded:
            self.gradients()
        if (theta := self._rows.get("param")) is not None:
            takes = {"param": _part_of(theta)}
            if self.stats or (self._record and "update" in self._save):
                takes["update"] = partial(self._moved, self._sources(self.tensors), theta)
            self._go_through(self._all, takes)
        if self._record and self._picked and "update" in self._save:
            now = self._pick(self._sources(self.tensors), everywhere=True)
            self._values["update"] = now - self._values["param"]
        stats = self._step_stats(step) if self.stats else None
        in_buffer = self._record and self._whole
        rows = None
        if self._record:
            values = self._rows if in_buffer else self._values
            values = {kind: found for kind, found in values.items() if kind in self._save}
            self._present = None if self._now is self._all else self._now.present
            held = (self._release, self._buffer.nbytes) if in_buffer else (None, 0)
            rows = StepRows(step, self.layout, values, self._present_rows(values), None, *held)
        if not in_buffer:
            self._release()
        return Captured(rows, stats)

    def plan(self, present: NDArray[np.bool_]) -> Plan:
        """How the gradients are gone through when these parameters have one."""
        key = present.tobytes()
        if key not in self._plans:
            self._plans[key] = Plan.of(self._names, self._numels, present)
        return self._plans[key]

    def _sources(self, tensors: Sequence[Tensor]) -> list[Source]:
        return [host_values(tensor, self._dtype) for tensor in tensors]

    def _go_through(self, plan: Plan, takes: Mapping[str, Take]) -> None:
        """Take each block's values, kind by kind: measure them, project them."""
        project = self._projector if self._record else None
        pieces = {kind: np.empty((5, len(plan.blocks.owner))) for kind in takes if self.stats}
        projected = {kind: project.begin(plan.there) for kind in takes if project and kind in self._save}
        if not pieces and not projected and "update" not in takes:
            return  # everything is in the buffer

        def visit(block: Block, scratch: Scratch) -> None:
            for kind, take in takes.items():
                values = take(block, scratch)
                if kind in pieces:
                    measure(values, block.starts, pieces[kind][:, block.pieces], scratch)
                if kind in projected:
                    projected[kind].see(block, values)

        threads = torch.get_num_threads()
        while len(self._scratch) < threads:
            self._scratch.append(Scratch(min(BLOCK_VALUES, self._all.blocks.n_values), self._width))
        sweep(plan.blocks, visit, self._scratch[:threads])
        self._pieces |= pieces
        self._values |= {kind: found.values().astype(self._width) for kind, found in projected.items()}

    def _seen(self, sources: Sequence[Source], divisor: float | None, block: Block, scratch: Scratch) -> Floats:
        """The values where they are, or put together."""
        if divisor is None and (values := _in_place(sources, block, self._width)) is not None:
            return values
        out = scratch.values[: len(block)]
        gather(block, sources, out)
        return out if divisor is None else np.divide(out, divisor, out=out)

    def _moved(self, sources: Sequence[Source], theta: Floats, block: Block, scratch: Scratch) -> Floats:
        """θ_{t+1} − θ_t."""
        here = slice(block.start, block.stop)
        out = self._rows["update"][here] if "update" in self._rows else scratch.values[: len(block)]
        new = _in_place(sources, block, self._width)
        if new is None:
            gather(block, sources, out)
            new = out
        return np.subtract(new, theta[here], out=out)

    def _pick(self, sources: Sequence[Source], *, divisor: float | None = None, everywhere: bool = False) -> Floats:
        """The chosen coordinates of these tensors: of all, or of those that have a gradient."""
        there = self._all.there if everywhere else self._now.there
        parts = []
        for i, source in zip(there, sources, strict=True):
            if i in self._picked:
                places = self._picked[i]
                parts.append(source if places is None else source.take(places))
        out = np.empty(sum(part.size for part in parts), self._width)
        start = 0
        for part in parts:
            copy_values(part, out[start : start + part.size])
            start += part.size
        return out if divisor is None else np.divide(out, divisor, out=out)

    def _step_stats(self, step: int) -> StepStats:
        pieces = np.concatenate([self._pieces[kind] for kind in ("param", "update", "grad")], axis=1)
        return StepStats(step, self._now.layout, pieces)


@dataclass(frozen=True)
class Plan:
    """How the gradients of ``there``, the parameters that have one (``present``), are gone through.

    ``starts``: where each piece begins in param, update and grad put together.
    """

    present: NDArray[np.bool_]
    there: list[int]
    blocks: Blocks
    layout: StatsLayout
    starts: NDArray[np.intp]

    @classmethod
    def of(cls, names: Sequence[str], numels: Sequence[int], present: NDArray[np.bool_]) -> Plan:
        """The plan for these."""
        n = len(names)
        everything, there = Blocks(numels), np.flatnonzero(present)
        blocks = Blocks([numels[i] for i in there.tolist()])
        owners = [everything.owner, everything.owner + n, there[blocks.owner] + 2 * n]
        begins = [_begins(everything), _begins(everything) + everything.n_values]
        begins.append(_begins(blocks) + 2 * everything.n_values)
        layout = StatsLayout(tuple(names), np.concatenate(owners), present)
        return cls(present, there.tolist(), blocks, layout, np.concatenate(begins))


def _begins(blocks: Blocks) -> NDArray[np.intp]:
    """Where each piece begins."""
    return np.concatenate([np.empty(0, np.intp), *(block.start + block.starts for block in blocks.blocks)])


def _part_of(values: Floats) -> Take:
    """Takes a block out of all values."""
    return lambda block, _: values[block.start : block.stop]


def _in_place(sources: Sequence[Source], block: Block, width: np.dtype[np.floating]) -> Floats | None:
    """A large tensor's block without a copy, where it has the width that is needed."""
    if block.last - block.first > 1 or (source := sources[block.first]).dtype != width:
        return None
    return source[block.offset : block.offset + len(block)]  # type: ignore[return-value]


def copy_tensors(tensors: Sequence[Tensor], out: Floats) -> None:
    """Copy all values, put together, as ``out``'s dtype; exact, as that is as wide."""
    if tensors:
        with torch.no_grad():
            torch.cat([real(tensor).reshape(-1) for tensor in tensors], out=torch.from_numpy(out))


def host_values(tensor: Tensor, dtype: torch.dtype) -> Source:
    """A tensor's values, flat and in C order, without a copy where it is contiguous."""
    if tensor.dtype is dtype and type(tensor) in PLAIN and tensor.is_contiguous() and not tensor.is_neg():
        return tensor.detach().numpy().reshape(-1)  # the usual case: every call counts for a small network
    values = real(tensor.detach()).resolve_neg().reshape(-1)
    if values.dtype == torch.bfloat16:
        return values.view(torch.int16).numpy().view(np.uint16)
    if values.dtype not in (torch.float32, torch.float64, torch.float16):
        values = values.to(dtype)
    return values.numpy()
