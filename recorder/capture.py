"""Copying parameters, gradients and updates out of the training, without changing or delaying it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trajectory_tools.recorder.names import Named
from trajectory_tools.recorder.ranks import local
from trajectory_tools.store.rows import RowLayout, StepRows

__all__ = ["Capture"]


class Capture:
    """Takes one step's values: ``before`` the step, ``gradients`` when they are final, and ``after`` the step.

    Values are copied as float32, or float64 where a parameter is float64: exact for bfloat16 and float16. A complex
    parameter has a last axis of length 2, real and imaginary part. Of a sharded parameter it is this rank's part.
    """

    def __init__(self, named: Sequence[Named], save: Collection[str]) -> None:
        self.tensors = [parameter.tensor for parameter in named]
        self._save = frozenset(save)
        self._dtype = torch.float64 if any(_real(t).dtype == torch.float64 for t in self.tensors) else torch.float32
        self.layout = RowLayout.of(
            {parameter.name: _real(parameter.tensor).numel() for parameter in named},
            str(self._dtype).removeprefix("torch."),
        )
        self._one_device = len({tensor.device for tensor in self.tensors}) == 1
        self._theta: list[Tensor] = []
        self._grads: list[Tensor] | None = None
        self._present: NDArray[np.bool_] | None = None

    @property
    def bytes_per_step(self) -> int:
        """Bytes that one recorded step holds before compression."""
        return int(self.layout.lengths.sum()) * self._dtype.itemsize * len(self._save)

    def before(self) -> None:
        """Copy θ_t."""
        self._grads = self._present = None
        if self._save & {"param", "update"}:
            self._theta = self._flat(self.tensors)

    def gradients(self, scale: Tensor | None = None, given: Sequence[Tensor | None] | None = None) -> None:
        """Copy g_t, divided by a GradScaler's scale; a parameter whose gradient is None is left out.

        ``given`` is for a training that does not keep gradients in ``.grad``.
        """
        if "grad" in self._save:
            grads = [tensor.grad for tensor in self.tensors] if given is None else list(given)
            found = [grad for grad in grads if grad is not None]
            if len(found) < len(grads):
                self._present = np.array([grad is not None for grad in grads])
            self._grads = self._flat(found)
            if scale is not None:
                self._grads = [flat.div_(scale.to(flat.device)) for flat in self._grads]

    def after(self, step: int) -> StepRows:
        """Subtract θ_t from θ_{t+1}, and hand over everything that was copied for this step."""
        if "grad" in self._save and self._grads is None:
            self.gradients()
        columns: dict[str, list[Tensor]] = {}
        if "update" in self._save:
            columns["update"] = [new.sub_(old) for new, old in zip(self._flat(self.tensors), self._theta, strict=True)]
        if "param" in self._save:
            columns["param"] = self._theta
        if self._grads is not None and "grad" in self._save:
            columns["grad"] = self._grads
        present = {} if self._present is None or "grad" not in self._save else {"grad": self._present}
        self._theta, self._grads = [], None
        values, ready = _to_host(columns)
        return StepRows(step, self.layout, values, present, ready)

    def at_rest(self, step: int) -> StepRows:
        """The rows of a step that these parameters took no part in: no gradient, an update of zero."""
        self.before()
        self._grads, self._present = [], np.zeros(len(self.tensors), bool)
        return self.after(step)

    def _flat(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Fresh copies, one flat tensor for each stretch of tensors on the same device."""
        with torch.no_grad():
            parts = [_real(tensor).reshape(-1) for tensor in tensors]
            if self._one_device and parts:
                return [torch.cat(parts).to(self._dtype)]
            stretches = groupby(parts, key=lambda part: part.device)
            return [torch.cat(list(stretch)).to(self._dtype) for _, stretch in stretches]


def _real(tensor: Tensor) -> Tensor:
    """The tensor's values, those of this rank, as a dense real tensor."""
    tensor = local(tensor)
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


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
