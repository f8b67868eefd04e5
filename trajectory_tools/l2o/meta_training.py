"""Meta-training: a learned optimizer's weights, trained by Adam on runs that it makes itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from trajectory_tools.errors import BadArgument, TrajectoryError
from trajectory_tools.l2o import kernel
from trajectory_tools.l2o.choice import choose_weights
from trajectory_tools.l2o.kernel import KernelWeights
from trajectory_tools.l2o.network import CoordinatewiseLSTM
from trajectory_tools.l2o.options import MetaTrainingOptions
from trajectory_tools.l2o.parameters import FlatParameters
from trajectory_tools.l2o.regularizers import Regularizer
from trajectory_tools.l2o.tape import Tape
from trajectory_tools.l2o.truncation import MetaLoss, Truncation, Unroll
from trajectory_tools.problems.base import SEED_LIMIT, Optimizee, Problem, streams

__all__ = ["Diverged", "Epoch", "MetaRun", "MetaTrainer", "held_out_seeds", "run_seed"]

SPAN = 2**20
"""Seeds that one meta-training may use of each sort, and meta-trainings that there may be."""
MAX_LOST_RUNS = 20

Watch = Callable[[int, Optimizee, torch.optim.Optimizer], AbstractContextManager[Callable[[float], object] | None]]
"""From a run's number, optimizee and optimizer to a context in which it happens, which takes each step's loss."""


class Diverged(TrajectoryError):
    """Meta-training gave up, because run after run became NaN or infinite."""


def run_seed(seed: int, number: int) -> int:
    """The problem's seed for run ``number`` of the meta-training of this seed.

    Above every seed that a run may be recorded with or tuned on (``SEED_LIMIT`` and the few after it).
    """
    return SEED_LIMIT * 2**8 + seed * SPAN + number


def held_out_seeds(seed: int, count: int) -> range:
    """The problem's seeds that the best weights are chosen on: met by no run, recorded, tuned or meta-trained."""
    first = SEED_LIMIT * 2**16 + seed * SPAN
    return range(first, first + count)


@dataclass(frozen=True)
class MetaRun:
    """One meta-training run: its mean loss over the steps taken, its last loss, and the mean of the regularizer.

    ``skipped``: meta-steps that were not taken because something was not finite; ``lost``: whether the run ended there.
    """

    number: int
    n_steps: int
    mean_loss: float
    last_loss: float
    deviation: float
    skipped: int
    lost: bool


@dataclass(frozen=True)
class Epoch:
    """What an epoch gave: the mean of its runs' mean losses, and the loss on the held-out seeds.

    Epoch 0 is the untrained network: it has no runs, and its training loss is NaN. ``best``: whether no epoch before
    was as good; ``skipped``: meta-steps not taken so far, because something was not finite.
    """

    number: int
    training_loss: float
    selection_loss: float
    best: bool
    skipped: int


@dataclass
class Best:
    """The weights with the lowest selection loss so far, and after which epoch they were found."""

    loss: float = math.inf
    epoch: int = -1
    weights: dict[str, Tensor] = field(default_factory=dict)


