"""Recording runs of the built-in problems."""

from __future__ import annotations

import json
import platform
import uuid
from collections.abc import Callable, Mapping
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
    from trajectory_tools.problems import Optimizee
    from trajectory_tools.recorder import Recorder
    from trajectory_tools.store.size import RunSize

__all__ = ["Experiment"]

IN_NO_TITLE = ("data_dir", "download")
"""Where the data lies says nothing about what was trained."""
NOT_RECORDED = ("label", "if_exists")
"""Nor does what a run is called say anything about its numbers."""


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
        probing: Probing | None = None,
        on_step: Callable[[], None] | None = None,
        on_start: Callable[[Recorder], None] | None = None,
        **recorder_options: Any,
    ) -> Recorder:
        """Train for ``steps`` steps from this seed and record it; returns the closed recorder.

        ``probing`` says at which steps the noise is probed, and with what; the training is the same without.
        ``recorder_options`` are more arguments of the ``Recorder``; compression is ``zstd`` unless told.

        The run's id is made from everything that determines the numbers, so the same experiment gives the same bytes in
        ``tensors/``, as long as no part rolls by age (30 s); the values are the same in any case. Raises
        ``BadArgument`` for fewer than one step and for a seed below 0 or among those that tuning uses.
        """
        from trajectory_tools.experiments.training import train

        optimizee, recorder = self._recorder(path, seed, steps, probing, recorder_options)
        if probing is not None:
            probing.check(optimizee, recorder.optimizers[0], recorder.path)
        with recorder:
            probe = None if probing is None else probing.prober(recorder, optimizee, seed, steps)
            if on_start is not None:
                on_start(recorder)
            if probe is not None:
                probe(0)

            def after_step(loss: Any) -> None:
                recorder.log(loss=loss)
                if probe is not None:
                    probe(recorder.steps_seen)
                if on_step is not None:
                    on_step()

            train(optimizee, recorder.optimizers[0], steps, on_step=after_step)
        return recorder

    def size(
        self,
        *,
        seed: int,
        steps: int,
        probing: Probing | None = None,
        on_start: Callable[[Recorder], object] | None = None,
        **recorder_options: Any,
    ) -> RunSize:
        """How large the run that ``record`` would write is, before compression. Nothing is trained or written.

        ``on_start`` is called with the recorder that would record it. Raises what ``record`` raises for a problem or a
        number that cannot be used.
        """
        optimizee, recorder = self._recorder("dry-run", seed, steps, probing, recorder_options)
        if probing is not None:
            probing.check(optimizee, recorder.optimizers[0])
        if on_start is not None:
            on_start(recorder)
        size = recorder.size(steps)
        return size if probing is None else probing.added_to(size, optimizee.model)

    def _recorder(
        self, path: str | Path, seed: int, steps: int, probing: Probing | None, given: Mapping[str, Any]
    ) -> tuple[Optimizee, Recorder]:
        """The optimizee of this seed, and what records it."""
        from trajectory_tools.recorder import Recorder

        if steps < 1:
            raise BadArgument(f"the number of steps is {steps}; give at least 1")
        if not 0 <= seed < SEED_LIMIT:
            raise BadArgument(f"the seed is {seed}; give a number from 0 to {SEED_LIMIT - 1}")
        spec = OPTIMIZERS[self.optimizer].make(self.options).fitted(self.problem)
        optimizee = self.problem.start(seed)
        optimizer = spec.build(optimizee.model.parameters())
        described = spec.describe(optimizer)
        options = {"compression": "zstd", **given}
        of_probes = ""
        if probing is not None and options.get("budget") is not None:
            options["budget"], of_probes = probing.rest_of(options["budget"], optimizee.model, steps)
        recorded = sorted((name, repr(value)) for name, value in options.items() if name not in NOT_RECORDED)
        info = {
            "problem": {
                "name": self.problem.name,
                "title": title(self.problem),
                "options": self.problem.options(),
                "data": optimizee.data,
            },
            "optimizer": described,
            **({"tuning": self.tuning.to_json()} if self.tuning else {}),
            **({"probing": probing.to_json()} if probing is not None else {}),
        }
        recorder = Recorder(
            path,
            optimizee.model,
            optimizer,
            symmetries=optimizee.symmetries,
            seed=seed,
            run_id=_run_id(info, seed, [steps, *recorded]),
            steps=steps,
            info=info,
            **options,
        )
        if recorder.budget_choice is not None:
            recorder.budget_choice = of_probes + recorder.budget_choice
        return optimizee, recorder


def title(entry: Options) -> str:
    """The entry's name and those options that are not the default: ``digits-mlp, activation=relu``."""
    defaults = {option.name: option.default for option in entry.listing()}
    changed = {
        name: ",".join(map(str, value)) if isinstance(value, tuple) else str(value).lower()
        for name in defaults
        if name not in IN_NO_TITLE and (value := getattr(entry, name)) != defaults[name]
    }
    return ", ".join([entry.name, *(f"{name}={value}" for name, value in changed.items())])


def _run_id(info: Mapping[str, Any], seed: int, recorded: list[Any]) -> str:
    """An id that is the same where the numbers should be: same experiment, versions, and kind of machine."""
    import torch

    determined_by = {
        "problem": [info["problem"]["title"], info["problem"]["data"]],
        "optimizer": info["optimizer"],
        "probing": info.get("probing"),
        "seed": seed,
        "recorded": recorded,
        "versions": [version("trajectory-tools"), torch.__version__],
        "machine": [platform.machine(), torch.get_num_threads()],
    }
    return uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(determined_by, sort_keys=True)).hex
