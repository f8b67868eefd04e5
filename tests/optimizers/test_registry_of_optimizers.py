"""Optimizers by name."""

import pytest
import torch

from trajectory_tools.errors import BadArgument, UnknownName
from trajectory_tools.optimizers import OPTIMIZERS, make_optimizer, optimizer_options
from trajectory_tools.optimizers.lion import Lion
from trajectory_tools.optimizers.lion_sgd import LionSGD

CLASSES = {
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "lion": Lion,
    "lion-sgd": LionSGD,
}


def parameter():
    return torch.ones(2, requires_grad=True)


def test_all_of_them():
    assert list(OPTIMIZERS) == [*CLASSES, "l2o"]  # which has tests of its own, in tests/l2o


@pytest.mark.parametrize("name", CLASSES)
def test_options_reach_the_optimizer(name):
    optimizer = make_optimizer(name, [parameter()])
    assert type(optimizer) is CLASSES[name]
    for option in optimizer_options(name):
        assert optimizer.param_groups[0][option.name] == option.default
    assert make_optimizer(name, [parameter()], lr="0.25").param_groups[0]["lr"] == 0.25


def test_defaults_of_the_class_and_of_the_registry_are_the_same():
    for name in ("lion", "lion-sgd"):
        assert CLASSES[name]([parameter()]).defaults == make_optimizer(name, [parameter()]).defaults


def test_unknown_names():
    with pytest.raises(UnknownName, match="unknown optimizer 'adamm'; did you mean adam"):
        make_optimizer("adamm", [parameter()])
    with pytest.raises(UnknownName, match="unknown optimizer"):
        optimizer_options("newton")
    with pytest.raises(UnknownName, match="unknown option of sgd: 'momentun'; did you mean momentum"):
        make_optimizer("sgd", [parameter()], momentun=0.9)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sgd", {"lr": -0.1}),
        ("sgd", {"momentum": 1}),
        ("sgd", {"nesterov": True}),
        ("adam", {"betas": (0.9, 2)}),
        ("adam", {"eps": 0}),
        ("rmsprop", {"alpha": -1}),
        ("adamw", {"weight_decay": "much"}),
        ("lion-sgd", {"mix": -0.5}),
    ],
)
def test_bad_values_say_which_and_what_to_give(name, options):
    with pytest.raises(BadArgument, match=rf"^{name}: \w+ is .*; .*(give|needs)"):
        make_optimizer(name, [parameter()], **options)
