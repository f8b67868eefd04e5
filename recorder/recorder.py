"""The recorder: hooks on an optimizer that write its trajectory into a run folder, and change nothing else."""

from __future__ import annotations

import atexit
import contextlib
import operator
import os
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trajectory_tools.errors import BadArgument, RecordingFailed, TrajectoryError, UnknownName
from trajectory_tools.recorder.buffers import Buffers
from trajectory_tools.recorder.capture import Capture, Captured
from trajectory_tools.recorder.compiled import uncompiled
from trajectory_tools.recorder.description import (
    checked_info,
    describe_change,
    describe_command,
    describe_environment,
    describe_optimizer,
    describe_parameters,
)
from trajectory_tools.recorder.host_capture import HostCapture
from trajectory_tools.recorder.names import Named, Names, name_parameters, named_of
from trajectory_tools.recorder.probes import LossFunction, Mode, ProbeOptions, Prober
from trajectory_tools.recorder.ranks import Agreement, is_sharded, process_rank
from trajectory_tools.recorder.scalars import Pending, ScalarLog, as_number, learning_rates
from trajectory_tools.recorder.scaler import unwatch, watch
from trajectory_tools.recorder.schedule import Schedule
from trajectory_tools.recorder.schedule import every as every_n
from trajectory_tools.recorder.step_call import frame_of_step, is_below, refuse_graph_capture, with_closure
from trajectory_tools.recorder.together import joined
from trajectory_tools.recorder.warning import warn
from trajectory_tools.store.budget import choose_for_budget, parse_bytes
from trajectory_tools.store.metadata import read_metadata
from trajectory_tools.store.schema import VALUE_COLUMNS
from trajectory_tools.store.selection import Selection
from trajectory_tools.store.session import IfExists, Session
from trajectory_tools.store.size import RunSize
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
        model: where the parameters' names come from: a module, (name, tensor) pairs, or None for what the optimizer was
            given, or ``group0.0`` and on.
        optimizer: any ``torch.optim.Optimizer``; what is recorded are the parameters that it holds. Several, as a list,
            are recorded as one: a step is a round in which each of them makes one. None for an optimizer of another
            kind: then put each of its steps into ``with rec.step():``.
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
        ranks: where several processes train one model: ``first``, rank 0 records and looks now and then whether the
            others hold the same parameters; or ``all``, each records, into a folder of its own. Where each rank holds
            a shard (FSDP2), each records it, into ``rank-0``, ``rank-1``, ... below the folder.

    Raises:
        OutputExists, RunBusy, BadArgument, UnknownName: from the constructor and ``attach``.
        RecordingFailed: from ``close``, when writing stopped on the way (disk full, folder gone). The training itself
            goes on, with one warning, and what was committed before can be read.
    """

    def __init__(
        self,
        path: str | Path,
        model: Names | None,
        optimizer: Optimizer | Sequence[Optimizer] | None,
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
        ranks: Literal["first", "all"] = "first",
    ) -> None:
        optimizers = _checked_optimizers(optimizer)
        if ranks not in ("first", "all"):
            raise BadArgument(f"ranks is 'first' or 'all', found {ranks!r}")
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
        is_source = isinstance(model, nn.Module | Mapping) or model is None or callable(model)
        self._model: Names | None = model if is_source else list(model)  # type: ignore[arg-type]
        self._optimizers = optimizers
        self._optimizer = optimizers[0] if optimizers else None
        self._start_step = start_step
        self._session_options: dict[str, Any] = {"if_exists": if_exists, "compression": compression, "run_id": run_id}
        self._session_options |= {} if queue_bytes is None else {"queue_bytes": queue_bytes}
        self.budget_choice: str | None = None
        if budget is not None:
            self._fit(parse_bytes(budget), steps, None if every == 1 else every, schedule)
        self._scan()
        rank, _ = process_rank()
        if is_sharded(self._capture.tensors):
            label = f"{label if label is not None else self.path.name} rank {rank}"
            self.path /= f"rank-{rank}"
            self._session_options["rank"] = rank
            ranks = "all"
        self._records = rank == 0 or ranks == "all"
        self._agreement = Agreement(str(path)) if ranks == "first" else None
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
        self._round: dict[int, Captured | None] = {}  # what the optimizers have made of the current step

    def __repr__(self) -> str:
        values = sum(parameter["numel"] for parameter in self._parameters)
        what = "+".join(self.save) or "scalars"
        return (
            f"<Recorder {str(self.path)!r}: {what} of {len(self._parameters)} parameters ({values:,} values)"
            f" {self.schedule!r}, {self._capture.bytes_per_step / 1e6:.3g} MB a step, {self.steps_seen:,} steps so far>"
        )

    @property
    def optimizers(self) -> tuple[Optimizer, ...]:
        """Those whose steps are recorded."""
        return self._optimizers

    @property
    def parameters(self) -> list[dict[str, Any]]:
        """The parameters that are recorded, as run.json lists them."""
        return self._parameters

    @property
    def records(self) -> bool:
        """Whether this process records; beside rank 0 the ranks of one training do not."""
        return self._records

    @property
    def is_stepping(self) -> bool:
        """Whether an optimizer's step is under way in the caller's stack."""
        return self._frame is not None and is_below(self._frame, sys._getframe(1))

    def keep_last(self, optimizer: Optimizer) -> None:
        """Move our hooks behind those that were registered since, whose effect belongs to the step. Not in a hook."""
        for hook in self._hooks:
            hooks: Any = hook.hooks_dict_ref()
            if hooks is not None and hook.id in hooks and next(reversed(hooks)) != hook.id:
                hooks.move_to_end(hook.id)

    def size(self, n_steps: int) -> RunSize:
        """How many rows and bytes (before compression) ``n_steps`` steps of this recording will take."""
        return RunSize(
            self._capture.counts,
            len(self._parameters),
            n_steps,
            sum(map(bool, map(self.schedule, range(n_steps)))) if self.save else 0,
            len(self.save),
            8 if self._capture.layout.dtype == "float64" else 4,
            self.stats,
        )

    def attach(self) -> Self:
        """Open the run folder and begin to record."""
        if self._session is not None:
            raise BadArgument(f"the recorder of {self.path} is attached already")
        self._process = os.getpid()
        self._attached_once = True
        self._deaf = False  # whether it was said that nothing is logged any more
        self._probe_buffers = Buffers()
        self._probed: tuple[int, set[int | None]] = (-1, set())  # the step, and the batch sizes it was probed with
        if self._records:
            self._open()
        else:
            self._step = self._first_step = self._start_step or 0
        self._hooks = []
        for optimizer in self._optimizers:
            self._hooks += [
                optimizer.register_step_pre_hook(uncompiled(self._guarded(self._before_step))),
                optimizer.register_step_post_hook(uncompiled(self._guarded(self._after_step))),
            ]
        watch(self)
        atexit.register(self._close_at_exit)
        return self

    def _open(self) -> None:
        """Open the run folder."""
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

    @contextlib.contextmanager
    def step(
        self,
        named_parameters: Names | Mapping[str, Tensor] | None = None,
        *,
        grads: Mapping[str, Tensor] | None = None,
        lr: float | Tensor | None = None,
    ) -> Iterator[None]:
        """Record what the block does as one step: for optimizers that are no ``torch.optim.Optimizer``.

        ``named_parameters`` are those of the recorder's model unless told: a module, a mapping, (name, tensor) pairs,
        or a function that gives pairs. All but pairs are read again after the block, which may put new tensors in
        place of the old. ``grads``: name → gradient, where they are not in ``.grad``. A block that raises is not
        recorded.
        """
        if self._optimizers:
            raise BadArgument("step() is for a Recorder without optimizer; it records its optimizer's steps by itself")
        if not self._attached_once:
            raise BadArgument(f"cannot record into {self.path} yet; call attach() first, or use `with Recorder(...)`")
        source = self._model if named_parameters is None else named_parameters
        if source is None:
            raise BadArgument("no parameters to record: give step() a module, or (name, tensor) pairs")
        if not isinstance(source, nn.Module | Mapping) and not callable(source):
            source = list(source)
        self._try(self._before_block, source, grads)
        yield
        self._try(self._after_block, source, lr)

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
        elif self._records and not self._deaf:
            self._deaf = True
            warn(f"what is logged into {self.path} after close() is not recorded; log before it")

    def probe(
        self,
        loss_fn: LossFunction,
        batches: Iterable[Any],
        *,
        samples: int | None = None,
        surrogates: int = 0,
        batch_size: int | None = None,
        sketch: int | None = None,
        seed: int = 0,
        mode: Mode = "train",
        prepare: Callable[[], object] | None = None,
        model: nn.Module | None = None,
    ) -> None:
        """Probe the noise between two steps: what would the optimizer do, from here, with each of these mini-batches?

        For each of K mini-batches, the gradient, and the update that the optimizer would make of it; and the update of
        the mean of these gradients. Parameters, buffers, gradients, the optimizer's state, generators and step hooks
        are afterwards as they were, to the bit. It belongs to the step that comes next::

            if step % 20 == 0:
                rec.probe(lambda batch: criterion(model(batch[0]), batch[1]), list(islice(fresh_batches, 64)))

        Give mini-batches that the training does not take from the same stream, or it will miss them.

        Args:
            loss_fn: from a mini-batch to its 0-d loss, the mean over its samples, at the model as it is.
            batches: K ≥ 2 mini-batches of one size. One with a length (a list, a DataLoader) is gone through once.
            samples: probe so many single samples of these mini-batches, the first ones, in place of the mini-batches;
                ``loss_fn`` is given batches of one, through ``torch.func.vmap``.
            surrogates: how many Gaussian gradients of the same mean and sample covariance to push through as well.
            batch_size: samples in a mini-batch, where it is not the length of its first tensor.
            sketch: keep so many coordinates, the same at every step, and the exact inner products of all samples.
            seed: of the surrogates and of the sketch's coordinates.
            mode: the mode that the model is trained in, ``train`` or ``eval``.
            prepare: called after each backward pass, to do to the gradients what the loop does (clipping).
            model: the module that ``loss_fn`` uses, where the recorder was not given it.

        Raises:
            BadArgument: before anything is changed; or, where ``loss_fn`` gives no loss or the mini-batches turn out to
                differ in size, with everything put back, and without a complete set of samples.
        """
        options = ProbeOptions(
            samples=samples,
            surrogates=surrogates,
            batch_size=batch_size,
            sketch=sketch,
            seed=seed,
            mode=mode,
            prepare=prepare,
        )
        if not self._attached_once:
            raise BadArgument(f"cannot probe into {self.path} before recording begins; call attach() first")
        if self._optimizer is None or len(self._optimizers) > 1:
            raise BadArgument(f"a probe needs the one optimizer of the recorder, found {len(self._optimizers)}")
        if self._error is not None or self._session is None or os.getpid() != self._process:
            return
        modules = [module for module in (model, self._model) if isinstance(module, nn.Module)]
        prober = Prober(
            self.path,
            self._optimizer,
            name_parameters(self._model if self._model is not None else model, self._optimizers),
            modules,
            self._probe_buffers,
        )
        if _held(self._optimizers) != self._held:
            self._scan()
            self._session.update(params=self._parameters, optimizer=self._described_optimizer())
        step, probed = self._probed
        self._probed = (self._step, probed if step == self._step else set())
        prober.probe(loss_fn, batches, options, step=self._step, probed=self._probed[1], writer=self._session.writer)

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
        if not self._attached_once or os.getpid() != self._process:
            return
        unwatch(self)
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        atexit.unregister(self._close_at_exit)
        if self._session is not None and self._round and self._error is None:
            self._try(self._end_round)
        session, self._session = self._session, None
        if session is None:
            return
        self._frame = None
        try:
            self._scalars.close()
        except Exception as fault:  # a number that its device could not give
            self._error = self._error or fault
        if status == "finished" and self._error is None and self._scalars.waiting and self._step == self._first_step:
            warn(
                f"no step was recorded into {self.path}, though values were logged, for its"
                f" {type(self._optimizer).__name__} made none; give the Recorder the optimizer that the loop steps"
                if self._optimizers
                else f"no step was recorded into {self.path}, though values were logged; put each one into `rec.step()`"
            )
        outcome: dict[str, Any] = {"first_step": self._first_step, "n_steps": self._step - self._first_step}
        if self._agreement is not None and self._agreement.world > 1:
            self._agreement.compare()
            outcome["ranks"] = self._agreement.outcome()
        if problem := str(self._error) if self._error else error:
            outcome["error"] = problem
        session.close("failed" if self._error else status, **outcome)
        if self._error is not None:
            raise RecordingFailed(f"recording into {self.path} stopped: {self._error}") from self._error

    def _close_at_exit(self) -> None:
        error = getattr(sys, "last_value", None)  # what has ended the program, where something has
        self._close(*_outcome(error))

    def _described_optimizer(self) -> dict[str, Any]:
        return describe_optimizer(*self._optimizers) | self._description.get("optimizer", {})

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
        capture = Capture(name_parameters(self._model, self._optimizers), self.save)
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
        """Find the parameters that the optimizers hold now, or the model where there is none."""
        if self._optimizers:
            self._take(name_parameters(self._model, self._optimizers))
        else:
            self._take(named_of(self._model) if self._model is not None else [])
        self._held = _held(self._optimizers)

    def _take(self, named: Sequence[Named]) -> None:
        """Record these parameters from now on."""
        self._capture = self._captured(named)
        self._captures = [self._capture]
        if len(self._optimizers) > 1:  # a parameter belongs to the first one that holds it
            left = {id(each.tensor): each for each in named}
            shares = [[left.pop(key) for key in _ids(optimizer) if key in left] for optimizer in self._optimizers]
            self._captures = [self._captured(share, self._capture.counts) for share in shares]
        self._named = self._parameters = describe_parameters(named)
        if self.selection:
            self._parameters = [p | {"recorded": self._capture.counts.get(p["name"], 0)} for p in self._named]

    def _captured(self, named: Sequence[Named], counts: Mapping[str, int] | None = None) -> Capture:
        on_host = all(parameter.tensor.device.type == "cpu" for parameter in named)
        kind = HostCapture if on_host else Capture
        return kind(named, self.save, stats=self.stats, selection=self.selection, counts=counts)

    def _guarded(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        """The hook, such that a fault of the recorder ends the recording and not the training."""

        def guarded(optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
            return self._try(hook, optimizer, frame_of_step(), args, kwargs)

        return guarded

    def _try(self, do: Callable[..., Any], *args: Any) -> Any:
        """Do it, such that a fault of the recorder ends the recording and not the training."""
        if self._error is not None or os.getpid() != self._process:
            return None
        try:
            return do(*args)
        except Exception as error:
            self._error = error
            # Where warnings are errors, the writer's own warning is what was caught.
            said = isinstance(error, RuntimeWarning) and self._session is not None and self._session.writer.error
            warn(
                str(error) if said else f"recording into {self.path} stopped: {error}; the training goes on unrecorded"
            )
            return None

    def _before_step(self, optimizer: Optimizer, frame: FrameType, args: Any, kwargs: Any) -> Any:
        if self._frame is not None and is_below(self._frame, frame):
            return None  # a subclass's step has called its parent's: one step, not two
        self._frame = frame
        start = time.perf_counter()
        self._stepped = True
        refuse_graph_capture(self._capture.tensors)
        if _held(self._optimizers) != self._held:
            self._end_round()
            self._scan()
            if self._session is not None:
                self._session.update(params=self._parameters, optimizer=self._described_optimizer())
        if self._probed[1] and self._session is not None:
            self._probed = (-1, set())
            self._session.writer.end_probes()
        self._place = self._optimizers.index(optimizer)
        if self._place in self._round:
            self._end_round()
        self._begin()
        closure, arguments = with_closure(args, kwargs, self._watched)
        if self._capturing and closure is None:
            # A fused optimizer under a GradScaler divides by the scale itself.
            self._captures[self._place].gradients(getattr(optimizer, "grad_scale", None))
        self._record_seconds += time.perf_counter() - start
        return arguments

    def _begin(self) -> None:
        """Before the optimizer at ``_place`` makes its part of a step: copy θ_t."""
        if not self._round:
            self._record_seconds = 0.0
            self._evaluations = 0
            self._skipped: Any = False
            self._loss: Any = None
            if self._agreement is not None:
                self._agreement.look(self._step, self._capture.tensors)
                if self._agreement.differs is not None and not self._deaf:
                    self._deaf = True
                    step, other = self._agreement.differs
                    warn(f"rank {other} held other parameters than rank 0 at step {step}; recorded are those of rank 0")
            writing = self._session is not None and self._session.writer.error is None
            self._recording = bool(writing and self.save and self.schedule(self._step))
            self._capturing = self._recording or (writing and self.stats)
        if self._capturing:
            self._captures[self._place].before(record=self._recording)

    def _watched(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        """The closure, such that the gradient and the loss of its first evaluation are seen."""
        first = True

        def watched() -> Any:
            nonlocal first
            loss = closure()
            self._evaluations += 1
            if first:
                first = False
                self._try(self._see_evaluation, loss)
            return loss

        return watched

    def _see_evaluation(self, loss: Any) -> None:
        start = time.perf_counter()
        with contextlib.suppress(BadArgument):  # a closure may return anything
            self._loss = None if loss is None else as_number("loss", loss)
        if self._capturing:
            self._captures[self._place].gradients()
        self._record_seconds += time.perf_counter() - start

    def _after_step(self, optimizer: Optimizer, frame: FrameType, args: Any, kwargs: Any) -> None:
        if frame is not self._frame:
            return
        self._frame = None
        start = time.perf_counter()
        dropped = getattr(optimizer, "found_inf", None)  # set by a GradScaler for a fused optimizer
        if dropped is not None:
            self._skipped = as_number("skipped", dropped)
        self._end(start)

    def before_scaler_step(self, scaler: Any, optimizer: Optimizer) -> None:
        """A GradScaler begins to decide whether the optimizer makes a step."""
        if any(each is optimizer for each in self._optimizers):
            self._stepped = False

    def after_scaler_step(self, scaler: Any, optimizer: Optimizer) -> None:
        """A step that it dropped is one in which nothing moved."""
        if any(each is optimizer for each in self._optimizers) and not self._stepped:
            self._try(self._record_skipped, optimizer)

    def _record_skipped(self, optimizer: Optimizer) -> None:
        start = time.perf_counter()
        self._place = self._optimizers.index(optimizer)
        if self._place in self._round:
            self._end_round()
        self._begin()
        if self._capturing:
            self._captures[self._place].gradients()
        self._skipped = True
        self._end(start)

    def _before_block(self, source: Any, grads: Mapping[str, Tensor] | None) -> None:
        start = time.perf_counter()
        named = named_of(source)
        if describe_parameters(named) != self._named:
            self._take(named)
            if self._session is not None:
                self._session.update(params=self._parameters)
        names = [parameter["name"] for parameter in self._parameters]
        self._in_block = {each.name: each.tensor for each in named}
        self._capture.tensors = [self._in_block[name] for name in names]
        refuse_graph_capture(self._capture.tensors)
        self._place = 0
        self._begin()
        if self._capturing:
            self._capture.gradients(given=None if grads is None else [grads.get(name) for name in names])
        self._record_seconds += time.perf_counter() - start

    def _after_block(self, source: Any, lr: float | Tensor | None) -> None:
        start = time.perf_counter()
        after = self._in_block if isinstance(source, list) else {each.name: each.tensor for each in named_of(source)}
        self._capture.tensors = [after[parameter["name"]] for parameter in self._parameters]
        self._end(start, {} if lr is None else {"lr": as_number("lr", lr)})

    def _end(self, start: float, rates: dict[str, float | Pending] | None = None) -> None:
        """After the optimizer at ``_place`` has made its part of the step; the last one's part ends it."""
        self._round[self._place] = self._captures[self._place].after(self._step) if self._capturing else None
        self._record_seconds += time.perf_counter() - start
        if len(self._round) == len(self._captures):
            self._end_round(rates)

    def _end_round(self, rates: dict[str, float | Pending] | None = None) -> None:
        """Hand over the step that the optimizers have made; one that took no part in it was at rest."""
        if not self._round:
            return
        start = time.perf_counter()
        parts, self._round = self._round, {}
        if self._session is not None:
            if self._capturing:
                found = [
                    parts.get(i) or capture.at_rest(self._step, record=self._recording)
                    for i, capture in enumerate(self._captures)
                ]
                rows, stats = found[0] if len(found) == 1 else joined(self._step, self._capture.layout, found)
                if rows is not None:
                    self._session.writer.put_tensors(rows)
                if stats is not None:
                    self._session.writer.put_stats(stats)
            groups = [group for optimizer in self._optimizers for group in optimizer.param_groups]
            row = {
                "step": self._step,
                "loss": self._loss,
                **(learning_rates(groups) if rates is None and groups else rates or {}),
                "wall_time": time.time(),
                "record_seconds": self._record_seconds + time.perf_counter() - start,
                "skipped": self._skipped,
                "n_evals": max(self._evaluations, 1),
            }
            self._scalars.step(row)
        self._step += 1
        self.steps_seen += 1


