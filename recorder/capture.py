"""Copying parameters, gradients and updates out of the training, without changing or delaying it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trajectory_tools.recorder.device_stats import DeviceStats
from trajectory_tools.recorder.names import Named
from trajectory_tools.recorder.projector import DeviceProjector
from trajectory_tools.recorder.ranks import local
from trajectory_tools.store.rows import RowLayout, StepRows
from trajectory_tools.store.sampling import sampled_coordinates
from trajectory_tools.store.selection import Selection
from trajectory_tools.store.stats_rows import StepStats

__all__ = ["PLAIN", "Capture", "Captured", "real"]

PLAIN = (Tensor, torch.nn.Parameter)
"""Types without behaviour of their own."""


class Captured(NamedTuple):
    """What was copied of one step, and what was measured."""

    rows: StepRows | None
    stats: StepStats | None


class Capture:
    """Takes one step's values: ``before`` the step, ``gradients`` when they are final, and ``after`` the step.

    Values are copied as float32, or float64 where a parameter is float64: exact for bfloat16 and float16. A complex
    parameter has a last axis of length 2, real and imaginary part. Of a sharded parameter it is this rank's part.
    ``selection`` says what stands in the rows (``counts``: parameter → how many values, where it was asked already);
    ``stats`` measures every parameter whole, also at steps that are not recorded (``before(record=False)``).

    This one is for tensors on any device; see ``HostCapture`` for those in the host's memory.
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
        self.tensors = [parameter.tensor for parameter in named]
        self.stats = stats
        self.selection = selection or Selection()
        self._names = tuple(parameter.name for parameter in named)
        self._numels = [real(tensor).numel() for tensor in self.tensors]
        self._save = frozenset(save)
        self._dtype = torch.float64 if any(real(t).dtype == torch.float64 for t in self.tensors) else torch.float32
        numels = dict(zip(self._names, self._numels, strict=True))
        chosen = self.selection.counts(numels) if counts is None else counts
        self.counts = {name: chosen[name] for name in numels if name in chosen}
        self.layout = RowLayout.of(self.counts, str(self._dtype).removeprefix("torch."))
        self._recorded = [i for i, name in enumerate(self._names) if name in self.counts]
        self._whole = self.counts == numels
        self._one_device = len({tensor.device for tensor in self.tensors}) == 1
        self._theta: list[Tensor] = []
        self._grads: list[Tensor] | None = None
        self._present: NDArray[np.bool_] | None = None
        self._device_stats: dict[bytes, DeviceStats] = {}
        self._choice: _DeviceChoice | None = None

    @property
    def bytes_per_step(self) -> int:
        """Bytes that one recorded step holds before compression."""
        return int(self.layout.lengths.sum()) * self._dtype.itemsize * len(self._save)

    @cached_property
    def held_per_step(self) -> int:
        """Bytes of memory that one recorded step holds until it is written."""
        return self.bytes_per_step

    def before(self, record: bool = True) -> None:
        """Copy θ_t."""
        self._record = record
        self._grads = self._present = None
        self._theta = self._flat(self.tensors) if self.stats or self._save & {"param", "update"} else []

    def gradients(self, scale: Tensor | None = None, given: Sequence[Tensor | None] | None = None) -> None:
        """Copy g_t, divided by a GradScaler's scale; a parameter whose gradient is None is left out.

        ``given`` is for a training that does not keep gradients in ``.grad``.
        """
        if self.stats or (self._record and "grad" in self._save):
            grads = [tensor.grad for tensor in self.tensors] if given is None else list(given)
            found = [grad for grad in grads if grad is not None]
            if len(found) < len(grads):
                self._present = np.array([grad is not None for grad in grads])
            self._grads = self._flat(found)
            if scale is not None:
                self._grads = [flat.div_(scale.to(flat.device)) for flat in self._grads]

    def after(self, step: int) -> Captured:
        """Subtract θ_t from θ_{t+1}, and hand over everything that was copied and measured for this step."""
        if self._grads is None:
            self.gradients()
        flats: dict[str, list[Tensor]] = {}
        if self.stats or "update" in self._save:
            flats["update"] = [new.sub_(old) for new, old in zip(self._flat(self.tensors), self._theta, strict=True)]
        if self.stats or "param" in self._save:
            flats["param"] = self._theta
        if self._grads is not None:
            flats["grad"] = self._grads
        self._theta, self._grads = [], None
        stats = self._measured(step, flats) if self.stats else None
        rows = None
        if self._record:
            columns = {kind: self._chosen(kind, flat) for kind, flat in flats.items() if kind in self._save}
            values, ready = _to_host(columns)
            rows = StepRows(step, self.layout, values, self._present_rows(columns), ready)
        return Captured(rows, stats)

    def at_rest(self, step: int, *, record: bool = True) -> Captured:
        """What there is of a step that these parameters took no part in: no gradient, an update of zero."""
        self.before(record)
        self.gradients(given=[None] * len(self.tensors))
        return self.after(step)

    def release(self) -> None:
        """Let go of the memory that is kept for the steps to come."""

    def _present_rows(self, columns: Collection[str]) -> dict[str, NDArray[np.bool_]]:
        """Whose gradient there is, among the recorded parameters."""
        return {} if self._present is None or "grad" not in columns else {"grad": self._present[self._recorded]}

    def _chosen(self, kind: str, flats: list[Tensor]) -> list[Tensor]:
        """What is recorded of a column."""
        if self._whole:
            return flats
        self._choice = self._choice or _DeviceChoice(self.selection, self._names, self._numels, self.counts)
        there = list(range(len(self._names)))
        if kind == "grad" and self._present is not None:
            there = np.flatnonzero(self._present).tolist()
        parts = list(zip(there, _split(flats, [self._numels[i] for i in there]), strict=True))
        return [self._choice.of(i, part) for i, part in parts if i in self._choice]

    def _measured(self, step: int, flats: dict[str, list[Tensor]]) -> StepStats:
        present = np.ones(len(self._names), bool) if self._present is None else self._present
        if (stats := self._device_stats.get(present.tobytes())) is None:
            stats = self._device_stats[present.tobytes()] = DeviceStats(self._names, self._numels, present)
        pieces, ready = _to_host({"pieces": stats.measure([*flats["param"], *flats["update"], *flats["grad"]])})
        return StepStats(step, stats.layout, np.asarray(pieces["pieces"], np.float64).reshape(-1, 5).T, ready)

    def _flat(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Fresh copies, one flat tensor for each stretch of tensors on the same device."""
        with torch.no_grad():
            parts = [real(tensor).reshape(-1) for tensor in tensors]
            if self._one_device and parts:
                return [torch.cat(parts).to(self._dtype)]
            stretches = groupby(parts, key=lambda part: part.device)
            return [torch.cat(list(stretch)).to(self._dtype) for _, stretch in stretches]


class _DeviceChoice:
    """The recorded coordinates, or projections, of tensors on any device."""

    def __init__(
        self, selection: Selection, names: Sequence[str], numels: Sequence[int], counts: dict[str, int]
    ) -> None:
        self._take: dict[int, Callable[[Tensor], Tensor]] = {}
        for i, (name, numel) in enumerate(zip(names, numels, strict=True)):
            if name not in counts:
                continue
            if counts[name] == numel:
                self._take[i] = lambda part: part
            elif selection.projection is not None:
                self._take[i] = DeviceProjector(selection.seed, name, numel, selection.projection)
            else:
                self._take[i] = _Places(sampled_coordinates(selection.seed, name, numel, counts[name]))

    def __contains__(self, i: object) -> bool:
        return i in self._take

    def of(self, i: int, part: Tensor) -> Tensor:
        """What is recorded of the i-th parameter's values."""
        return self._take[i](part)


class _Places:
    """Takes these coordinates of a tensor."""

    def __init__(self, places: NDArray[np.int64]) -> None:
        self._places = torch.from_numpy(places)

    def __call__(self, part: Tensor) -> Tensor:
        """They are copied to the tensor's device once."""
        if self._places.device != part.device:
            self._places = self._places.to(part.device)
        return part[self._places]


def real(tensor: Tensor) -> Tensor:
    """The tensor's values, those of this rank, as a dense real tensor."""
    if type(tensor) in PLAIN and tensor.layout is torch.strided and not tensor.is_complex():
        return tensor  # the usual case: every call counts for a small network
    tensor = local(tensor)
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _split(flats: Sequence[Tensor], numels: Sequence[int]) -> list[Tensor]:
    """The flat tensors of the stretches, cut into tensors of these sizes."""
    parts: list[Tensor] = []
    sizes = list(numels)
    for flat in flats:
        taken: list[int] = []
        while sizes and sum(taken) + sizes[0] <= flat.numel():
            taken.append(sizes.pop(0))
        parts += torch.split(flat, taken)
    parts += [torch.empty(0, device="cpu")] * len(sizes)
    return parts


def _to_host(columns: dict[str, list[Tensor]]) -> tuple[dict[str, NDArray[np.floating]], Callable[[], None] | None]:
    """Each column as one NumPy array, and what to call before looking at it (copies from a GPU go on meanwhile)."""
    values = {}
    events: list[torch.cuda.Event] = []
    for column, flats in columns.items():
        if all(flat.device.type == "cpu" for flat in flats):
            host = flats[0] if len(flats) == 1 else torch.cat(flats) if flats else torch.empty(0, device="cpu")
        else:
            host = torch.empty(
                sum(flat.numel() for flat in flats),
                dtype=flats[0].dtype,
                device="cpu",
                pin_memory=torch.cuda.is_available(),
            )
            start = 0
            for flat in flats:
                events += _copy(flat, host[start : start + flat.numel()])
                start += flat.numel()
        values[column] = host.numpy()
    if not events:
        return values, None

    def ready() -> None:
        for event in events:
            event.synchronize()

    return values, ready


_side_streams: dict[torch.device, torch.cuda.Stream] = {}


def _copy(flat: Tensor, host: Tensor) -> list[torch.cuda.Event]:
    """Copy to the host: from CUDA on a side stream, returning the event to wait for; from elsewhere at once."""
    if flat.device.type != "cuda":
        host.copy_(flat)
        return []
    if (stream := _side_streams.get(flat.device)) is None:
        stream = _side_streams[flat.device] = torch.cuda.Stream(flat.device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(flat.device))
    with torch.cuda.stream(stream):
        host.copy_(flat, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(stream)
    flat.record_stream(stream)  # or its memory could be given out again before the copy has read it
    return [event]
