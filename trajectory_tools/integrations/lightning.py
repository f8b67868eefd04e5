"""Recording a Lightning training: one more callback of its Trainer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback
from torch import Tensor

from trajectory_tools.integrations.folders import attach_recorders
from trajectory_tools.recorder.recorder import Recorder

__all__ = ["RecordTrajectory"]


class RecordTrajectory(Callback):  # type: ignore[misc, unused-ignore]
    """Records the optimizers of a ``Trainer`` while it fits::

        from trajectory_tools.integrations.lightning import RecordTrajectory

        trainer = Trainer(callbacks=[RecordTrajectory("runs/mine")])

    ``options`` are the ``Recorder``'s: ``every``, ``match``, ``save``, ``label``, ``if_exists``, ... Several optimizers
    make one run each, in ``optimizer-0``, ``optimizer-1``, ... below the folder. The loss of a step is the mean of what
    ``training_step`` returned since the step before: several values where gradients are accumulated.
    """

    def __init__(self, path: str | Path, **options: Any) -> None:
        super().__init__()
        self.recorders: list[Recorder] = []
        self._path = path
        self._options = options
        self._losses: list[Tensor] = []
        self._steps = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to record."""
        self._losses, self._steps = [], 0
        self.recorders = attach_recorders(self._path, pl_module, trainer.optimizers, self._options)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Note the loss, once there was a step that it belongs to."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor) and loss.numel() == 1:
            self._losses.append(loss.detach())
        steps = sum(recorder.steps_seen for recorder in self.recorders)
        if steps > self._steps:
            if self._losses:
                # Lightning divides what it returns by the number of batches that are accumulated.
                total = self._losses[0] if len(self._losses) == 1 else sum(self._losses[1:], self._losses[0])
                for recorder in self.recorders:
                    recorder.log(loss=total)
            self._losses, self._steps = [], steps

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Close the runs."""
        self._end(None)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Close the runs, and write down what ended them."""
        self._end(exception)

    def _end(self, error: BaseException | None) -> None:
        recorders, self.recorders = self.recorders, []
        for recorder in recorders:
            recorder.__exit__(type(error) if error is not None else None, error, None)
