"""Recording runs of the built-in problems."""

from __future__ import annotations

import json
import platform
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trajectory_tools.errors import BadArgument
from trajectory_tools.optimizers import OPTIMIZERS
from trajectory_tools.options import Options
from trajectory_tools.problems import SEED_LIMIT, Problem

if TYPE_CHECKING:
    from trajectory_tools.experiments.probing import Probing
    from trajectory_tools.experiments.tune import Tuning
    from trajectory_tools.recorder import Recorder
    from trajectory_tools.recorder.schedule import Schedule
    from trajectory_tools.store.session import IfExists
    from trajectory_tools.store.size import TableSize

__all__ = ["Experiment"]

IN_NO_TITLE = ("data_dir", "download")
"""Where the data lies says nothing about what was trained."""


@dataclass(frozen=True)
class Experiment:
    """A problem and an optimizer with all their options: what is the same for every seed.

    ``optimizer`` is a name of ``OPTIMIZERS``, ``options`` are its options; ``tuning`` is where its learning rate comes
    from, if it was tuned.
    """

    problem: Problem
    optimizer: str
    options: Mapping[str, Any] = field(default_factory=dict)
    tuning: Tuning | None = None

    @classmethod
    def tuned(cls, problem: Problem, optimizer: str, options: Mapping[str, Any] | None = None) -> Experiment:
        """The experiment with the learning rate that ``tune_lr`` chooses."""
        from trajectory_tools.experiments.tune import tune_lr

        tuning = tune_lr(problem, optimizer, **(options or {}))
        return cls(problem, optimizer, {**(options or {}), "lr": tuning.best}, tuning)

    def record(
        self,
        path: str | Path,
        *,
        seed: int,
        steps: int,
        label: str | None = None,
        every: int = 1,
        schedule: Schedule | None = None,
        save: Collection[str] = ("param", "grad", "update"),
        compression: str = "zstd",
        if_exists: IfExists = "error",
        probing: Probing | None = None,
        on_step: Callable[[], None] | None = None,
    ) -> Recorder:
        """Train for ``steps`` steps from this seed and record it; returns the closed recorder.

        ``probing`` says at which steps the noise is probed, and with what; the training is the same without.

        The run's id is made from everything that determines the numbers, so the same experiment gives the same bytes in
        ``tensors/``, as long as no part rolls by age (30 s); the values are the same in any case. Raises
        ``BadArgument`` for fewer than one step and for a seed below 0 or among those that tuning uses.
        """
        from trajectory_tools.experiments.training import train
        from trajectory_tools.recorder import Recorder

        if steps < 1:
            raise BadArgument(f"the number of steps is {steps}; give at least 1")
        if not 0 <= seed < SEED_LIMIT:
            raise BadArgument(f"the seed is {seed}; give a number from 0 to {SEED_LIMIT - 1}")
        spec = OPTIMIZERS[self.optimizer].make(self.options).fitted(self.problem)
        optimizee = self.problem.start(seed)
        if probing is not None:
            probing.check(optimizee)
        optimizer = spec.build(optimizee.model.parameters())
        described = spec.describe(optimizer)
        recorder = Recorder(
            path,
            optimizee.model,
            optimizer,
            every=every,
            schedule=schedule,
            save=save,
            symmetries=optimizee.symmetries,
            label=label,
            seed=seed,
            compression=compression,
            if_exists=if_exists,
            run_id=_run_id(
                self.problem,
                described,
                optimizee.data,
                seed,
                [
                    *(steps, every, repr(schedule), sorted(save), compression),
                    *([probing.to_json()] if probing is not None else []),
                ],
            ),
            info={
                "problem": {
                    "name": self.problem.name,
                    "title": title(self.problem),
                    "options": self.problem.options(),
                    "data": optimizee.data,
                },
                "optimizer": described,
                **({"tuning": self.tuning.to_json()} if self.tuning else {}),
                **({"probing": probing.to_json()} if probing is not None else {}),
            },
        )
        with recorder:
            probe = None if probing is None else probing.prober(recorder, optimizee, seed, steps)
            if probe is not None:
                probe(0)

            def after_step(loss: Any) -> None:
                recorder.log(loss=loss)
                if probe is not None:
                    probe(recorder.steps_seen)
                if on_step is not None:
                    on_step()

            train(optimizee, optimizer, steps, on_step=after_step)
        return recorder

    def sizes(
        self,
        *,
        seed: int,
        steps: int,
        every: int = 1,
        schedule: Schedule | None = None,
        save: Collection[str] = ("param", "grad", "update"),
        probing: Probing | None = None,
    ) -> list[TableSize]:
        """The tables that ``record`` would write for one seed: rows, and bytes before compression. Nothing is trained.

        Raises what ``record`` raises for a problem or a number that cannot be used.
        """
        from trajectory_tools.store.size import run_sizes

        optimizee = self.problem.start(seed)
        if probing is not None:
            probing.check(optimizee)
        parameters = dict(optimizee.model.named_parameters())
        recorded = schedule if schedule is not None else lambda step: step % every == 0
        numels = {name: parameter.numel() for name, parameter in parameters.items()}
        return run_sizes(
            numels,
            itemsize=max(4, *(parameter.element_size() for parameter in parameters.values())),
            n_steps=steps,
            n_recorded=sum(map(recorded, range(steps))),
            n_columns=len(set(save)),
            n_probed=0 if probing is None else probing.n_probed(steps),
            probes=() if probing is None else probing.plans(sum(numels.values())),
        )


def title(entry: Options) -> str:
    """The entry's name and those options that are not the default: ``digits-mlp, activation=relu``."""
    defaults = {option.name: option.default for option in entry.listing()}
    changed = {
        name: ",".join(map(str, value)) if isinstance(value, tuple) else str(value).lower()
        for name in defaults
        if name not in IN_NO_TITLE and (value := getattr(entry, name)) != defaults[name]
    }
    return ", ".join([entry.name, *(f"{name}={value}" for name, value in changed.items())])


def _run_id(problem: Problem, optimizer: Mapping[str, Any], data: str, seed: int, recorded: list[Any]) -> str:
    """An id that is the same where the numbers should be: same experiment, versions, and kind of machine."""
    import torch

    determined_by = {
        "problem": [title(problem), data],
        "optimizer": optimizer,
        "seed": seed,
        "recorded": recorded,
        "versions": [version("trajectory-tools"), torch.__version__],
        "machine": [platform.machine(), torch.get_num_threads()],
    }
    return uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(determined_by, sort_keys=True)).hex