class MetaTrainer:
    """Meta-trains a network on one problem; everything it draws follows from the seed and the run's number.

    Until it is ``finished``, call ``select`` where ``selection_is_due`` (before the first run and after each epoch),
    else ``run``. ``state_dict`` between two calls, and ``load_state_dict`` into a new trainer of the same problem and
    options, go on to the identical result: generators are made anew for each run, from the seed and the run's number,
    so that there are none to save.

    Raises ``MissingData`` at the first run of a problem without the symmetry that is to be regularized.
    """

    def __init__(self, problem: Problem, options: MetaTrainingOptions) -> None:
        if options.seed >= SPAN or options.epochs * options.runs > SPAN:
            raise BadArgument(f"a meta-training has at most {SPAN:,} runs, and a seed below that")
        self.problem = problem
        self.options = options
        self.network = _first_network(options)
        self.meta_optimizer = torch.optim.Adam(self.network.parameters(), lr=options.lr)
        self.next_run = 0
        self.meta_steps = 0
        self.skipped = 0
        self.lost_in_a_row = 0
        self.best = Best()
        self.run_losses: list[float] = []
        self.selection_losses: list[float] = []
        self._threads = torch.get_num_threads()
        self._tapes: dict[int, Tape] = {}
        optimizee, parameters = self._start(run_seed(options.seed, 0))
        self._meta_loss_of(optimizee, parameters)  # a regularizer that cannot be is found before anything runs
        self.data = optimizee.data

    @property
    def n_runs(self) -> int:
        """How many runs there are in all."""
        return self.options.epochs * self.options.runs

    @property
    def selection_is_due(self) -> bool:
        """Whether an epoch has ended that the network was not tried after."""
        return len(self.selection_losses) <= self.next_run // self.options.runs

    @property
    def finished(self) -> bool:
        """Whether all runs are made, and the network tried after the last."""
        return self.next_run == self.n_runs and not self.selection_is_due

    def run(
        self,
        *,
        watch: Watch | None = None,
        on_meta_step: Callable[[Truncation], object] | None = None,
    ) -> MetaRun:
        """Make the next run: train an optimizee from its start, and take a meta-step after each truncation.

        Raises ``Diverged`` where this and the 19 runs before met a loss, or nothing but meta-gradients, that were not
        finite.
        """
        number, options = self.next_run, self.options
        generator = torch.Generator().manual_seed(streams(run_seed(options.seed, number), 3)[2])
        horizon = _horizon(options.horizon, generator)
        optimizee, parameters = self._start(run_seed(options.seed, number))
        scaling = None
        if options.scaling:
            spread = torch.rand(len(parameters), generator=generator, dtype=parameters.values.dtype)
            scaling = spread.mul_(2).sub_(1).mul_(options.scaling).exp_()
        for group in self.meta_optimizer.param_groups:
            group["lr"] = self._lr(number)
        losses: list[float] = []
        deviations: list[float] = []
        taken, skipped, lost = 0, 0, False
        with self._one_core():
            unroll = Unroll(
                optimizee,
                parameters,
                self.network.initial_state(len(parameters)),
                self._tape(len(parameters)),
                self._meta_loss_of(optimizee, parameters),
                scaling=scaling,
            )
            with watch(number, optimizee, unroll) if watch else nullcontext(None) as on_step:
                unroll.on_step = on_step
                while len(losses) < horizon and not lost:
                    truncation = unroll.truncate(
                        KernelWeights.of(self.network), min(options.unroll, horizon - len(losses))
                    )
                    losses += truncation.losses
                    deviations += truncation.deviations
                    lost = truncation.gradient is None
                    if self._meta_step(truncation):
                        taken += 1
                        if on_meta_step is not None:
                            on_meta_step(truncation)
                    else:
                        skipped += 1
        self.next_run += 1
        self.skipped += skipped
        self.run_losses.append(math.fsum(losses) / len(losses))
        self.lost_in_a_row = self.lost_in_a_row + 1 if lost or not taken else 0
        if self.lost_in_a_row >= MAX_LOST_RUNS:
            raise Diverged(
                f"meta-training diverged: the last {MAX_LOST_RUNS} runs all met a loss or gradient that was not finite;"
                " try a lower lr, a smaller clip, or a shorter horizon"
            )
        deviation = math.fsum(deviations) / len(deviations) if deviations else math.nan
        return MetaRun(number, len(losses), self.run_losses[-1], losses[-1], deviation, skipped, lost)

    def select(self) -> Epoch:
        """Try the network on the held-out seeds, and keep its weights if no epoch before was as good.

        The loss is the mean over ``selection_seeds`` runs and the first ``selection_steps`` steps of each, plus β times
        that of the regularizer; inf where one is not finite.
        """
        options = self.options
        weights = KernelWeights.of(self.network)
        with self._one_core():
            losses = [
                self._selection_loss(seed, weights) for seed in held_out_seeds(options.seed, options.selection_seeds)
            ]
        loss = math.fsum(losses) / len(losses)
        number = len(self.selection_losses)
        self.selection_losses.append(loss)
        if better := loss < self.best.loss:
            copied = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}
            self.best = Best(loss, number, copied)
        return Epoch(number, self.training_loss(number), loss, better, self.skipped)

    def training_loss(self, epoch: int) -> float:
        """The mean of the mean losses of an epoch's runs; epochs with runs are numbered from 1 on."""
        losses = self.run_losses[(epoch - 1) * self.options.runs : epoch * self.options.runs] if epoch else []
        return math.fsum(losses) / len(losses) if losses else math.nan

    def best_network(self) -> CoordinatewiseLSTM:
        """A network with the weights that did best on the held-out seeds.

        Raises ``Diverged`` where none gave a finite loss.
        """
        if not self.best.weights:
            raise Diverged(
                "no weights gave a finite loss on the held-out seeds: there is nothing to keep; try a lower lr"
            )
        network = deepcopy(self.network)
        network.load_state_dict(self.best.weights)
        return network

    def state_dict(self) -> dict[str, Any]:
        """Everything that going on needs, as tensors, numbers and texts."""
        return {
            "network": self.network.state_dict(),
            "meta_optimizer": self.meta_optimizer.state_dict(),
            "next_run": self.next_run,
            "meta_steps": self.meta_steps,
            "skipped": self.skipped,
            "lost_in_a_row": self.lost_in_a_row,
            "run_losses": list(self.run_losses),
            "selection_losses": list(self.selection_losses),
            "best": {"loss": self.best.loss, "epoch": self.best.epoch, "weights": self.best.weights},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where ``state_dict`` was called."""
        self.network.load_state_dict(state["network"])
        self.meta_optimizer.load_state_dict(state["meta_optimizer"])
        self.next_run = state["next_run"]
        self.meta_steps = state["meta_steps"]
        self.skipped = state["skipped"]
        self.lost_in_a_row = state["lost_in_a_row"]
        self.run_losses = list(state["run_losses"])
        self.selection_losses = list(state["selection_losses"])
        self.best = Best(**state["best"])

    def _meta_step(self, truncation: Truncation) -> bool:
        """Whether Adam took a step; it does not where the gradient is not finite."""
        if truncation.gradient is None:
            return False
        for name, parameter in self.network.named_parameters():
            parameter.grad = truncation.gradient[name]
        limit = self.options.clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), limit)
        if not math.isfinite(norm.item()):
            return False
        self.meta_optimizer.step()
        self.meta_steps += 1
        return True

    def _lr(self, number: int) -> float:
        if self.options.decay == "none":
            return self.options.lr
        return self.options.lr * (1 + math.cos(math.pi * number / self.n_runs)) / 2

    def _start(self, seed: int) -> tuple[Optimizee, FlatParameters]:
        optimizee = self.problem.start(seed)
        return optimizee, FlatParameters(optimizee.model)

    def _tape(self, n: int) -> Tape:
        if n not in self._tapes:
            self._tapes = {
                n: Tape(
                    KernelWeights.of(self.network),
                    n,
                    self.options.unroll,
                    keep=self.options.keep,  # type: ignore[arg-type]
                    threads=self._threads,
                )
            }
        return self._tapes[n]

    def _regularizer(self, optimizee: Optimizee, parameters: FlatParameters) -> Regularizer | None:
        options = self.options
        if options.regularizer == "none":
            return None
        return Regularizer(options.regularizer, optimizee.symmetries, parameters, form=options.regularizer_form)

    def _meta_loss_of(self, optimizee: Optimizee, parameters: FlatParameters) -> MetaLoss:
        options = self.options
        return MetaLoss(
            log=options.loss == "log",
            cap=options.loss_cap or math.inf,
            regularizer=self._regularizer(optimizee, parameters),
            beta=options.beta,
        )

    def _selection_loss(self, seed: int, weights: KernelWeights) -> float:
        optimizee, parameters = self._start(seed)
        regularizer = self._regularizer(optimizee, parameters)
        state = self.network.initial_state(len(parameters))
        total = 0.0
        for _ in range(self.options.selection_steps):
            parameters.gradients.zero_()
            loss = optimizee.loss(next(optimizee.batches))
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
            if not math.isfinite(total):
                return math.inf
            updates = kernel.advance(weights, parameters.gradients, state, threads=self._threads)
            if regularizer is not None:
                total += self.options.beta * regularizer(parameters.values, updates).item()
            parameters.values.add_(updates)
        return total / self.options.selection_steps if math.isfinite(total) else math.inf

    @contextmanager
    def _one_core(self) -> Iterator[None]:
        """Within it, torch's operations run on one core each: the optimizee's are too small to share out."""
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(self._threads)


def _first_network(options: MetaTrainingOptions) -> CoordinatewiseLSTM:
    """The network that meta-training starts with: fresh weights by the seed, or those that it is told."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(streams(options.seed, 1)[0])
        network = CoordinatewiseLSTM(
            preprocess=options.preprocess, hidden=options.units, output_scale=options.output_scale
        )
    if options.init:
        given = choose_weights(options.init).network
        for name in ("preprocess", "hidden", "output_scale"):
            if getattr(given, name) != getattr(network, name):
                options.refuse(
                    "init", options.init, f"its {name} is {getattr(given, name)}, not {getattr(network, name)}"
                )
        network.load_state_dict(given.state_dict())
    return network


def _horizon(horizon: tuple[int, ...], generator: torch.Generator) -> int:
    """The number of steps of a run: constant, or log-uniform between both ends."""
    if len(horizon) == 1:
        return horizon[0]
    low, high = map(math.log, horizon)
    return round(math.exp(low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()))
