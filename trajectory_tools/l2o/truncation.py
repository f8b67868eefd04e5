"""Meta-gradients by exact truncated back-propagation through the learned optimizer's steps.

The optimizee's gradients enter the network detached (no second derivatives). So within a truncation of T steps
θ_t = θ_0 + Σ_{s<t} u_s, and for its meta-loss, taken at the parameters after each step, M = Σ_{t=1..T} f_t(θ_t),

    dM / du_s = Σ_{t>s} ∇f_t(θ_t)

These are sums of the gradients that the run meets anyway: the optimizee's graph is never kept, and there is one
backward pass through the network for a truncation (Andrychowicz et al. 2016, arXiv 1606.04474, section 2.1, drop the
second derivatives in the same way).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trajectory_tools.l2o.kernel import KernelWeights
from trajectory_tools.l2o.network import LSTMState
from trajectory_tools.l2o.parameters import FlatParameters
from trajectory_tools.l2o.regularizers import Regularizer
from trajectory_tools.l2o.tape import Tape
from trajectory_tools.problems.base import Optimizee

__all__ = ["MetaLoss", "Truncation", "Unroll"]


@dataclass(frozen=True)
class MetaLoss:
    """What a truncation is to make small.

    S = Σ_{t=1..T} (min(f_t(θ_t), cap) + β r(θ_{t−1}, u_{t−1})), or log S with ``log``. f_t is the loss of step t's
    mini-batch, r the regularizer of the step that led to θ_t. The cap counts as a constant: no gradient beyond it.
    """

    log: bool = True
    cap: float = math.inf
    regularizer: Regularizer | None = None
    beta: float = 0.0


@dataclass(frozen=True)
class Truncation:
    """What one truncation gave: the losses f_1..f_T, what the regularizer said of each step, and the meta-loss.

    ``gradient``: that of the network's parameters, by name; None where a loss was not finite: the run is then over.
    """

    losses: tuple[float, ...]
    deviations: tuple[float, ...]
    meta_loss: float
    gradient: dict[str, Tensor] | None


class Unroll(torch.optim.Optimizer):
    """The learned optimizer in a run that it is meta-trained on; it trains ``optimizee``, truncation by truncation.

    As a torch optimizer its steps can be recorded, like any other's. Takes one mini-batch for each step, and one more.

    Args:
        optimizee: what is trained; its parameters move into one vector.
        state: the network's state for each coordinate, at first.
        tape: what a truncation is kept on; it may be used by one run after another.
        meta_loss: what is to become small; its regularizer is that of this optimizee.
        scaling: (n,) factors c, or None. Training goes on in φ = θ / c: the network sees c · ∇f and θ moves by c · u.
        on_step: called with the loss f_{t} (before the update) after each step.

    Random scaling of coordinates is Lv et al. 2017 (arXiv 1703.03633, section 4.1).
    """

    def __init__(
        self,
        optimizee: Optimizee,
        parameters: FlatParameters,
        state: LSTMState,
        tape: Tape,
        meta_loss: MetaLoss,
        *,
        scaling: Tensor | None = None,
        on_step: Callable[[float], object] | None = None,
    ) -> None:
        super().__init__(parameters.parameters.values(), {})
        self.parameters = parameters
        self.on_step = on_step
        self.loss = math.nan
        self._optimizee = optimizee
        self._lstm_state = state
        self._tape = tape
        self._meta_loss = meta_loss
        self._scaling = scaling
        self._gradients = parameters.values.new_empty(tape.unroll, len(parameters))
        self._of_updates = torch.empty_like(self._gradients)
        self._evaluate()

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update the optimizee by the network's output for its gradient; a closure is not used."""
        gradients = self.parameters.gradients
        updates = self._tape.advance(gradients if self._scaling is None else gradients * self._scaling)
        if self._scaling is not None:
            updates.mul_(self._scaling)
        self.updates = updates
        self.parameters.values.add_(updates)

    def truncate(self, weights: KernelWeights, n_steps: int) -> Truncation:
        """Train for so many steps with these weights, and return the gradient of the weights.

        It ends early, without a gradient, where a loss is not finite.
        """
        self._tape.begin(weights, self._lstm_state)
        losses: list[float] = []
        deviations: list[float] = []
        of_values = []
        for step in range(n_steps):
            before, values = self.loss, None
            if self._meta_loss.regularizer is not None:
                values = self.parameters.values.clone()
            self.step()
            if self._meta_loss.regularizer is not None and values is not None:
                found, of_value, self._of_updates[step] = self._meta_loss.regularizer.with_gradients(
                    values, self.updates
                )
                deviations.append(found)
                of_values.append(of_value)
            self._evaluate()
            if self.on_step is not None:
                self.on_step(before)
            losses.append(self.loss)
            if not math.isfinite(self.loss):
                return Truncation(tuple(losses), tuple(deviations), math.nan, None)
            self._gradients[step] = self.parameters.gradients
        self._lstm_state = self._tape.state()
        return self._differentiated(losses, deviations, of_values)

    def _differentiated(self, losses: list[float], deviations: list[float], of_values: list[Tensor]) -> Truncation:
        objective, n_steps = self._meta_loss, len(losses)
        total = math.fsum(min(loss, objective.cap) for loss in losses) + objective.beta * math.fsum(deviations)
        factor = 1 / total if objective.log else 1.0
        of_updates = self._of_updates[:n_steps]
        of_updates.mul_(objective.beta) if deviations else of_updates.zero_()
        later = torch.zeros_like(of_updates[0])  # Σ over the terms that u_s moves through θ
        for step in reversed(range(n_steps)):
            if losses[step] <= objective.cap:
                later.add_(self._gradients[step])
            of_updates[step].add_(later)
            if of_values:
                later.add_(of_values[step], alpha=objective.beta)
        of_updates.mul_(factor if self._scaling is None else self._scaling * factor)
        gradient = self._tape.backward(of_updates).unpacked()
        return Truncation(tuple(losses), tuple(deviations), math.log(total) if objective.log else total, gradient)

    def _evaluate(self) -> None:
        """The loss of the next mini-batch and its gradient, at the parameters as they are."""
        self.parameters.gradients.zero_()
        loss = self._optimizee.loss(next(self._optimizee.batches))
        loss.backward()  # type: ignore[no-untyped-call]
        self.loss = loss.item()
