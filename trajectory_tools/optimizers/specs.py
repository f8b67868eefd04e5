"""The options of each optimizer, listed and checked without torch.

The default learning rates are what tuning finds for the built-in perceptrons on digits and MNIST, rounded towards the
smaller (Adam's best were 0.01 to 0.1), so that a first run of some hundred steps learns; torch's defaults are for
longer runs. The quadratic needs a smaller one for SGD: 0.01.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, ClassVar, Self

from trajectory_tools.errors import BadArgument
from trajectory_tools.options import BELOW_ONE, NON_NEGATIVE, POSITIVE, UNIT, Options, option

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from trajectory_tools.problems.base import Problem

__all__ = [
    "SPECS",
    "AdamSpec",
    "AdamWSpec",
    "L2OSpec",
    "LionSGDSpec",
    "LionSpec",
    "OptimizerSpec",
    "RMSpropSpec",
    "SGDSpec",
]


def _lr(default: float) -> Any:
    return option(default, "learning rate", valid=NON_NEGATIVE)


def _momentum() -> Any:
    return option(0.0, "share of the last step's direction that is kept", valid=BELOW_ONE)


def _weight_decay(default: float, how: str) -> Any:
    return option(default, f"weight decay, {how}", valid=NON_NEGATIVE)


def _eps() -> Any:
    return option(1e-8, "added to the denominator", valid=POSITIVE)


@dataclass(frozen=True, kw_only=True)
class OptimizerSpec(Options):
    """An optimizer with its options, before it is given parameters; the options are its factory's arguments."""

    factory: ClassVar[str]

    def build(self, params: Iterable[Tensor] | Iterable[dict[str, Any]]) -> Optimizer:
        """The optimizer for these parameters, or parameter groups."""
        optimizer: Optimizer = resolve_name(self.factory)(params, **self.arguments())
        return optimizer

    def arguments(self) -> dict[str, Any]:
        """The options as the factory takes them."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}

    def fitted(self, problem: Problem) -> Self:
        """With what was left to the problem filled in."""
        return self

    def describe(self, optimizer: Optimizer) -> dict[str, Any]:
        """For run.json: the name, the options, and what else determines what ``optimizer``, built from this, does."""
        return {"name": self.name, "options": self.options()}


@dataclass(frozen=True, kw_only=True)
class SGDSpec(OptimizerSpec):
    """Stochastic gradient descent, with heavy-ball or Nesterov momentum where asked for (torch's)."""

    name: ClassVar[str] = "sgd"
    factory: ClassVar[str] = "torch.optim:SGD"
    lr: float = _lr(0.5)
    momentum: float = _momentum()
    nesterov: bool = option(False, "Nesterov's momentum")
    weight_decay: float = _weight_decay(0.0, "added to the gradient")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and not self.momentum:
            self.refuse("momentum", self.momentum, "nesterov needs a momentum above 0")


@dataclass(frozen=True, kw_only=True)
class RMSpropSpec(OptimizerSpec):
    """Gradients divided by a running root mean square (Tieleman & Hinton 2012; torch's)."""

    name: ClassVar[str] = "rmsprop"
    factory: ClassVar[str] = "torch.optim:RMSprop"
    lr: float = _lr(0.01)
    alpha: float = option(0.99, "decay of the mean square", valid=BELOW_ONE)
    eps: float = _eps()
    momentum: float = _momentum()
    weight_decay: float = _weight_decay(0.0, "added to the gradient")


@dataclass(frozen=True, kw_only=True)
class AdamSpec(OptimizerSpec):
    """Adam (Kingma & Ba 2015, arXiv 1412.6980; torch's)."""

    name: ClassVar[str] = "adam"
    factory: ClassVar[str] = "torch.optim:Adam"
    lr: float = _lr(0.01)
    betas: tuple[float, float] = option((0.9, 0.999), "decays of the mean and the mean square", valid=BELOW_ONE)
    eps: float = _eps()
    weight_decay: float = _weight_decay(0.0, "added to the gradient")


@dataclass(frozen=True, kw_only=True)
class AdamWSpec(AdamSpec):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv 1711.05101; torch's)."""

    name: ClassVar[str] = "adamw"
    factory: ClassVar[str] = "torch.optim:AdamW"
    weight_decay: float = _weight_decay(0.01, "decoupled")


@dataclass(frozen=True, kw_only=True)
class LionSpec(OptimizerSpec):
    """Lion: the sign of an interpolated momentum (Chen et al. 2023, arXiv 2302.06675)."""

    name: ClassVar[str] = "lion"
    factory: ClassVar[str] = "trajectory_tools.optimizers.lion:Lion"
    lr: float = _lr(0.01)
    betas: tuple[float, float] = option((0.9, 0.99), "of the update's and of the momentum's mean", valid=BELOW_ONE)
    weight_decay: float = _weight_decay(0.0, "decoupled")


@dataclass(frozen=True, kw_only=True)
class LionSGDSpec(SGDSpec):
    """(1 − λ) times SGD's update plus λ times Lion's, each with its own state (Sobotka et al. 2023)."""

    name: ClassVar[str] = "lion-sgd"
    factory: ClassVar[str] = "trajectory_tools.optimizers.lion_sgd:LionSGD"
    lion_lr: float = option(0.01, "Lion's learning rate (lr is SGD's)", valid=NON_NEGATIVE)
    betas: tuple[float, float] = option((0.9, 0.99), "Lion's", valid=BELOW_ONE)
    mix: float = option(0.5, "λ, Lion's share of the update", valid=UNIT)
    weight_decay: float = _weight_decay(0.0, "SGD's and Lion's, each in its own way")


@dataclass(frozen=True, kw_only=True)
class L2OSpec(OptimizerSpec):
    """The learned optimizer: an LSTM makes the updates (Andrychowicz et al. 2016, arXiv 1606.04474)."""

    name: ClassVar[str] = "l2o"
    factory: ClassVar[str] = "trajectory_tools.l2o.optimizer:LearnedOptimizer"
    weights: str = option("auto", "a file, or the name of shipped weights; auto: those nearest to the problem")

    @classmethod
    def make(cls, options: Mapping[str, Any]) -> Self:
        """The entry with these options."""
        if "lr" in options:
            raise BadArgument("l2o has no learning rate: the sizes of its steps are learned; leave lr out")
        return super().make(options)

    def arguments(self) -> dict[str, Any]:
        """The weights as ``LearnedOptimizer`` takes them."""
        return {"weights": None if self.weights == "auto" else self.weights}

    def fitted(self, problem: Problem) -> Self:
        """With the name of the shipped weights in the place of ``auto``; ``MissingData`` where there are none."""
        from trajectory_tools.l2o.choice import fitting_weights

        return replace(self, weights=fitting_weights(problem)) if self.weights == "auto" else self

    def describe(self, optimizer: Optimizer) -> dict[str, Any]:
        """The name, the options, and the weights: their name, sha256 and card."""
        from trajectory_tools.l2o.optimizer import LearnedOptimizer

        assert isinstance(optimizer, LearnedOptimizer)
        return {**super().describe(optimizer), "weights": optimizer.weights.to_json()}


SPECS: tuple[type[OptimizerSpec], ...] = (SGDSpec, RMSpropSpec, AdamSpec, AdamWSpec, LionSpec, LionSGDSpec, L2OSpec)
