"""One step while it is being made: a round in which each of the optimizers makes its part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from trajectory_tools.recorder.capture import Capture, Captured
from trajectory_tools.recorder.together import joined
from trajectory_tools.store.rows import RowLayout

__all__ = ["Round"]


class Round:
    """What is captured of the parts that were made so far, and what else is to stand in the step's row of ``scalars``.

    ``record``: its tensors are recorded; ``stats``: they are measured. ``place`` is that of the optimizer which is at
    work, ``seconds`` what has been spent in our hooks.
    """

    def __init__(self, captures: Sequence[Capture], *, record: bool, stats: bool) -> None:
        self.place = 0
        self.seconds = 0.0
        self.evaluations = 0
        self.skipped: Any = False
        self.loss: Any = None
        self._captures = captures
        self._record = record
        self._captures_any = record or stats
        self._parts: dict[int, Captured | None] = {}

    def __contains__(self, place: object) -> bool:
        return place in self._parts

    def __len__(self) -> int:
        return len(self._parts)

    @property
    def is_complete(self) -> bool:
        """Whether every optimizer has made its part."""
        return len(self._parts) == len(self._captures)

    def begin(self, place: int) -> None:
        """Before the optimizer at this place makes its part: copy θ_t."""
        self.place = place
        if self._captures_any:
            self._captures[place].before(record=self._record)

    def gradients(self, scale: Tensor | None = None, given: Sequence[Tensor | None] | None = None) -> None:
        """The gradients are final: see ``Capture.gradients``."""
        if self._captures_any:
            self._captures[self.place].gradients(scale, given)

    def end(self, step: int) -> None:
        """The part is made."""
        self._parts[self.place] = self._captures[self.place].after(step) if self._captures_any else None

    def captured(self, step: int, layout: RowLayout) -> Captured:
        """Everything, as one; an optimizer that took no part was at rest."""
        if not self._captures_any:
            return Captured(None, None)
        found = [
            self._parts.get(i) or capture.at_rest(step, record=self._record) for i, capture in enumerate(self._captures)
        ]
        return found[0] if len(found) == 1 else joined(step, layout, found)
