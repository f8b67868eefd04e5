"""When and how the noise of a built-in problem is probed while it trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from trajectory_tools.errors import BadArgument

if TYPE_CHECKING:
    from pathlib import Path

    from torch.nn import Module
    from torch.optim import Optimizer

    from trajectory_tools.problems import Optimizee
    from trajectory_tools.recorder import Recorder
    from trajectory_tools.store.size import ProbePlan, RunSize

__all__ = ["Probing"]


@dataclass(frozen=True, kw_only=True)
class Probing:
    """A probe in front of every n-th step, or of the steps ``at``: mini-batches, single samples, or both.

    ``batches`` and ``samples`` are how many (0: none), ``surrogates`` how many Gaussian gradients go with each set, and
    ``sketch`` how many coordinates are kept, where not all are. The mini-batches are independent of each other and of
    those that are trained on.
    """

    every: int = 1
    at: tuple[int, ...] = ()
    batches: int = 64
    samples: int = 0
    surrogates: int = 0
    sketch: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("every", 1), ("surrogates", 0), ("sketch", 1)):
            if (value := getattr(self, name)) is not None and value < least:
                raise BadArgument(f"probe: {name} is {value}; give {least} or more")
        for name in ("batches", "samples"):
            if (value := getattr(self, name)) in (1,) or value < 0:
                raise BadArgument(f"probe: {name} is {value}; the spread needs 2 or more (0: none are probed)")
        if not self.batches and not self.samples:
            raise BadArgument("probe: neither mini-batches nor single samples are to be probed; give at least 2 of one")

    def __call__(self, step: int) -> bool:
        """Whether this step is probed."""
        return step in self.at if self.at else step % self.every == 0

    def n_probed(self, n_steps: int) -> int:
        """How many of the steps are."""
        return sum(map(self, range(n_steps)))

    def plans(self, n_values: int) -> list[ProbePlan]:
        """The sets of one step, for a model of so many values."""
        from trajectory_tools.store.size import ProbePlan

        return [ProbePlan(n, self.surrogates, n_values, self.sketch) for n in (self.batches, self.samples) if n]

    def added_to(self, size: RunSize, model: Module) -> RunSize:
        """The size of a run with the probes of its steps."""
        n_values = sum(parameter.numel() for parameter in model.parameters())
        return replace(size, probes=tuple(self.plans(n_values)), n_probed=self.n_probed(size.n_steps))

    def rest_of(self, budget: int | str, model: Module, n_steps: int) -> tuple[int, str]:
        """What the probes leave of a budget, in bytes, and the words that say so; ``BadArgument`` where it is none."""
        from trajectory_tools.store.budget import parse_bytes, show_bytes
        from trajectory_tools.store.size import RunSize

        parameters = list(model.parameters())
        itemsize = max(4, *(parameter.element_size() for parameter in parameters))  # a half is recorded as a float
        size = self.added_to(RunSize({}, len(parameters), n_steps, 0, itemsize=itemsize), model).bytes
        taken, whole = size["probes"] + size["probe_products"], parse_bytes(budget)
        if taken >= whole:
            raise BadArgument(
                f"the probes take {show_bytes(taken)}, and the budget is {show_bytes(whole)}; give a larger one, fewer"
                " probes, or a sketch of each (--probe-sketch)"
            )
        return whole - taken, f"of {show_bytes(whole)} the probes take {show_bytes(taken)}; of the rest, "

    def to_json(self) -> dict[str, Any]:
        """For run.json."""
        return {**asdict(self), "at": list(self.at)}

    def check(self, optimizee: Optimizee, optimizer: Optimizer, folder: Path | None = None) -> None:
        """Raise ``BadArgument`` where the optimizee cannot be probed like this, before anything is recorded.

        Also where there is no room for a probe in the ``folder`` that is to be made, if one is.
        """
        from trajectory_tools.recorder.probe_gradients import check_single_samples
        from trajectory_tools.recorder.probe_updates import check_optimizer
        from trajectory_tools.recorder.probes import check_plan
        from trajectory_tools.recorder.room import check_room

        check_optimizer(optimizer)
        if optimizee.draw is None:
            raise BadArgument("this problem has no stream of mini-batches beside that of its training to probe with")
        if self.samples:
            check_single_samples(optimizee.model)
            optimizee.draw(self.samples)
            if self.batches and optimizee.batch_size == 1:
                raise BadArgument("probe: the mini-batches are single samples already; leave one of the two out")
        parameters = list(optimizee.model.parameters())
        for plan in self.plans(sum(parameter.numel() for parameter in parameters)):
            check_plan(plan)
            if folder is not None:
                check_room(plan, max(parameter.element_size() for parameter in parameters), folder)

    def prober(self, recorder: Recorder, optimizee: Optimizee, seed: int, n_steps: int) -> Callable[[int], None]:
        """What to call in front of each step, with its number."""
        draw = optimizee.draw
        assert draw is not None, "check() comes first"
        options: dict[str, Any] = {"surrogates": self.surrogates, "sketch": self.sketch, "seed": seed}

        def before_step(step: int) -> None:
            if step >= n_steps or not self(step):
                return
            if self.batches:
                drawn = Draws(draw, self.batches)
                recorder.probe(optimizee.loss, drawn, batch_size=optimizee.batch_size, **options)
            if self.samples:
                recorder.probe(optimizee.loss, [draw(self.samples)], samples=self.samples, **options)

        return before_step


@dataclass(frozen=True)
class Draws:
    """So many mini-batches, each drawn when it is asked for: they need not be in memory together."""

    draw: Callable[[int | None], Any]
    n: int

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[Any]:
        return (self.draw(None) for _ in range(self.n))
