"""Recording every optimizer of a program that knows nothing of it.

torch's global hooks tell of each optimizer's first step; then a ``Recorder`` is attached to it. Nothing of torch is
imported before the program does so: it may set threads and devices up first.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.util
import os
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from trajectory_tools.recorder.losses import BackwardLosses

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from trajectory_tools.recorder.recorder import Recorder

__all__ = ["Observed", "Observer", "runs_in"]

HOOKED = "torch.optim.optimizer"
SCALER = "torch.amp.grad_scaler"
MOST_RUNS = 16
"""So many optimizers are recorded at the most: a search over settings makes one after the other."""


def runs_in(folder: Path) -> list[Path]:
    """The run folders that a recording into this folder has made: itself, or those below it."""
    patterns = ("optimizer-*", "rank-*", "optimizer-*/rank-*")
    inside = [folder, *(path for pattern in patterns for path in sorted(folder.glob(pattern)))]
    return [path for path in inside if (path / "run.json").exists()]


@dataclass(frozen=True)
class Observed:
    """One run that was recorded: its folder, the optimizer's class, and what of it is on the disk.

    ``tensors``: of how many of its ``steps`` there are tensors; ``recorded``: how many ``values`` of its parameters are
    in them.
    """

    path: Path
    optimizer: str
    steps: int
    tensors: int
    parameters: int
    values: int
    recorded: int


class Observer:
    """Attaches a recorder to each optimizer at its first step.

    Where there is one optimizer its run is the folder itself; where others are there when the first one makes its first
    step, they become ``optimizer-0``, ``optimizer-1``, ... in the folder, in the order of their first steps. One that
    is made later stands in ``optimizer-1`` in any case. Optimizers that hold one parameter each (an optimizer in
    backward) are recorded as one. An optimizer that only steps inside another one's step is part of that.

    ``index`` is which optimizer to record, counted by their first steps; its run is the folder itself. ``options`` are
    the ``Recorder``'s. ``say`` is told at once what cannot be recorded.
    """

    def __init__(
        self, path: Path, options: Mapping[str, Any], *, index: int | None = None, say: Callable[[str], None] = print
    ) -> None:
        self.path = path
        self.could_not: list[str] = []
        self._options = dict(options)
        self._index = index
        self._say = say
        self._process = os.getpid()
        self._recorders: list[Recorder] = []
        self._known: weakref.WeakKeyDictionary[Optimizer, Recorder | None] = weakref.WeakKeyDictionary()
        self._count = 0
        self._below = False
        self._losses = BackwardLosses()
        self._child_told = False

    def watch(self) -> None:
        """Begin to look: from the moment on when torch's optimizers are imported."""
        if HOOKED in sys.modules:
            self._register(sys.modules[HOOKED])
        else:
            sys.meta_path.insert(0, _WhenImported(HOOKED, self._register))

    def finish(self, error: BaseException | None) -> list[Observed]:
        """Close every recorder with what ended the program; what there is then, and ``could_not``, is everything."""
        from trajectory_tools.errors import RecordingFailed

        if os.getpid() != self._process:
            return []
        observed = []
        for recorder in self._recorders:
            try:
                recorder.__exit__(type(error) if error is not None else None, error, None)
            except RecordingFailed as failure:
                self.could_not.append(str(failure))
            if recorder.records:
                observed.append(_observed(recorder))
        if not self._count:
            self.could_not.append(self._why_nothing())
        elif self._index is not None and self._index >= self._count:
            made = "only optimizer 0" if self._count == 1 else f"optimizers 0 to {self._count - 1}"
            self.could_not.append(f"nothing was recorded: there is no optimizer {self._index}; {made} made steps")
        return [each for each in observed if each.steps]

    def _register(self, module: ModuleType) -> None:
        """While torch is being imported: nothing of it is used before somebody's step."""
        from trajectory_tools.recorder.compiled import uncompiled

        module.register_optimizer_step_pre_hook(uncompiled(self._guarded(self._before)))
        module.register_optimizer_step_post_hook(uncompiled(self._guarded(self._after)))
        self._losses.watch()
        if SCALER in sys.modules:
            self._watch_scalers()
        else:
            sys.meta_path.insert(0, _WhenImported(SCALER, lambda _: self._watch_scalers()))

    def _watch_scalers(self) -> None:
        from trajectory_tools.recorder.scaler import watch

        watch(self)

    def _guarded(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        """The hook, such that no fault of ours reaches the program."""

        def guarded(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            if os.getpid() != self._process:
                self._tell_of_child(optimizer)
                return
            try:
                hook(optimizer, args, kwargs)
            except Exception as error:
                self._cannot(optimizer, f"the {type(optimizer).__name__} is not recorded: {error}")

        return guarded

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        recorder = self._recorder_of(optimizer)
        if recorder is None:
            return
        recorder.keep_last(optimizer)
        if not recorder.is_stepping and not _has_closure(args, kwargs):
            self._log_loss(recorder)

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if _has_closure(args, kwargs):
            self._losses.forget()  # those of its evaluations are no other optimizer's
        else:
            self._losses.stepped()

    def _recorder_of(self, optimizer: Optimizer) -> Recorder | None:
        if optimizer not in self._known:
            self._attach(optimizer)
        return self._known.get(optimizer)

    def _attach(self, optimizer: Optimizer) -> None:
        from trajectory_tools.errors import TrajectoryError
        from trajectory_tools.recorder.living import living_names, living_optimizers
        from trajectory_tools.recorder.recorder import Recorder

        if any(recorder.is_stepping for recorder in self._recorders):
            self._known[optimizer] = None
            return
        if not self._count:
            self._below = self._index is None and len(_apart(living_optimizers())) > 1
            self._make_room()
        together = _together(optimizer, living_optimizers()) or [optimizer]
        number, self._count = self._count, self._count + 1
        self._known.update(dict.fromkeys(together))
        if self._index is not None and number != self._index:
            return
        if len(self._recorders) == MOST_RUNS:
            self._cannot(
                None, f"{MOST_RUNS} optimizers are recorded, and the further ones are not: it would take too much"
            )
            return
        numbered = self._index is None and (self._below or number > 0)
        path = self.path / f"optimizer-{number}" if numbered else self.path
        options = dict(self._options)
        options["label"] = options.get("label") or self.path.name
        if numbered:
            options["label"] += f" optimizer-{number} ({type(optimizer).__name__})"
        try:
            recorder = Recorder(path, living_names, together, **options).attach()
        except TrajectoryError as error:
            self._cannot(optimizer, f"the {type(optimizer).__name__} is not recorded: {error}")
            return
        self._recorders.append(recorder)
        self._known.update(dict.fromkeys(together, recorder))
        if unnamed := [p["name"] for p in recorder.parameters if p["name"].startswith("group")]:
            self._cannot(
                None,
                f"{len(unnamed)} of the {len(recorder.parameters)} parameters of the {type(optimizer).__name__} belong"
                f" to no module; they are called after their place in it: {', '.join(unnamed[:3])}"
                f"{', ...' if len(unnamed) > 3 else ''}",
            )

    def _make_room(self) -> None:
        """Remove the runs of an earlier call that are to be replaced: it may have had other optimizers."""
        from trajectory_tools.errors import TrajectoryError
        from trajectory_tools.recorder.ranks import process_rank
        from trajectory_tools.store.session import remove_run

        if self._options.get("if_exists") == "replace" and process_rank()[0] == 0:
            for path in reversed(runs_in(self.path)):
                with contextlib.suppress(TrajectoryError):  # another rank has begun to record there
                    remove_run(path)

    def before_scaler_step(self, scaler: Any, optimizer: Optimizer) -> None:
        """What ``backward`` was called on is the loss times the scale; and the step may be dropped, also the first."""
        if os.getpid() != self._process or not scaler.is_enabled():
            return
        try:
            recorder = self._recorder_of(optimizer)
            if recorder is not None:
                self._log_loss(recorder, scaler._get_scale_async())
        except Exception as error:
            self._cannot(optimizer, f"the {type(optimizer).__name__} is not recorded: {error}")

    def after_scaler_step(self, scaler: Any, optimizer: Optimizer) -> None:
        """Where the step was dropped, the next one has losses of its own."""
        self._losses.stepped()

    def _log_loss(self, recorder: Recorder, scale: Tensor | None = None) -> None:
        loss = self._losses.take(recorder)
        if loss is not None and recorder.records:
            recorder.log(loss=loss if scale is None else loss / scale.to(loss))

    def _cannot(self, optimizer: Optimizer | None, why: str) -> None:
        if optimizer is not None:
            self._known[optimizer] = None
        if why not in self.could_not:
            self.could_not.append(why)
            if optimizer is not None:
                self._say(why)  # at once, for the training may go on for days; and again at the end

    def _tell_of_child(self, optimizer: Optimizer) -> None:
        if not self._child_told and optimizer not in self._known:
            self._child_told = True
            self._say(
                f"the {type(optimizer).__name__} that steps in the child process {os.getpid()} is not recorded;"
                " only the process that was started is"
            )

    def _why_nothing(self) -> str:
        """Why no optimizer has made a step."""
        children = _seconds_of_children()
        elsewhere = (
            f"; the processes that it started computed for {children:.0f} s: to record a training in one of them, start"
            " that one with `traj record`"
            if children >= 1
            else ""
        )
        if HOOKED not in sys.modules:
            return f"nothing was recorded: it never imported torch.optim{elsewhere}"
        from trajectory_tools.recorder.living import living_optimizers

        kinds = dict.fromkeys(type(each).__name__ for each in living_optimizers())
        if kinds:
            return f"nothing was recorded: it made an optimizer ({', '.join(kinds)}), which made no step{elsewhere}"
        return (
            "nothing was recorded: no torch.optim optimizer made a step; for one of another kind, put"
            f" `with rec.step():` of trajectory_tools.recorder.Recorder around its steps{elsewhere}"
        )


def _observed(recorder: Recorder) -> Observed:
    from trajectory_tools.run import open_run

    names = [type(each).__name__ for each in recorder.optimizers]
    steps = tensors = 0
    with contextlib.suppress(Exception):  # a full disk, a folder that is gone: the program ends as it would have
        run = open_run(recorder.path)
        steps, tensors = run.n_steps, len(run.steps)
    return Observed(
        path=recorder.path,
        optimizer=f"{len(names)} {names[0]}" if len(names) > 1 else names[0],
        steps=steps,
        tensors=tensors,
        parameters=len(recorder.parameters),
        values=sum(parameter["numel"] for parameter in recorder.parameters),
        recorded=sum(parameter.get("recorded", parameter["numel"]) for parameter in recorder.parameters),
    )


def _apart(optimizers: Sequence[Optimizer]) -> list[Optimizer]:
    """The optimizers that make a run of their own: those of one parameter each make one together."""
    if not optimizers:
        return []
    ones = [each for each in optimizers if _holds_one(each)]
    return [each for each in optimizers if not _holds_one(each)] + ones[: 1 if len(ones) > 2 else 2]


def _together(optimizer: Optimizer, optimizers: Sequence[Optimizer]) -> list[Optimizer]:
    """The optimizers, of its class and of one parameter each, that this one is one of; none below three.

    In the order that the model has the parameters in.
    """
    from trajectory_tools.recorder.living import living_names

    if not _holds_one(optimizer):
        return []
    found = {
        id(each.param_groups[0]["params"][0]): each
        for each in optimizers
        if type(each) is type(optimizer) and _holds_one(each)
    }
    if len(found) <= 2 or not any(each is optimizer for each in found.values()):
        return []
    in_order = living_names([each.param_groups[0]["params"][0] for each in found.values()])
    return list({id(each): each for each in [*(found[id(tensor)] for _, tensor in in_order), *found.values()]}.values())


def _holds_one(optimizer: Optimizer) -> bool:
    return sum(len(group["params"]) for group in optimizer.param_groups) == 1


def _has_closure(args: Any, kwargs: Any) -> bool:
    return callable(kwargs.get("closure")) or (len(args) > 1 and callable(args[1]))


def _seconds_of_children() -> float:
    """The processor seconds of the processes that this one has started and waited for."""
    try:
        import resource
    except ImportError:  # not on Windows
        return 0.0
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime


class _WhenImported(importlib.abc.MetaPathFinder):
    """Calls ``then`` with a module when it has been imported, once."""

    def __init__(self, name: str, then: Callable[[ModuleType], None]) -> None:
        self._name = name
        self._then = then

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's own spec, with a loader that tells."""
        if fullname != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            loader, then = spec.loader, self._then
            original = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                original(module)
                then(module)

            loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
