"""The scalars of each step: what the recorder measures and what the user logs, without waiting for a device."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trajectory_tools.errors import BadArgument
from trajectory_tools.store.schema import RESERVED_SCALARS

__all__ = ["Pending", "ScalarLog", "as_number", "learning_rates"]

Row = dict[str, Any]


class ScalarLog:
    """Assigns what is logged to steps, and hands over rows in order.

    A name that is first logged before any step belongs to the step that follows each call, and its last value counts;
    any other name to the step before it, and its first value counts: what is logged in an iteration without a step
    (a GradScaler dropped it, gradients are accumulated) does not change an earlier step's row. So ``log`` may stand on
    either side of ``optimizer.step()``, and every row is one iteration of the loop.
    """

    def __init__(self, put: Callable[[Row], None]) -> None:
        self._put = put
        self._ahead: set[str] = set()  # names that are logged before their step
        self._spelled = {"loss": "loss"}
        self._logged: set[str] = set()  # names that the user gave the current row
        self._next: Row = {}
        self._current: Row | None = None
        self._complete_rows: deque[Row] = deque()

    @property
    def waiting(self) -> bool:
        """Whether there is something logged whose step has not come."""
        return bool(self._next)

    def log(self, values: dict[str, Any]) -> None:
        """Take the user's values: numbers or tensors of one element."""
        for name in values:
            if name.lower() in RESERVED_SCALARS:  # as in SQL, where case does not tell columns apart
                raise BadArgument(f"cannot log {name!r}: the recorder fills that column itself; choose another name")
            if self._spelled.setdefault(name.lower(), name) != name:
                raise BadArgument(f"cannot log {name!r} beside {self._spelled[name.lower()]!r}: SQL ignores case")
        for name, number in {name: as_number(name, value) for name, value in values.items()}.items():
            if self._current is None:
                self._ahead.add(name)
            if name in self._ahead or self._current is None:
                self._next[name] = number
            elif name not in self._logged:
                self._current[name] = number
                self._logged.add(name)

    def step(self, row: Row) -> None:
        """Begin the row of a step that was just made; the row before it is complete."""
        self._complete()
        self._current = {**row, **self._next}
        self._logged = set(self._next)
        self._next = {}
        self._send(wait=False)

    def close(self) -> None:
        """Hand over every row, waiting for values that are still on their way from a device."""
        self._complete()
        self._send(wait=True)

    def _complete(self) -> None:
        if self._current is not None:
            self._complete_rows.append(self._current)
            self._current = None

    def _send(self, *, wait: bool) -> None:
        while self._complete_rows:
            pending = {name: v for name, v in self._complete_rows[0].items() if isinstance(v, Pending)}
            if not wait and not all(value.arrived() for value in pending.values()):
                return
            numbers = {name: float(value) for name, value in pending.items()}
            self._put(self._complete_rows.popleft() | numbers)


class Pending:
    """A number that is being copied from a GPU."""

    def __init__(self, value: Tensor) -> None:
        self._host = torch.empty((), dtype=torch.float64, device="cpu", pin_memory=True)
        self._host.copy_(value.to(torch.float64), non_blocking=True)
        self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._event.record(torch.cuda.current_stream(value.device))

    def arrived(self) -> bool:
        """Whether the number can be read without waiting."""
        return bool(self._event.query())  # type: ignore[no-untyped-call]

    def __float__(self) -> float:
        self._event.synchronize()
        return self._host.item()


def as_number(name: str, value: Any) -> float | Pending:
    """The value as a number, which may still be on its way; ``BadArgument`` where it is none."""
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise BadArgument(f"cannot log {name!r}: a scalar is needed, found a tensor of shape {tuple(value.shape)}")
        if value.device.type == "cuda":
            return Pending(value.detach().reshape(()))
        value = value.item()
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise BadArgument(f"cannot log {name!r}: a number is needed, found {type(value).__name__}") from error


def learning_rates(groups: Sequence[Mapping[str, Any]]) -> dict[str, float | Pending]:
    """That of the first group, and of those with another one; what is on a GPU is not waited for to be compared."""
    first = groups[0].get("lr")
    return {
        f"lr_group{i}" if i else "lr": as_number("lr", group["lr"])
        for i, group in enumerate(groups)
        if group.get("lr") is not None and (i == 0 or _may_differ(group["lr"], first))
    }


def _may_differ(lr: Any, other: Any) -> bool:
    on_device = any(isinstance(value, Tensor) and value.device.type == "cuda" for value in (lr, other))
    return lr is not other and bool(on_device or lr != other)
