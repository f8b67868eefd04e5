"""The recorder: hooks on an optimizer that write its trajectory into a run folder, and change nothing else."""

from __future__ import annotations

import atexit
import contextlib
import operator
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from torch import Tensor, nn
from torch.optim import Optimizer

from trajectory_tools.errors import BadArgument, RecordingFailed, TrajectoryError, UnknownName
from trajectory_tools.recorder.buffers import Buffers
from trajectory_tools.recorder.capture import Capture
from trajectory_tools.recorder.captures import Captures, checked_optimizers
from trajectory_tools.recorder.description import (
    checked_info,
    describe_command,
    describe_environment,
    describe_optimizer,
    describe_outcome,
)
from trajectory_tools.recorder.names import Names, name_parameters
from trajectory_tools.recorder.probes import LossFunction, Mode, ProbeOptions, Prober
from trajectory_tools.recorder.ranks import Agreement, is_sharded, process_rank
from trajectory_tools.recorder.resuming import note_other_optimizer, refuse_other_selection
from trajectory_tools.recorder.scaler import unwatch, watch
from trajectory_tools.recorder.schedule import Schedule
from trajectory_tools.recorder.schedule import every as every_n
from trajectory_tools.recorder.step_call import is_below
from trajectory_tools.recorder.steps import Steps
from trajectory_tools.recorder.warning import warn
from trajectory_tools.store.budget import choose_for_budget, parse_bytes
from trajectory_tools.store.metadata import read_metadata
from trajectory_tools.store.schema import VALUE_COLUMNS
from trajectory_tools.store.selection import Selection
from trajectory_tools.store.session import IfExists, Session
from trajectory_tools.store.size import RunSize
from trajectory_tools.store.writer import WriterOptions
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
        optimizers = checked_optimizers(optimizer)
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
        is_source = isinstance(model, nn.Module | Mapping) or model is None or callable(model)
        self._model: Names | None = model if is_source else list(model)  # type: ignore[arg-type]
        self._optimizers = optimizers
        self._start_step = start_step
        writing: dict[str, Any] = {"compression": compression}
        writing |= {} if queue_bytes is None else {"queue_bytes": queue_bytes}
        WriterOptions(**writing)  # says now what is wrong with them
        self._session_options: dict[str, Any] = {"if_exists": if_exists, "run_id": run_id, **writing}
        self.budget_choice: str | None = None
        if budget is not None:
            self._fit(parse_bytes(budget), steps, None if every == 1 else every, schedule)
        self._captures = Captures(self._model, optimizers, self.save, stats=self.stats, selection=self.selection)
        rank, _ = process_rank()
        if is_sharded(self._captures.whole.tensors):
            label = f"{label if label is not None else self.path.name} rank {rank}"
            self.path /= f"rank-{rank}"
            self._session_options["rank"] = rank
            ranks = "all"
        self._records = rank == 0 or ranks == "all"
        self._agreement = Agreement(str(path)) if ranks == "first" else None
        groups = [g if isinstance(g, SymmetryGroup) else SymmetryGroup.from_json(g) for g in symmetries]
        shapes = {parameter["name"]: parameter["shape"] for parameter in self.parameters}
        self._description = {
            "label": label if label is not None else self.path.name,
            "seed": seed,
            **({"problem": {"name": problem, "title": problem}} if problem is not None else {}),
            "symmetries": [group.checked(shapes).to_json() for group in groups],
            **checked_info(info),
        }
        self._steps = Steps(
            self.path,
            self._captures,
            optimizers,
            schedule=self.schedule if self.save else None,
            stats=self.stats,
            agreement=self._agreement,
            refresh=self._refresh,
        )
        self._attached_once = False

    def __repr__(self) -> str:
        values = sum(parameter["numel"] for parameter in self.parameters)
        what = "+".join(self.save) or "scalars"
        megabytes = self._captures.whole.bytes_per_step / 1e6
        return (
            f"<Recorder {str(self.path)!r}: {what} of {len(self.parameters)} parameters ({values:,} values)"
            f" {self.schedule!r}, {megabytes:.3g} MB a step, {self.steps_seen:,} steps so far>"
        )

    @property
    def optimizers(self) -> tuple[Optimizer, ...]:
        """Those whose steps are recorded."""
        return self._optimizers

    @property
    def parameters(self) -> list[dict[str, Any]]:
        """The parameters that are recorded, as run.json lists them."""
        return self._captures.parameters

    @property
    def steps_seen(self) -> int:
        """How many steps the optimizers have made since the recorder is attached."""
        return self._steps.seen

    @property
    def records(self) -> bool:
        """Whether this process records; beside rank 0 the ranks of one training do not."""
        return self._records

    @property
    def is_stepping(self) -> bool:
        """Whether an optimizer's step is under way in the caller's stack."""
        return self._steps.frame is not None and is_below(self._steps.frame, sys._getframe(1))

    def keep_last(self, optimizer: Optimizer) -> None:
        """Move our hooks behind those that were registered since, whose effect belongs to the step. Not in a hook."""
        for hook in self._hooks:
            hooks: Any = hook.hooks_dict_ref()
            if hooks is not None and hook.id in hooks and next(reversed(hooks)) != hook.id:
                hooks.move_to_end(hook.id)

    def size(self, n_steps: int) -> RunSize:
        """How many rows and bytes (before compression) ``n_steps`` steps of this recording will take."""
        return RunSize(
            self._captures.whole.counts,
            len(self.parameters),
            n_steps,
            sum(map(bool, map(self.schedule, range(n_steps)))) if self.save else 0,
            len(self.save),
            8 if self._captures.whole.layout.dtype == "float64" else 4,
            self.stats,
        )

    def attach(self) -> Self:
        """Open the run folder and begin to record."""
        if self._steps.session is not None:
            raise BadArgument(f"the recorder of {self.path} is attached already")
        self._process = os.getpid()
        self._attached_once = True
        self._deaf = False  # whether it was said that nothing is logged any more
        self._probe_buffers = Buffers()
        session = self._open() if self._records else None
        first = self._start_step
        self._steps.begin(session, (session.next_step if session else 0) if first is None else first)
        self._hooks = [handle for optimizer in self._optimizers for handle in self._steps.hook(optimizer)]
        watch(self._steps)
        atexit.register(self._close_at_exit)
        return self

    def _open(self) -> Session:
        """Open the run folder."""
        earlier: dict[str, Any] = {}
        if self._session_options["if_exists"] == "resume":
            before: dict[str, Any] = {}
            with contextlib.suppress(TrajectoryError):  # what is wrong with the folder, the session says
                before = read_metadata(self.path)
            if before:
                earlier = before.get("optimizer", {})
                refuse_other_selection(self.path, before, self.selection)
        session = Session(
            self.path,
            {
                **self._description,
                **describe_command(),
                "optimizer": self._described_optimizer(),
                "params": self.parameters,
                "schedule": repr(self.schedule),
                "save": list(self.save),
                "stats": self.stats,
                **({"budget": self.budget_choice} if self.budget_choice else {}),
                **({"selection": self.selection.to_json()} if self.selection else {}),
                "environment": describe_environment(self._captures.whole.tensors),
            },
            **self._session_options,
        )
        if earlier:
            note_other_optimizer(session, earlier, self._described_optimizer())
        return session

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
        self._steps.attempt(self._steps.before_block, source, grads)
        yield
        self._steps.attempt(self._steps.after_block, source, lr)

    def log(self, **scalars: float | Tensor) -> None:
        """Note scalars of this iteration: numbers or one-element tensors; one on a GPU is not waited for.

        Call it on either side of ``optimizer.step()``: each value goes to the row of that iteration's step.
        """
        if not self._attached_once:
            raise BadArgument(
                f"cannot log into {self.path} before recording begins; call attach() first, or use `with Recorder(...)`"
            )
        if self._steps.error is not None:
            return
        if self._steps.session is not None:
            self._steps.scalars.log(scalars)
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
            batches: K ≥ 2 mini-batches of one size. What has a length (a DataLoader) is gone through once, after a look
                at its first mini-batch, if it is no sequence; what has none is made a list.
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
        if len(self._optimizers) != 1:
            raise BadArgument(f"a probe needs the one optimizer of the recorder, found {len(self._optimizers)}")
        steps, session = self._steps, self._steps.session
        if steps.error is not None or session is None or os.getpid() != self._process:
            return
        modules = [module for module in (model, self._model) if isinstance(module, nn.Module)]
        prober = Prober(
            self.path,
            self._optimizers[0],
            name_parameters(self._model if self._model is not None else model, self._optimizers),
            modules,
            self._probe_buffers,
        )
        if self._captures.outdated():
            self._refresh()
        step, probed = steps.probed
        steps.probed = (steps.number, probed if step == steps.number else set())
        prober.probe(loss_fn, batches, options, step=steps.number, probed=steps.probed[1], writer=session.writer)

    def close(self) -> None:
        """Commit everything and free the folder. Raises ``RecordingFailed`` where something could not be written."""
        self._close("finished")

    def __enter__(self) -> Self:
        return self.attach()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._close(*describe_outcome(error))
        except RecordingFailed as failure:
            if error is None:
                raise
            error.add_note(str(failure))  # the training's own exception must stay the one that is seen

    def _close(self, status: str, error: str | None = None) -> None:
        if not self._attached_once or os.getpid() != self._process:
            return
        unwatch(self._steps)
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        atexit.unregister(self._close_at_exit)
        steps = self._steps
        steps.attempt(steps.end_round)
        session, steps.session = steps.session, None
        if session is None:
            return
        steps.frame = None
        try:
            steps.scalars.close()
        except Exception as fault:  # a number that its device could not give
            steps.error = steps.error or fault
        if status == "finished" and steps.error is None and steps.scalars.waiting and steps.number == steps.first:
            warn(
                f"no step was recorded into {self.path}, though values were logged, for its"
                f" {type(self._optimizers[0]).__name__} made none; give the Recorder the optimizer that the loop steps"
                if self._optimizers
                else f"no step was recorded into {self.path}, though values were logged; put each one into `rec.step()`"
            )
        outcome: dict[str, Any] = {"first_step": steps.first, "n_steps": steps.number - steps.first}
        if self._agreement is not None and self._agreement.world > 1:
            self._agreement.compare()
            outcome["ranks"] = self._agreement.outcome()
        if problem := str(steps.error) if steps.error else error:
            outcome["error"] = problem
        self._captures.release()
        self._probe_buffers.forget()
        session.close("failed" if steps.error else status, **outcome)
        if steps.error is not None:
            raise RecordingFailed(f"recording into {self.path} stopped: {steps.error}") from steps.error

    def _close_at_exit(self) -> None:
        error = getattr(sys, "last_value", None)  # what has ended the program, where something has
        self._close(*describe_outcome(error))

    def _described_optimizer(self) -> dict[str, Any]:
        return describe_optimizer(*self._optimizers) | self._description.get("optimizer", {})

    def _refresh(self) -> None:
        """The optimizers hold other parameters than before: capture those, and write down what they are."""
        self._captures.scan()
        if self._steps.session is not None:
            self._steps.session.update(params=self.parameters, optimizer=self._described_optimizer())

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
