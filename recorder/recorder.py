"""The recorder: hooks on an optimizer that write its trajectory into a run folder, and change nothing else."""

from __future__ import annotations

import atexit
import contextlib
import operator
import os
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trajectory_tools.errors import BadArgument, RecordingFailed, TrajectoryError, UnknownName
from trajectory_tools.recorder.capture import Capture
from trajectory_tools.recorder.description import (
    checked_info,
    describe_change,
    describe_command,
    describe_environment,
    describe_optimizer,
    describe_parameters,
)
from trajectory_tools.recorder.host_capture import HostCapture
from trajectory_tools.recorder.names import name_parameters
from trajectory_tools.recorder.scalars import Pending, ScalarLog, as_number
from trajectory_tools.recorder.schedule import Schedule
from trajectory_tools.recorder.schedule import every as every_n
from trajectory_tools.recorder.selection import Selection
from trajectory_tools.recorder.warning import warn
from trajectory_tools.store.budget import choose_for_budget, parse_bytes
from trajectory_tools.store.metadata import read_metadata
from trajectory_tools.store.schema import VALUE_COLUMNS
from trajectory_tools.store.session import IfExists, Session
from trajectory_tools.symmetry import SymmetryGroup

__all__ = ["Recorder"]


class Recorder:
    """Records an optimizer's trajectory, step by step, while it trains.

    Use it as a context manager, or call ``attach`` before the loop and ``close`` after it::

        with Recorder("runs/adam", model, optimizer) as rec:
            for x, y in batches:
                loss = criterion(model(x), y)
                optimizer.zero_grad(); loss.backward(); optimizer.step()
                rec.log(loss=loss)

    Args:
        path: the run folder to make.
        model: where the parameters' names come from: a module, (name, tensor) pairs, or None for ``group0.0`` and on.
        optimizer: any ``torch.optim.Optimizer``; what is recorded are the parameters that it holds.
        every: record the tensors of every n-th step. Scalars are recorded at every step.
        schedule: instead of ``every``, a callable from the step number to a bool: ``at([0, 10])``, ``logarithmic(10)``.
        save: which of ``param`` (θ_t), ``grad`` (as the optimizer used it), ``update`` (θ_{t+1} − θ_t).
        stats: of every step, whatever the schedule, and of every parameter: norms, least and greatest values, how many
            are 0, how many NaN or infinite; ``run.stats()``.
        match: a regular expression: the tensors of those parameters in whose names it is found.
        subsample: a fraction (0.01) or a number (10_000) of coordinates in place of all, chosen at random, once.
        projection: so many random projections in place of each larger parameter; see ``store.projection``.
        selection_seed: chooses the coordinates, or the projection.
        budget: bytes (``"2GB"``) that the run may take: chooses ``every`` and ``subsample``, as far as they are not
            given, for a run of ``steps`` steps; ``budget_choice`` says in a sentence what it chose.
        steps: how many steps the run will have, for ``budget``.
        symmetries: symmetry groups (see ``trajectory_tools.symmetry``), or dicts in run.json's form.
        label: what to call the run; runs of one label and several seeds are one curve. The folder's name unless told.
        problem: what is trained; runs of one problem are compared with each other. The script's name unless told.
        seed: the seed the training was started with, if it is to stand in the run's description.
        info: more entries for run.json, of what JSON can hold.
        if_exists: ``error``, ``resume`` (open the run's next session) or ``replace``.
        start_step: the number of the first step; 0, or where an earlier session ended.
        compression: ``zstd``; ``none``: faster and larger; ``auto``: none while the training would have to wait.
        queue_bytes: how much may wait in memory to be written (256 MB); when it is full, the training waits.
        run_id: the run's id; a fresh one unless told.

    Raises:
        OutputExists, RunBusy, BadArgument, UnknownName: from the constructor and ``attach``.
        RecordingFailed: from ``close``, when writing stopped on the way (disk full, folder gone). The training itself
            goes on, with one warning, and what was committed before can be read.
    """

    def __init__(
        self,
        path: str | Path,
        model: nn.Module | Iterable[tuple[str, Tensor]] | None,
        optimizer: Optimizer,
        *,
        every: int = 1,
        schedule: Schedule | None = None,
        save: Collection[str] = VALUE_COLUMNS,
        stats: bool = True,
        match: str | None = None,
        subsample: float | None = None,
        projection: int | None = None,
        selection_seed: int = 0,
        budget: int | str | None = None,
        steps: int | None = None,
        symmetries: Sequence[SymmetryGroup | Mapping[str, Any]] = (),
        label: str | None = None,
        problem: str | None = None,
        seed: int | None = None,
        info: Mapping[str, Any] | None = None,
        if_exists: IfExists = "error",
        start_step: int | None = None,
        compression: str = "auto",
        queue_bytes: int | None = None,
        run_id: str | None = None,
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise BadArgument(f"a torch.optim.Optimizer is needed, found {type(optimizer).__name__}")
        if schedule is not None and every != 1:
            raise BadArgument("give either every or schedule, found both")
        if schedule is not None and not callable(schedule):
            raise BadArgument(f"schedule is a callable from the step number to a bool, found {schedule!r}")
        if start_step is not None and start_step < 0:
            raise BadArgument(f"start_step is the number of the first step, 0 or more, found {start_step}")
        try:
            seed = None if seed is None else operator.index(seed)
        except TypeError as error:
            raise BadArgument(f"seed is a whole number, found {seed!r}") from error
        save = [save] if isinstance(save, str) else list(save)
        for column in save:
            if column not in VALUE_COLUMNS:
                raise UnknownName("column to save", column, VALUE_COLUMNS)
        self.path = Path(path)
        self.schedule = schedule or every_n(every)
        self.save = tuple(column for column in VALUE_COLUMNS if column in save)
        self.stats = bool(stats)
        self.selection = Selection(match, subsample, projection, selection_seed)
        self.steps_seen = 0
        self._model = model if isinstance(model, nn.Module) or model is None else list(model)
        self._optimizer = optimizer
        self._start_step = start_step
        self._session_options: dict[str, Any] = {"if_exists": if_exists, "compression": compression, "run_id": run_id}
        self._session_options |= {} if queue_bytes is None else {"queue_bytes": queue_bytes}
        self.budget_choice: str | None = None
        if budget is not None:
            self._fit(parse_bytes(budget), steps, None if every == 1 else every, schedule)
        self._scan()
        groups = [g if isinstance(g, SymmetryGroup) else SymmetryGroup.from_json(g) for g in symmetries]
        shapes = {parameter["name"]: parameter["shape"] for parameter in self._parameters}
        self._description = {
            "label": label if label is not None else self.path.name,
            "seed": seed,
            **({"problem": {"name": problem, "title": problem}} if problem is not None else {}),
            "symmetries": [group.checked(shapes).to_json() for group in groups],
            **checked_info(info),
        }
        self._session: Session | None = None
        self._attached_once = False
        self._error: BaseException | None = None
        self._frame: FrameType | None = None  # of the optimizer's step that is under way

    def __repr__(self) -> str:
        values = sum(parameter["numel"] for parameter in self._parameters)
        what = "+".join(self.save) or "scalars"
        return (
            f"<Recorder {str(self.path)!r}: {what} of {len(self._parameters)} parameters ({values:,} values)"
            f" {self.schedule!r}, {self._capture.bytes_per_step / 1e6:.3g} MB a step, {self.steps_seen:,} steps so far>"
        )

    def attach(self) -> Self:
        """Open the run folder and begin to record."""
        if self._session is not None:
            raise BadArgument(f"the recorder of {self.path} is attached already")
        earlier: dict[str, Any] = {}
        if self._session_options["if_exists"] == "resume":
            before: dict[str, Any] = {}
            with contextlib.suppress(TrajectoryError):  # what is wrong with the folder, the session says
                before = read_metadata(self.path)
            if before:
                earlier = before.get("optimizer", {})
                self._refuse_other_selection(before)
        self._session = Session(
            self.path,
            {
                **self._description,
                **describe_command(),
                "optimizer": self._described_optimizer(),
                "params": self._parameters,
                "schedule": repr(self.schedule),
                "save": list(self.save),
                "stats": self.stats,
                **({"budget": self.budget_choice} if self.budget_choice else {}),
                **({"selection": self.selection.to_json()} if self.selection else {}),
                "environment": describe_environment(self._capture.tensors),
            },
            **self._session_options,
        )
        self._step = self._session.next_step if self._start_step is None else self._start_step
        self._first_step = self._step
        if earlier:
            self._compare_with(earlier)
        self._scalars = ScalarLog(self._session.writer.put_scalars)
        self._process = os.getpid()
        self._attached_once = True
        self._deaf = False  # whether it was said that nothing is logged any more
        self._hooks = [
            self._optimizer.register_step_pre_hook(self._guarded(self._before_step)),
            self._optimizer.register_step_post_hook(self._guarded(self._after_step)),
        ]
        atexit.register(self._close_at_exit)
        return self

    def log(self, **scalars: float | Tensor) -> None:
        """Note scalars of this iteration: numbers or one-element tensors; one on a GPU is not waited for.

        Call it on either side of ``optimizer.step()``: each value goes to the row of that iteration's step.
        """
        if not self._attached_once:
            raise BadArgument(
                f"cannot log into {self.path} before recording begins; call attach() first, or use `with Recorder(...)`"
            )
        if self._error is not None:
            return
        if self._session is not None:
            self._scalars.log(scalars)
        elif not self._deaf:
            self._deaf = True
            warn(f"what is logged into {self.path} after close() is not recorded; log before it")

    def close(self) -> None:
        """Commit everything and free the folder. Raises ``RecordingFailed`` where something could not be written."""
        self._close("finished")

    def __enter__(self) -> Self:
        return self.attach()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._close(*_outcome(error))
        except RecordingFailed as failure:
            if error is None:
                raise
            error.add_note(str(failure))  # the training's own exception must stay the one that is seen

    def _close(self, status: str, error: str | None = None) -> None:
        session, self._session = self._session, None
        if session is None or os.getpid() != self._process:
            return
        atexit.unregister(self._close_at_exit)
        for hook in self._hooks:
            hook.remove()
        self._frame = None
        try:
            self._scalars.close()
        except Exception as fault:  # a number that its device could not give
            self._error = self._error or fault
        if status == "finished" and self._error is None and self._scalars.waiting and self._step == self._first_step:
            warn(
                f"no step was recorded into {self.path}, though values were logged, for its"
                f" {type(self._optimizer).__name__} made none; give the Recorder the optimizer that the loop steps"
            )
        outcome: dict[str, Any] = {"first_step": self._first_step, "n_steps": self._step - self._first_step}
        if problem := str(self._error) if self._error else error:
            outcome["error"] = problem
        session.close("failed" if self._error else status, **outcome)
        if self._error is not None:
            raise RecordingFailed(f"recording into {self.path} stopped: {self._error}") from self._error

    def _close_at_exit(self) -> None:
        error = getattr(sys, "last_value", None)  # what has ended the program, where something has
        self._close(*_outcome(error))

    def _described_optimizer(self) -> dict[str, Any]:
        return describe_optimizer(self._optimizer) | self._description.get("optimizer", {})

    def _refuse_other_selection(self, before: Mapping[str, Any]) -> None:
        """A run has one selection: what its parts hold could not be told otherwise."""
        recorded = Selection.from_json(before.get("selection") or {})
        if recorded != self.selection:
            raise BadArgument(
                f"{self.path} has {recorded}, and would go on with {self.selection}; give the same match, subsample,"
                " projection and selection_seed, or record into another folder"
            )

    def _compare_with(self, earlier: dict[str, Any]) -> None:
        """Say that the run goes on with another optimizer, and note with each session which one it had."""
        assert self._session is not None
        now = self._described_optimizer()
        if not (change := describe_change(earlier, now)):
            return
        warn(f"{self.path} goes on with another optimizer than before ({change}); run.json notes it with each session")
        *before, this = self._session.metadata["sessions"]
        for entry in before:
            entry.setdefault("optimizer", earlier)
        this["optimizer"] = now
        with contextlib.suppress(
            OSError
        ):  # the writer says so when it meets it, and the end of the session tries again
            self._session.update()

    def _fit(self, budget: int, steps: int | None, every: int | None, schedule: Schedule | None) -> None:
        """Choose what to record within so many bytes."""
        if schedule is not None or steps is None or not self.save:
            raise BadArgument(
                "a budget chooses which steps to record: say how many there will be (steps=), save at least one of"
                f" {', '.join(VALUE_COLUMNS)}, and leave schedule out"
            )
        capture = Capture(name_parameters(self._model, self._optimizer), self.save)
        choice = choose_for_budget(
            budget,
            capture.counts,
            n_steps=steps,
            every=every,
            selection=self.selection,
            n_columns=len(self.save),
            itemsize=8 if capture.layout.dtype == "float64" else 4,
            stats=self.stats,
        )
        self.schedule, self.selection, self.budget_choice = every_n(choice.every), choice.selection, choice.sentence

    def _scan(self) -> None:
        """Find the parameters that the optimizer holds now."""
        named = name_parameters(self._model, self._optimizer)
        on_host = all(parameter.tensor.device.type == "cpu" for parameter in named)
        kind = HostCapture if on_host else Capture
        self._capture: Capture = kind(named, self.save, stats=self.stats, selection=self.selection)
        self._parameters = describe_parameters(named)
        if self.selection:
            self._parameters = [p | {"recorded": self._capture.counts.get(p["name"], 0)} for p in self._parameters]
        self._held = _held(self._optimizer)

    def _guarded(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        """The hook, such that a fault of the recorder ends the recording and not the training."""

        def guarded(optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
            if self._error is not None or os.getpid() != self._process:
                return None
            try:
                return hook(sys._getframe(1), args, kwargs)
            except Exception as error:
                self._error = error
                # Where warnings are errors, the writer's own warning is what was caught.
                said = isinstance(error, RuntimeWarning) and self._session is not None and self._session.writer.error
                warn(
                    str(error)
                    if said
                    else f"recording into {self.path} stopped: {error}; the training goes on unrecorded"
                )
                return None

        return guarded

    def _before_step(self, frame: FrameType, args: Any, kwargs: Any) -> Any:
        if self._frame is not None and _is_below(self._frame, frame):
            return None  # a subclass's step has called its parent's: one step, not two
        self._frame = frame
        start = time.perf_counter()
        assert self._session is not None
        if _held(self._optimizer) != self._held:
            self._scan()
            self._session.update(params=self._parameters, optimizer=self._described_optimizer())
        self._recording = bool(self.save and self.schedule(self._step)) and self._session.writer.error is None
        self._evaluations = 0
        self._loss: Any = None
        self._capturing = self._recording or (self.stats and self._session.writer.error is None)
        if self._capturing:
            self._capture.before(record=self._recording)
        closure, arguments = _with_closure(args, kwargs, self._watched)
        if self._capturing and closure is None:
            # A fused optimizer under a GradScaler divides by the scale itself.
            self._capture.gradients(getattr(self._optimizer, "grad_scale", None))
        self._record_seconds = time.perf_counter() - start
        return arguments

    def _watched(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        """The closure, such that the gradient and the loss of its first evaluation are seen."""

        def watched() -> Any:
            loss = closure()
            self._evaluations += 1
            if self._evaluations == 1:
                start = time.perf_counter()
                with contextlib.suppress(BadArgument):  # a closure may return anything
                    self._loss = None if loss is None else as_number("loss", loss)
                if self._capturing:
                    self._capture.gradients()
                self._record_seconds += time.perf_counter() - start
            return loss

        return watched

    def _after_step(self, frame: FrameType, args: Any, kwargs: Any) -> None:
        if frame is not self._frame:
            return
        self._frame = None
        assert self._session is not None
        start = time.perf_counter()
        if self._capturing:
            rows, stats = self._capture.after(self._step)
            if rows is not None:
                self._session.writer.put_tensors(rows)
            if stats is not None:
                self._session.writer.put_stats(stats)
        dropped = getattr(self._optimizer, "found_inf", None)  # set by a GradScaler for a fused optimizer
        row = {
            "step": self._step,
            "loss": self._loss,
            **_learning_rates(self._optimizer.param_groups),
            "wall_time": time.time(),
            "record_seconds": self._record_seconds + time.perf_counter() - start,
            "skipped": False if dropped is None else as_number("skipped", dropped),
            "n_evals": max(self._evaluations, 1),
        }
        self._scalars.step(row)
        self._step += 1
        self.steps_seen += 1


def _learning_rates(groups: Sequence[Mapping[str, Any]]) -> dict[str, float | Pending]:
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


def _outcome(error: BaseException | None) -> tuple[str, str | None]:
    """(status, error) of a run that ended with this exception, or without any."""
    if error is None or (isinstance(error, SystemExit) and not error.code):
        return "finished", None
    return "interrupted" if isinstance(error, KeyboardInterrupt) else "failed", f"{type(error).__name__}: {error}"


def _held(optimizer: Optimizer) -> list[tuple[int, torch.Size, torch.dtype, torch.device]]:
    """What tells that the optimizer's parameters are still the same: those named in run.json, as it says."""
    tensors = (tensor for group in optimizer.param_groups for tensor in group["params"])
    return [(id(tensor), tensor.shape, tensor.dtype, tensor.device) for tensor in tensors]


def _is_below(frame: FrameType, top: FrameType | None) -> bool:
    """Whether ``frame`` is ``top`` or one of its callers."""
    while top is not None:
        if top is frame:
            return True
        top = top.f_back
    return False


def _with_closure(
    args: tuple[Any, ...], kwargs: dict[str, Any], wrap: Callable[[Callable[[], Any]], Callable[[], Any]]
) -> tuple[Any, Any]:
    """(the closure of this step or None, the step's arguments with the closure wrapped or None)."""
    if callable(kwargs.get("closure")):
        return kwargs["closure"], (args, {**kwargs, "closure": wrap(kwargs["closure"])})
    if len(args) > 1 and callable(args[1]):
        return args[1], ((args[0], wrap(args[1]), *args[2:]), kwargs)
    return None, None
