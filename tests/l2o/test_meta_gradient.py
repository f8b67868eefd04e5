"""Meta-gradients against autograd through everything."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

import pytest
import torch
from naive import Cells, Params, meta_loss, unit_deviations, zero_states
from torch import Tensor, nn
from torch.func import functional_call

from trajectory_tools.l2o.kernel import KernelWeights
from trajectory_tools.l2o.network import CoordinatewiseLSTM
from trajectory_tools.l2o.parameters import FlatParameters
from trajectory_tools.l2o.regularizers import Regularizer
from trajectory_tools.l2o.tape import Tape
from trajectory_tools.l2o.truncation import MetaLoss, Truncation, Unroll
from trajectory_tools.problems import Optimizee
from trajectory_tools.symmetry import SymmetryGroup, rescale, scale, translation

UNROLLS = (5, 5, 3)
LEAKY = nn.Sequential(nn.Linear(6, 4), nn.LeakyReLU(), nn.Linear(4, 3))
BATCH_NORM = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.ReLU(), nn.Linear(4, 3))
OF_LEAKY = (
    rescale([("0.weight", 0), ("0.bias", 0)], [("2.weight", 1)]),
    translation([("2.weight", 0), ("2.bias", 0)]),
)
OF_BATCH_NORM = (
    scale([("0.weight", 0), ("0.bias", 0)]),
    rescale([("1.weight", 0), ("1.bias", 0)], [("3.weight", 1)]),
    translation([("3.weight", 0), ("3.bias", 0)]),
)


class Setting:
    """One optimizee in float64, in two copies: for the fast way and for the naive one."""

    def __init__(self, model: nn.Sequential, groups: Sequence[SymmetryGroup], *, preprocess: bool) -> None:
        torch.manual_seed(3)
        self.model = model.double()
        for layer in self.model:
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
        self.groups = tuple(group.checked({n: p.shape for n, p in self.model.named_parameters()}) for group in groups)
        self.batches = [(torch.randn(9, 6).double(), torch.randint(3, (9,))) for _ in range(sum(UNROLLS) + 1)]
        self.start = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        self.network = CoordinatewiseLSTM(preprocess=preprocess).double()
        with torch.no_grad():  # larger than at first, so that the losses change and the gates saturate
            for parameter in self.network.parameters():
                parameter.mul_(3)
        self.cells = Cells(self.network.n_inputs).double()
        self.cells.load_state_dict(self.network.state_dict())

    def loss(self, params: Params, step: int) -> Tensor:
        x, y = self.batches[step]
        logits = functional_call(self.model, dict(params), (x,))
        return nn.functional.cross_entropy(logits, y)

    def optimizee(self) -> Optimizee:
        def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
            return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

        return Optimizee(self.model, iter(self.batches), loss, self.groups, "synthetic")

    def fast(self, scaling: Params | None, keep: str, **meta: Any) -> list[Truncation]:
        optimizee = self.optimizee()
        parameters = FlatParameters(optimizee.model)
        weights = KernelWeights.of(self.network)
        kind, form = meta.pop("regularizer", (None, "signed"))
        regularizer = None if kind is None else Regularizer(kind, self.groups, parameters, form=form)
        unroll = Unroll(
            optimizee,
            parameters,
            self.network.initial_state(len(parameters)),
            Tape(weights, len(parameters), max(UNROLLS), keep=keep),
            MetaLoss(regularizer=regularizer, **meta),
            scaling=None if scaling is None else torch.cat([scaling[name].flatten() for name in self.start]),
        )
        return [unroll.truncate(weights, n_steps) for n_steps in UNROLLS]

    def naive(self, **options: Any) -> Iterator[tuple[float, dict[str, Tensor]]]:
        params: Params = self.start
        states = zero_states(params)
        first = 0
        for n_steps in UNROLLS:
            self.cells.zero_grad()
            loss, params = meta_loss(self.cells, params, self.loss, n_steps, states=states, first=first, **options)
            loss.backward()
            yield loss.item(), {name: p.grad.clone() for name, p in self.cells.named_parameters() if p.grad is not None}
            params = {name: value.detach() for name, value in params.items()}
            for name, ((h1, c1), (h2, c2)) in states.items():
                states[name] = [(h1.detach(), c1.detach()), (h2.detach(), c2.detach())]
            first += n_steps


def penalty(groups: Sequence[SymmetryGroup], kind: str, form: str, beta: float) -> Callable[[Params, Params], Tensor]:
    def signed(units: list[Tensor]) -> Tensor:
        return torch.stack(units).sum().abs()

    def unit(units: list[Tensor]) -> Tensor:
        return torch.stack(units).abs().sum()

    def added(theta: Params, updates: Params) -> Tensor:
        if kind == "norm":
            return beta * torch.cat([u.flatten() for u in updates.values()]).norm()
        found = unit_deviations(groups, theta, updates)
        each = [(signed if form == "signed" else unit)(found[one]) for one in (found if kind == "mean" else [kind])]
        return beta * torch.stack(each).mean()

    return added


def assert_same(fast: list[Truncation], naive: Iterator[tuple[float, dict[str, Tensor]]]) -> None:
    for truncation, (loss, gradients) in zip(fast, naive, strict=True):
        assert truncation.meta_loss == pytest.approx(loss, rel=1e-12)
        assert truncation.gradient is not None
        assert truncation.gradient.keys() == gradients.keys()
        for name, gradient in gradients.items():
            error = (truncation.gradient[name] - gradient).norm() / gradient.norm()
            assert error < 1e-9, (name, error)
            assert gradient.norm() > 0


@pytest.mark.parametrize("keep", ["all", "inputs"])
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(("model", "groups"), [(LEAKY, OF_LEAKY), (BATCH_NORM, OF_BATCH_NORM)], ids=["leaky", "bn"])
@pytest.mark.parametrize("preprocess", [True, False])
def test_every_truncation_has_autograds_meta_gradient(
    model: nn.Sequential, groups: Sequence[SymmetryGroup], preprocess: bool, log: bool, keep: str
) -> None:
    setting = Setting(model, groups, preprocess=preprocess)
    assert_same(setting.fast(None, keep, log=log), setting.naive(log=log))


@pytest.mark.parametrize("form", ["signed", "unit"])
@pytest.mark.parametrize("kind", ["rescale", "scale", "translation", "mean", "norm"])
@pytest.mark.parametrize("log", [False, True])
def test_regularizers_are_differentiated_through_updates_and_parameters(kind: str, form: str, log: bool) -> None:
    setting = Setting(BATCH_NORM, OF_BATCH_NORM, preprocess=True)
    fast = setting.fast(None, "all", log=log, regularizer=(kind, form), beta=0.7)
    assert_same(fast, setting.naive(log=log, penalty=penalty(setting.groups, kind, form, 0.7)))


@pytest.mark.parametrize("regularized", [False, True])
def test_with_scaled_coordinates_it_is_the_meta_gradient_of_the_scaled_problem(regularized: bool) -> None:
    setting = Setting(LEAKY, OF_LEAKY, preprocess=True)
    scaling = {name: torch.empty_like(value).uniform_(-1, 1).exp() for name, value in setting.start.items()}
    meta: dict[str, Any] = {"regularizer": ("mean", "unit"), "beta": 0.3} if regularized else {}
    added = penalty(setting.groups, "mean", "unit", 0.3) if regularized else None
    assert_same(
        setting.fast(scaling, "inputs", log=True, **meta), setting.naive(log=True, scaling=scaling, penalty=added)
    )


def test_a_loss_beyond_the_cap_counts_as_the_cap_and_has_no_gradient() -> None:
    setting = Setting(LEAKY, OF_LEAKY, preprocess=True)
    losses = sorted(loss for truncation in setting.fast(None, "all") for loss in truncation.losses)
    cap = losses[len(losses) // 2] + 1e-6
    setting = Setting(LEAKY, OF_LEAKY, preprocess=True)
    fast = setting.fast(None, "all", log=False, cap=cap)
    assert 0 < sum(loss > cap for t in fast for loss in t.losses) < sum(UNROLLS)
    assert_same(fast, setting.naive(log=False, cap=cap))


def test_a_loss_that_is_not_finite_ends_the_truncation_without_a_gradient() -> None:
    setting = Setting(LEAKY, OF_LEAKY, preprocess=True)
    inputs, labels = setting.batches[7]
    setting.batches[7] = (inputs * math.nan, labels)
    first, second, *_ = setting.fast(None, "all")
    assert first.gradient is not None
    assert second.gradient is None
    assert len(second.losses) == 2


def test_it_takes_one_mini_batch_for_each_step_and_one_more() -> None:
    setting = Setting(LEAKY, OF_LEAKY, preprocess=True)
    taken = count()
    batches = setting.batches
    optimizee = setting.optimizee()

    def counted() -> Iterator[Any]:
        for batch in batches:
            next(taken)
            yield batch

    object.__setattr__(optimizee, "batches", counted())
    setting.optimizee = lambda: optimizee  # type: ignore[method-assign]
    setting.fast(None, "all")
    assert next(taken) == sum(UNROLLS) + 1


def test_a_tapes_memory_is_what_it_says_and_bounded_unless_told() -> None:
    weights = KernelWeights.of(CoordinatewiseLSTM())
    tape = Tape(weights, 300, 20)
    storages = {
        value.untyped_storage().data_ptr(): value.untyped_storage().nbytes()
        for record in tape._records
        for value in vars(record).values()
    }
    assert sum(storages.values()) == pytest.approx(300 * 20 * (14 * 20 + 3) * 4, rel=0.15)
    assert tape.keep == "all"
    assert Tape(weights, 200_000, 20).keep == "inputs"
