"""Watching GradScalers: a step that one drops calls no hook of its optimizer."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any, Protocol

from torch.amp.grad_scaler import GradScaler

if TYPE_CHECKING:
    from torch.optim import Optimizer

__all__ = ["Watcher", "unwatch", "watch"]


class Watcher(Protocol):
    """What is told of a scaler's steps."""

    def before_scaler_step(self, scaler: GradScaler, optimizer: Optimizer) -> None:
        """The scaler begins to decide whether the optimizer makes a step."""

    def after_scaler_step(self, scaler: GradScaler, optimizer: Optimizer) -> None:
        """It has decided, and the step was made or was not."""


_watchers: list[Watcher] = []
_original = GradScaler.step


@wraps(_original)
def _step(self: GradScaler, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
    for watcher in _watchers:  # one of them may add another
        watcher.before_scaler_step(self, optimizer)
    result = _original(self, optimizer, *args, **kwargs)
    for watcher in tuple(_watchers):
        watcher.after_scaler_step(self, optimizer)
    return result


def watch(watcher: Watcher) -> None:
    """Tell the watcher of every scaler's steps, until ``unwatch``."""
    global _original  # noqa: PLW0603
    if not _watchers and GradScaler.step is not _step:
        _original = GradScaler.step
        GradScaler.step = _step  # type: ignore[method-assign]
    _watchers.append(watcher)


def unwatch(watcher: Watcher) -> None:
    """Tell it no more; without any watcher GradScaler is as it was."""
    if watcher in _watchers:
        _watchers.remove(watcher)
    if not _watchers and GradScaler.step is _step:
        GradScaler.step = _original  # type: ignore[method-assign]
