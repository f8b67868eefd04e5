"""Recording a Transformers training: one more callback of its Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from trajectory_tools.integrations.folders import attach_recorders
from trajectory_tools.recorder.recorder import Recorder
from trajectory_tools.recorder.scalars import as_number
from trajectory_tools.store.schema import RESERVED_SCALARS

__all__ = ["RecordTrajectory"]


class RecordTrajectory(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Records the optimizer of a ``Trainer`` while it trains::

        from trajectory_tools.integrations.transformers import RecordTrajectory

        trainer = Trainer(..., callbacks=[RecordTrajectory("runs/mine")])

    ``options`` are the ``Recorder``'s: ``every``, ``match``, ``save``, ``label``, ``if_exists``, ... What the Trainer
    logs (the mean loss since it last logged, the norm of the gradient) is in the row of the step at which it logs it:
    ``logging_steps=1`` gives the loss of every step.
    """

    def __init__(self, path: str | Path, **options: Any) -> None:
        self.recorders: list[Recorder] = []
        self._path = path
        self._options = options

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin to record."""
        self.recorders = attach_recorders(self._path, kwargs["model"], [kwargs["optimizer"]], self._options)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Note what the Trainer logs of a step."""
        if "loss" not in (logs or {}):
            return  # of an evaluation, or of the whole training
        numbers = {name: value for name, value in logs.items() if name not in RESERVED_SCALARS and _is_number(value)}
        for recorder in self.recorders:
            recorder.log(**numbers)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the run. The Trainer does not tell of an error; then it is closed at the end of the program."""
        recorders, self.recorders = self.recorders, []
        for recorder in recorders:
            recorder.close()


def _is_number(value: Any) -> bool:
    try:
        as_number("", value)
    except ValueError:
        return False
    return True
