"""Numbers read from tidy frames."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from trajectory_tools.errors import MissingData
from trajectory_tools.experiments.study.reading import Reading


def frame(**columns) -> pd.DataFrame:
    """Two labels with two seeds over steps 0 to 9; the value is 100 label + 10 seed + step."""
    rows = [
        {"label": label, "seed": str(seed), "step": step, "value": float(100 * i + 10 * seed + step), **columns}
        for i, label in enumerate(("a", "b"))
        for seed in range(2)
        for step in range(10)
    ]
    return pd.DataFrame(rows).astype({"label": "category", "seed": "category"})


def test_iterations_are_counted_from_1():
    read = Reading("loss", "loss", 1, 1).of(frame(quantity="loss"))
    assert read.to_dict() == {("a", 0): 0, ("a", 1): 10, ("b", 0): 100, ("b", 1): 110}
    assert Reading("loss", "loss", 10, 10).of(frame(quantity="loss"))["b", 1] == 119


def test_mean_and_greatest_over_the_recorded_iterations():
    loss = frame(quantity="loss")
    assert Reading("loss", "loss", 3, 5).of(loss)["a", 1] == np.mean([12, 13, 14])
    assert Reading("loss", "loss", 3, 5, take="max").of(loss)["a", 1] == 14
    assert Reading("loss", "loss", 8, 99).of(loss[loss["step"] != 8])["a", 0] == np.mean([7, 9])


def test_only_the_quantity_kind_symmetry_and_whole_network_count():
    wanted = {"quantity": "max", "kind": "update", "group": "rescale 0.weight → 2.weight", "parameter": "(all)"}
    others = [
        frame(**{**wanted, name: value}).assign(value=1e9)
        for name, value in {
            "quantity": "count",
            "kind": "grad",
            "group": "translation 2.weight",
            "parameter": "0.weight",
        }.items()
    ]
    mixed = pd.concat([*others[:2], frame(**wanted), *others[2:]])
    read = Reading("any", "max", 2, 2, "update", "rescale").of(mixed)
    assert read.to_dict() == {("a", 0): 1, ("a", 1): 11, ("b", 0): 101, ("b", 1): 111}


@pytest.mark.parametrize("take", ["mean", "max"])
def test_nan_stays_nan(take):
    loss = frame(quantity="loss")
    loss.loc[(loss["label"] == "a") & (loss["seed"] == "0") & (loss["step"] == 4), "value"] = np.nan
    read = Reading("loss", "loss", 1, 10, take=take).of(loss)
    assert np.isnan(read["a", 0])
    assert read.drop(("a", 0)).notna().all()


def test_what_was_not_recorded_is_said():
    with pytest.raises(MissingData, match=r"no share of the update, mean of iterations 11-12 in these runs"):
        Reading("symmetry", "share", 11, 12, "update").of(frame(quantity="share", kind="update"))


def test_a_reading_says_what_it_is():
    assert str(Reading("symmetry", "deviation", 91, 100, "update", "rescale")) == (
        "rescale deviation of the update, mean of iterations 91-100"
    )
    assert str(Reading("histogram", "max", 5, 5, "update")) == "max of the update, iteration 5"
    assert str(Reading("symmetry", "deviation", 1, 9, take="max")) == "deviation, greatest of iterations 1-9"
