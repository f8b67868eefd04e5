"""Meta-training a learned optimizer on a built-in problem: the loop, its files, and what is recorded of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trajectory_tools.errors import BadArgument, OutputExists
from trajectory_tools.experiments.recording import IN_NO_TITLE, title
from trajectory_tools.l2o.options import MetaTrainingOptions
from trajectory_tools.problems import Problem, make_problem

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from trajectory_tools.l2o.meta_training import Epoch, MetaRun, MetaTrainer
    from trajectory_tools.problems import Optimizee
    from trajectory_tools.store.session import IfExists

__all__ = ["MetaTraining", "Recording", "checkpoint_of"]

CHECKPOINT_SECONDS = 30.0


@dataclass(frozen=True)
class Recording:
    """What is recorded of a meta-training, into which folder.

    ``folder/weights`` gets the trajectory of the network's own weights under Adam, a step for each meta-step (unless
    ``weights`` is False); ``folder/run-N`` the optimizee's in meta-training run N, for each N of ``runs``.
    """

    folder: Path
    runs: Collection[int] = ()
    weights: bool = True


@dataclass(frozen=True)
class MetaTraining:
    """A problem, and how a learned optimizer is meta-trained on it."""

    problem: Problem
    options: MetaTrainingOptions = field(default_factory=MetaTrainingOptions)

    @classmethod
    def resumed(cls, output: Path) -> MetaTraining:
        """The one whose checkpoint lies beside ``output``; raises ``BadArgument`` where there is none."""
        from trajectory_tools.l2o.checkpoint import load_checkpoint

        found = load_checkpoint(checkpoint_of(output))
        problem = make_problem(found["problem"]["name"], **found["problem"]["options"])
        return cls(problem, MetaTrainingOptions.make(found["options"]))

    def train(
        self,
        output: str | Path,
        *,
        resume: bool = False,
        force: bool = False,
        recording: Recording | None = None,
        on_run: Callable[[MetaRun], object] | None = None,
        on_epoch: Callable[[Epoch], object] | None = None,
    ) -> dict[str, Any]:
        """Meta-train, and write the best weights to ``output`` (safetensors); returns their card.

        Every 30 seconds, and when it is interrupted (Ctrl-C), a checkpoint is written beside ``output``, as it was
        between two runs; with ``resume`` it goes on from there to the identical weights. When all is done the
        checkpoint is removed.

        Raises ``OutputExists`` without ``force``; ``BadArgument`` where the checkpoint to resume has other options;
        ``Diverged``, once the best weights are written; ``TrajectoryError`` where a file cannot be written.
        """
        from trajectory_tools.l2o.checkpoint import load_checkpoint, save_checkpoint
        from trajectory_tools.l2o.meta_training import Diverged, MetaTrainer

        output = Path(output)
        checkpoint = checkpoint_of(output)
        if not force:
            _refuse_existing(output, checkpoint, resume)
        trainer = MetaTrainer(self.problem, self.options)
        if resume:
            self._refuse_others(MetaTraining.resumed(output), checkpoint)
            trainer.load_state_dict(load_checkpoint(checkpoint)["trainer"])
        described = {
            "problem": {"name": self.problem.name, "options": self.problem.options()},
            "options": self.options.options(),
        }
        state = deepcopy(trainer.state_dict())
        save_checkpoint(checkpoint, {**described, "trainer": state})  # what cannot be written is found at once
        saved = time.monotonic()
        replace = resume or force
        try:
            with self._recorded(trainer, recording, resume, replace) as on_meta_step:
                while not trainer.finished:
                    if trainer.selection_is_due:
                        epoch = trainer.select()
                        if on_epoch is not None:
                            on_epoch(epoch)
                    else:
                        run = trainer.run(watch=self._watch(recording, replace), on_meta_step=on_meta_step)
                        if on_run is not None:
                            on_run(run)
                    state = deepcopy(trainer.state_dict())
                    if time.monotonic() - saved > CHECKPOINT_SECONDS:
                        save_checkpoint(checkpoint, {**described, "trainer": state})
                        saved = time.monotonic()
        except KeyboardInterrupt:
            save_checkpoint(checkpoint, {**described, "trainer": state})
            raise
        except Diverged as error:
            if not trainer.best.weights:
                raise
            self._write(trainer, output, force)
            raise Diverged(
                f"{error}; the best weights so far, of epoch {trainer.best.epoch}, are in {output}"
            ) from error
        card = self._write(trainer, output, force)
        checkpoint.unlink(missing_ok=True)
        return card

    def _write(self, trainer: MetaTrainer, output: Path, force: bool) -> dict[str, Any]:
        from trajectory_tools.l2o.weights import save_weights

        card = self._card(trainer)
        save_weights(output, trainer.best_network(), card, if_exists="replace" if force else "error")
        return card

    def _card(self, trainer: MetaTrainer) -> dict[str, Any]:
        """Where the weights come from, and what they reached."""
        from trajectory_tools.recorder.description import describe_command, describe_environment

        return {
            "problem": {
                "name": self.problem.name,
                "title": title(self.problem),
                "options": {name: value for name, value in self.problem.options().items() if name not in IN_NO_TITLE},
                "data": trainer.data,
            },
            "recipe": self.options.options(),
            "seed": self.options.seed,
            "command": describe_command()["command"],
            "environment": describe_environment(list(trainer.network.parameters())),
            "losses": {
                "best_epoch": trainer.best.epoch,
                "best_selection": trainer.best.loss,
                "selection": trainer.selection_losses,
                "training": [trainer.training_loss(epoch) for epoch in range(1, len(trainer.selection_losses))],
            },
            "meta_steps": trainer.meta_steps,
            "skipped": trainer.skipped,
        }

    def _refuse_others(self, begun: MetaTraining, checkpoint: Path) -> None:
        """Going on with other options would give neither result."""
        there, here = (
            {"problem": one.problem.name, **one.problem.options(), **one.options.options()} for one in (begun, self)
        )
        for name in sorted(there.keys() | here.keys()):
            if name not in IN_NO_TITLE and there.get(name) != here.get(name):
                raise BadArgument(
                    f"{checkpoint} was begun with {name} = {there.get(name)!r}, found {here.get(name)!r};"
                    " resume with the options it was begun with, or none"
                )

    @contextmanager
    def _recorded(
        self, trainer: MetaTrainer, recording: Recording | None, resume: bool, replace: bool
    ) -> Iterator[Callable[[Any], object] | None]:
        """Record the network's weights while the block runs; gives what is to be called after each meta-step."""
        if recording is None or not recording.weights:
            yield None
            return
        from trajectory_tools.recorder import Recorder

        if_exists: IfExists = "resume" if resume else "replace" if replace else "error"
        recorder = Recorder(
            recording.folder / "weights",
            trainer.network,
            trainer.meta_optimizer,
            label="the learned optimizer's weights",
            seed=self.options.seed,
            info={
                "problem": {
                    "name": "meta-training",
                    "title": f"meta-training on {title(self.problem)}",
                    "options": self.problem.options(),
                    "data": trainer.data,
                },
                "meta_training": self.options.options(),
            },
            if_exists=if_exists,
            start_step=trainer.meta_steps if resume else None,
        )
        with recorder:
            yield lambda truncation: recorder.log(
                loss=truncation.meta_loss, mean_loss=math.fsum(truncation.losses) / len(truncation.losses)
            )

    def _watch(self, recording: Recording | None, replace: bool) -> Any:
        if recording is None or not recording.runs:
            return None

        @contextmanager
        def watch(
            number: int, optimizee: Optimizee, optimizer: Optimizer
        ) -> Iterator[Callable[[float], object] | None]:
            if number not in recording.runs:
                yield None
                return
            from trajectory_tools.recorder import Recorder

            recorder = Recorder(
                recording.folder / f"run-{number}",
                optimizee.model,
                optimizer,
                symmetries=optimizee.symmetries,
                label=f"L2O in meta-training run {number}",
                info={
                    "problem": {
                        "name": self.problem.name,
                        "title": title(self.problem),
                        "options": self.problem.options(),
                        "data": optimizee.data,
                    },
                    "optimizer": {"name": "l2o", "options": {}},
                    "meta_training": {**self.options.options(), "run": number},
                },
                if_exists="replace" if replace else "error",
            )
            with recorder:
                yield lambda loss: recorder.log(loss=loss)

        return watch


def checkpoint_of(output: str | Path) -> Path:
    """Where the checkpoint of a meta-training lies: beside its weights."""
    return Path(output).with_suffix(".checkpoint")


def _refuse_existing(output: Path, checkpoint: Path, resume: bool) -> None:
    if output.exists():
        raise OutputExists(f"{output} is there already; choose another output, or replace it with --force")
    if checkpoint.exists() and not resume:
        raise OutputExists(
            f"{checkpoint} is there, from a meta-training that was not finished; go on with --resume,"
            " or start anew with --force"
        )
