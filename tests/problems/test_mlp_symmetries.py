"""The symmetries that the perceptrons declare: exact along the parameters, and zero along them in the gradient."""

from itertools import product

import pytest
import torch

from trajectory_tools.problems import make_problem
from trajectory_tools.symmetry.groups import rescale, scale, translation

EXACT = {"rtol": 1e-11, "atol": 1e-11}  # float64
ARCHITECTURES = [
    {"hidden": hidden, "activation": activation, "batch_norm": batch_norm}
    for hidden, activation, batch_norm in product(
        [(), (6,), (6, 5)], ["sigmoid", "relu", "leaky_relu", "tanh"], [False, True]
    )
]


def in_float64(*, eps=None, **options):
    """Random weights throughout (γ = 1 and β = 0 would hide mistakes), the loss that they have, the symmetries."""
    optimizee = make_problem("digits-mlp", **options).start(3)
    model, (x, y) = optimizee.model.double(), next(optimizee.batches)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    for layer in model:
        if eps is not None and isinstance(layer, torch.nn.BatchNorm1d):
            layer.eps = eps
    return dict(model.named_parameters()), lambda: optimizee.loss((x.double(), y)), optimizee.symmetries


def along_units(values, axis, parameter):
    """One value for each unit, in a shape that multiplies the parameter."""
    return values.reshape([-1 if d == axis else 1 for d in range(parameter.ndim)])


def moved(group, parameters):
    """The parameters moved along a group, by another amount for each unit (or column): written for this test alone."""
    generator = torch.Generator().manual_seed(1)
    rho = 0.5 + 2 * torch.rand(group.units, generator=generator, dtype=torch.float64)
    new = {name: value.detach().clone() for name, value in parameters.items()}
    for name, axis in group.inputs:
        if group.kind == "translation":
            new[name] += torch.randn(new[name].shape[1:], generator=generator, dtype=torch.float64)
        else:
            new[name] *= along_units(rho, axis, new[name])
    for name, axis in group.outputs:
        new[name] /= along_units(rho, axis, new[name])
    return new


def loss_at(loss, parameters, values):
    with torch.no_grad():
        for name, value in values.items():
            parameters[name].copy_(value)
        return loss()


def constraints(group, parameters):
    """What the design says is 0 for the gradient: of each unit, or each column."""
    if group.kind == "translation":
        return torch.cat([parameters[name].grad.sum(axis).flatten() for name, axis in group.inputs])
    total = torch.zeros(group.units, dtype=torch.float64)
    for sign, axes in ((1, group.inputs), (-1, group.outputs)):
        for name, axis in axes:
            for unit in range(group.units):
                p = parameters[name]
                total[unit] += sign * (p.grad.select(axis, unit) * p.detach().select(axis, unit)).sum()
    return total


@pytest.mark.parametrize("options", ARCHITECTURES, ids=str)
def test_the_loss_does_not_change_along_any_declared_group(options):
    parameters, loss, symmetries = in_float64(eps=1e-20, **options)
    before = loss().detach()
    start = {name: value.detach().clone() for name, value in parameters.items()}
    for group in symmetries:
        new = moved(group, start)
        assert all(not torch.equal(new[name], start[name]) for name in group.names)
        torch.testing.assert_close(loss_at(loss, parameters, new), before, **EXACT)


@pytest.mark.parametrize("options", ARCHITECTURES, ids=str)
def test_the_gradient_is_zero_along_every_declared_group(options):
    parameters, loss, symmetries = in_float64(eps=1e-20, **options)
    loss().backward()
    for group in symmetries:
        values = constraints(group, parameters)
        torch.testing.assert_close(values, torch.zeros_like(values), **EXACT)


def test_eps_leaves_a_little_along_scale_only():
    parameters, loss, symmetries = in_float64(hidden=(6, 5), activation="relu", batch_norm=True)
    loss().backward()
    for group in symmetries:
        largest = constraints(group, parameters).abs().max()
        size = max(parameters[name].grad.abs().max() for name, _ in group.inputs)
        assert (0 < largest < 1e-4 * size) if group.kind == "scale" else (largest < 1e-11 * size)


@pytest.mark.parametrize(
    ("options", "group"),
    [
        ({"activation": "tanh"}, rescale([("0.weight", 0), ("0.bias", 0)], [("2.weight", 1)])),
        ({"activation": "sigmoid"}, rescale([("0.weight", 0), ("0.bias", 0)], [("2.weight", 1)])),
        ({"activation": "relu"}, rescale([("0.weight", 0)], [("2.weight", 1)])),  # the bias belongs to it
        ({"activation": "relu"}, scale([("0.weight", 0), ("0.bias", 0)])),
        (
            {"activation": "relu", "batch_norm": True},
            rescale([("0.weight", 0), ("0.bias", 0)], [("3.weight", 1)]),  # across batch normalization
        ),
        (
            {"activation": "tanh", "batch_norm": True},
            rescale([("1.weight", 0), ("1.bias", 0)], [("3.weight", 1)]),
        ),
        ({"activation": "relu"}, translation([("0.weight", 0), ("0.bias", 0)])),
    ],
)
def test_what_is_not_declared_does_not_hold(options, group):
    parameters, loss, symmetries = in_float64(eps=1e-20, **options)
    group = group.checked({name: value.shape for name, value in parameters.items()})
    assert group not in symmetries
    before = loss()
    before.backward()
    assert constraints(group, parameters).abs().max() > 1e-6
    assert (loss_at(loss, parameters, moved(group, parameters)) - before.detach()).abs() > 1e-4


def test_the_groups_in_full():
    def labels(**options):
        return [group.label for group in make_problem("digits-mlp", hidden=(6, 5), **options).start(0).symmetries]

    assert labels() == ["translation 4.weight+4.bias"]
    assert labels(activation="leaky_relu") == [
        "rescale 0.weight+0.bias → 2.weight",
        "rescale 2.weight+2.bias → 4.weight",
        "translation 4.weight+4.bias",
    ]
    assert labels(activation="relu", batch_norm=True) == [
        "scale 0.weight+0.bias",
        "rescale 1.weight+1.bias → 3.weight",
        "scale 3.weight+3.bias",
        "rescale 4.weight+4.bias → 6.weight",
        "translation 6.weight+6.bias",
    ]
    assert labels(batch_norm=True) == ["scale 0.weight+0.bias", "scale 3.weight+3.bias", "translation 6.weight+6.bias"]


def test_units_are_filled_in():
    symmetries = make_problem("digits-mlp", activation="relu").start(0).symmetries
    assert [group.units for group in symmetries] == [20, 10]
