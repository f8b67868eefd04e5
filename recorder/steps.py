"""The steps of a training as its optimizers' hooks see them, each handed to the writer once it is complete."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from trajectory_tools.errors import BadArgument
from trajectory_tools.recorder.captures import Captures
from trajectory_tools.recorder.compiled import uncompiled
from trajectory_tools.recorder.names import Named, named_of
from trajectory_tools.recorder.ranks import Agreement
from trajectory_tools.recorder.round import Round
from trajectory_tools.recorder.scalars import Pending, ScalarLog, as_number, learning_rates
from trajectory_tools.recorder.schedule import Schedule
from trajectory_tools.recorder.step_call import frame_of_step, is_below, refuse_graph_capture, with_closure
from trajectory_tools.recorder.warning import warn
from trajectory_tools.store.session import Session

__all__ = ["Steps"]


class Steps:
    """Sees each step of the optimizers, and hands it to the session's writer, where there is a session.

    ``number`` is that of the step which comes next, ``first`` that of the first one, ``seen`` how many there were in
    all. ``error`` is a fault of the recorder's: it ends the recording and not the training.

    ``schedule`` says at which steps the tensors are recorded (None: at none), ``refresh`` writes down that the
    optimizers hold other parameters than before.
    """

    def __init__(
        self,
        path: Path,
        captures: Captures,
        optimizers: Sequence[Optimizer],
        *,
        schedule: Schedule | None,
        stats: bool,
        agreement: Agreement | None,
        refresh: Callable[[], None],
    ) -> None:
        self.number = self.first = self.seen = 0
        self.error: BaseException | None = None
        self.session: Session | None = None
        self.frame: FrameType | None = None  # of the optimizer's step that is under way
        self.probed: tuple[int, set[int | None]] = (-1, set())  # the step, and the batch sizes it was probed with
        self._path = path
        self._captures = captures
        self._optimizers = optimizers
        self._schedule = schedule
        self._stats = stats
        self._agreement = agreement
        self._refresh = refresh
        self._round: Round | None = None
        self._ranks_differ = False
        self._process = os.getpid()

    def begin(self, session: Session | None, first: int) -> None:
        """Number the steps from there on, and record them into the session."""
        self._process = os.getpid()
        self.number = self.first = first
        self.session = session
        self.probed = (-1, set())
        if session is not None:
            self.scalars = ScalarLog(session.writer.put_scalars)

    def hook(self, optimizer: Optimizer) -> list[Any]:
        """Be called before and after each of its steps; what takes the hooks away again."""
        return [
            optimizer.register_step_pre_hook(uncompiled(self._guarded(self._before_step))),
            optimizer.register_step_post_hook(uncompiled(self._guarded(self._after_step))),
        ]

    def attempt(self, do: Callable[..., Any], *args: Any) -> Any:
        """Do it, such that a fault of the recorder ends the recording and not the training."""
        if self.error is not None or os.getpid() != self._process:
            return None
        try:
            return do(*args)
        except Exception as error:
            self.error = error
            # Where warnings are errors, the writer's own warning is what was caught.
            said = isinstance(error, RuntimeWarning) and self.session is not None and self.session.writer.error
            warn(
                str(error) if said else f"recording into {self._path} stopped: {error}; the training goes on unrecorded"
            )
            return None

    def _guarded(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
            return self.attempt(hook, optimizer, frame_of_step(), args, kwargs)

        return guarded

    def _before_step(self, optimizer: Optimizer, frame: FrameType, args: Any, kwargs: Any) -> Any:
        if self.frame is not None and is_below(self.frame, frame):
            return None  # a subclass's step has called its parent's: one step, not two
        self.frame = frame
        start = time.perf_counter()
        self._stepped = True
        refuse_graph_capture(self._captures.whole.tensors)
        if self._captures.outdated():
            self.end_round()
            self._refresh()
        if self.probed[1] and self.session is not None:
            self.probed = (-1, set())
            self.session.writer.end_probes()
        round_ = self._begin(self._optimizers.index(optimizer))
        closure, arguments = with_closure(args, kwargs, self._watched)
        if closure is None:
            # A fused optimizer under a GradScaler divides by the scale itself.
            round_.gradients(getattr(optimizer, "grad_scale", None))
        round_.seconds += time.perf_counter() - start
        return arguments

    def _after_step(self, optimizer: Optimizer, frame: FrameType, args: Any, kwargs: Any) -> None:
        if frame is not self.frame or self._round is None:
            return
        self.frame = None
        start = time.perf_counter()
        dropped = getattr(optimizer, "found_inf", None)  # set by a GradScaler for a fused optimizer
        if dropped is not None:
            self._round.skipped = as_number("skipped", dropped)
        self._end(self._round, start)

    def before_scaler_step(self, scaler: Any, optimizer: Optimizer) -> None:
        """A GradScaler begins to decide whether the optimizer makes a step."""
        if any(each is optimizer for each in self._optimizers):
            self._stepped = False

    def after_scaler_step(self, scaler: Any, optimizer: Optimizer) -> None:
        """A step that it dropped is one in which nothing moved."""
        if any(each is optimizer for each in self._optimizers) and not self._stepped:
            self.attempt(self._record_skipped, optimizer)

    def _record_skipped(self, optimizer: Optimizer) -> None:
        start = time.perf_counter()
        round_ = self._begin(self._optimizers.index(optimizer))
        round_.gradients()
        round_.skipped = True
        self._end(round_, start)

    def before_block(self, source: Any, grads: Mapping[str, Tensor] | None) -> None:
        """Before a block of code that makes a step without a ``torch.optim.Optimizer``; see ``Recorder.step``."""
        start = time.perf_counter()
        self._in_block: list[Named] = named_of(source)
        if self._captures.take_block(self._in_block) and self.session is not None:
            self.session.update(params=self._captures.parameters)
        refuse_graph_capture(self._captures.whole.tensors)
        round_ = self._begin(0)
        names = [parameter["name"] for parameter in self._captures.parameters]
        round_.gradients(given=None if grads is None else [grads.get(name) for name in names])
        round_.seconds += time.perf_counter() - start

    def after_block(self, source: Any, lr: float | Tensor | None) -> None:
        """After it, when there may be new tensors in place of the old."""
        assert self._round is not None
        start = time.perf_counter()
        after = self._in_block if isinstance(source, list) else named_of(source)
        self._captures.rebind({each.name: each.tensor for each in after})
        self._end(self._round, start, {} if lr is None else {"lr": as_number("lr", lr)})

    def _begin(self, place: int) -> Round:
        """Before the optimizer at this place makes its part of a step: copy θ_t."""
        if self._round is not None and place in self._round:
            self.end_round()
        if not self._round:
            self._look_at_ranks()
            writing = self.session is not None and self.session.writer.error is None
            record = bool(writing and self._schedule is not None and self._schedule(self.number))
            if record and self.session is not None:
                self.session.writer.make_room(self._captures.whole.held_per_step)
            self._round = Round(self._captures.each, record=record, stats=writing and self._stats)
        self._round.begin(place)
        return self._round

    def _look_at_ranks(self) -> None:
        if self._agreement is None:
            return
        self._agreement.look(self.number, self._captures.whole.tensors)
        if self._agreement.differs is not None and not self._ranks_differ:
            self._ranks_differ = True
            step, other = self._agreement.differs
            warn(f"rank {other} held other parameters than rank 0 at step {step}; recorded are those of rank 0")

    def _watched(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        """The closure, such that the gradient and the loss of its first evaluation are seen."""
        round_ = self._round
        assert round_ is not None
        first = True

        def watched() -> Any:
            nonlocal first
            loss = closure()
            round_.evaluations += 1
            if first:
                first = False
                self.attempt(self._see_evaluation, round_, loss)
            return loss

        return watched

    def _see_evaluation(self, round_: Round, loss: Any) -> None:
        start = time.perf_counter()
        with contextlib.suppress(BadArgument):  # a closure may return anything
            round_.loss = None if loss is None else as_number("loss", loss)
        round_.gradients()
        round_.seconds += time.perf_counter() - start

    def _end(self, round_: Round, start: float, rates: dict[str, float | Pending] | None = None) -> None:
        """After the optimizer that is at work has made its part of the step; the last one's part ends it."""
        round_.end(self.number)
        round_.seconds += time.perf_counter() - start
        if round_.is_complete:
            self.end_round(rates)

    def end_round(self, rates: dict[str, float | Pending] | None = None) -> None:
        """Hand over the step that the optimizers have made so far, if they have."""
        if not self._round:
            return
        start = time.perf_counter()
        round_, self._round = self._round, None
        if self.session is not None:
            rows, stats = round_.captured(self.number, self._captures.whole.layout)
            if rows is not None:
                self.session.writer.put_tensors(rows)
            if stats is not None:
                self.session.writer.put_stats(stats)
            groups = [group for optimizer in self._optimizers for group in optimizer.param_groups]
            row = {
                "step": self.number,
                "loss": round_.loss,
                **(learning_rates(groups) if rates is None and groups else rates or {}),
                "wall_time": time.time(),
                "record_seconds": round_.seconds + time.perf_counter() - start,
                "skipped": round_.skipped,
                "n_evals": max(round_.evaluations, 1),
            }
            self.scalars.step(row)
        self.number += 1
        self.seen += 1