def _checked_optimizers(given: Any) -> tuple[Optimizer, ...]:
    optimizers = [given] if isinstance(given, Optimizer) else () if given is None else given
    if not isinstance(optimizers, Sequence) or (given is not None and not optimizers):
        raise BadArgument(f"a torch.optim.Optimizer is needed, or several, found {type(given).__name__}")
    for each in optimizers:
        if not isinstance(each, Optimizer):
            raise BadArgument(f"a torch.optim.Optimizer is needed, found {type(each).__name__}")
    return tuple(optimizers)


def _outcome(error: BaseException | None) -> tuple[str, str | None]:
    """(status, error) of a run that ended with this exception, or without any."""
    if error is None or (isinstance(error, SystemExit) and not error.code):
        return "finished", None
    return "interrupted" if isinstance(error, KeyboardInterrupt) else "failed", f"{type(error).__name__}: {error}"


def _held(optimizers: Sequence[Optimizer]) -> list[tuple[int, torch.Size, torch.dtype, torch.device]]:
    """What tells that the optimizers' parameters are still the same: those named in run.json, as it says."""
    tensors = (tensor for optimizer in optimizers for group in optimizer.param_groups for tensor in group["params"])
    return [(id(tensor), tensor.shape, tensor.dtype, tensor.device) for tensor in tensors]


def _ids(optimizer: Optimizer) -> list[int]:
    return [id(tensor) for group in optimizer.param_groups for tensor in group["params"]]
