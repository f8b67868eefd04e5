"""The losses of a program that does not say what they are: what ``backward`` is called on. Imports no torch itself."""

from __future__ import annotations

import os
from functools import wraps
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BackwardLosses"]


class BackwardLosses:
    """Sums up what ``backward`` is called on until an optimizer steps.

    Optimizers that step one after the other, with no ``backward`` in between, share a loss.
    """

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._unknown = False
        self._stepped = False  # the next backward begins a new sum
        self._takers: list[object] = []
        self._process = os.getpid()

    def watch(self) -> None:
        """From now on; no hook of torch's tells."""
        from torch._tensor import Tensor

        original, losses = Tensor.backward, self

        @wraps(original)
        def backward(self: Tensor, *args: Any, **kwargs: Any) -> Any:
            losses.note(self)
            return original(self, *args, **kwargs)  # type: ignore[no-untyped-call]

        Tensor.backward = backward  # type: ignore[method-assign]

    def note(self, loss: Tensor) -> None:
        """``backward`` is called on it."""
        import torch

        if torch.compiler.is_dynamo_compiling() or os.getpid() != self._process or type(loss) is not torch.Tensor:
            return
        if self._stepped:
            self.forget()
        if loss.numel() != 1 or loss.is_complex():
            self._unknown = True  # a gradient was given: nobody knows what it is the gradient of
        else:
            loss = loss.detach().reshape(())
            self._sum = loss if self._sum is None else self._sum.to(loss) + loss

    def take(self, taker: object) -> Tensor | None:
        """The loss of the step that the taker is about to make; once."""
        if self._unknown or any(each is taker for each in self._takers):
            return None
        self._takers.append(taker)
        return self._sum

    def stepped(self) -> None:
        """An optimizer has stepped, or was kept from it."""
        self._stepped = True

    def forget(self) -> None:
        """Begin anew."""
        self._sum, self._unknown, self._stepped, self._takers = None, False, False, []
