"""The regularizers say what the symmetry metric computes from the recorded run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import trajectory_tools as tt
from trajectory_tools.errors import MissingData, UnknownName
from trajectory_tools.l2o.kernel import KernelWeights
from trajectory_tools.l2o.network import CoordinatewiseLSTM
from trajectory_tools.l2o.parameters import FlatParameters
from trajectory_tools.l2o.regularizers import Regularizer
from trajectory_tools.l2o.tape import Tape
from trajectory_tools.l2o.truncation import MetaLoss, Unroll
from trajectory_tools.problems import make_problem
from trajectory_tools.recorder import Recorder

STEPS = 6
PROBLEM = {"activation": "relu", "batch_norm": True, "hidden": (5, 4)}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[tuple[str, str], list[float]]]:
    """A recorded run of the learned optimizer, and what each regularizer said of each of its steps."""
    path = tmp_path_factory.mktemp("regularizers") / "run"
    said: dict[tuple[str, str], list[float]] = {}
    for kind in ("rescale", "scale", "translation", "mean", "norm"):
        for form in ("signed", "unit"):
            optimizee = make_problem("digits-mlp", **PROBLEM).start(7)
            parameters = FlatParameters(optimizee.model)
            torch.manual_seed(1)
            network = CoordinatewiseLSTM()
            weights = KernelWeights.of(network)
            regularizer = Regularizer(kind, optimizee.symmetries, parameters, form=form)
            unroll = Unroll(
                optimizee,
                parameters,
                network.initial_state(len(parameters)),
                Tape(weights, len(parameters), STEPS),
                MetaLoss(regularizer=regularizer, beta=1.0),
            )
            with Recorder(path, optimizee.model, unroll, symmetries=optimizee.symmetries, if_exists="replace"):
                said[kind, form] = list(unroll.truncate(weights, STEPS).deviations)
    return path, said


def units(path: Path, kind: str) -> np.ndarray:
    """⟨v, ξ_j⟩ of the update by the metric: (steps, all generators of that kind)."""
    frame = tt.compute([tt.open_run(path)], "symmetry", units="all")
    chosen = frame[(frame.kind == "update") & (frame.quantity == "unit") & frame.group.str.startswith(kind)]
    return np.stack([rows.value.to_numpy() for _, rows in chosen.groupby("step")])


@pytest.mark.parametrize("kind", ["rescale", "scale", "translation"])
def test_each_kind_is_what_the_metric_computes_from_the_run(recorded, kind):
    path, said = recorded
    inner = units(path, kind)
    assert len(inner) == STEPS
    assert said[kind, "signed"] == pytest.approx(np.abs(inner.sum(axis=1)), rel=1e-4, abs=1e-7)
    assert said[kind, "unit"] == pytest.approx(np.abs(inner).sum(axis=1), rel=1e-5)


def test_where_a_kind_has_one_group_the_signed_form_is_the_metrics_deviation(recorded):
    path, said = recorded
    frame = tt.compute([tt.open_run(path)], "symmetry")
    chosen = frame[
        (frame.kind == "update") & (frame.quantity == "deviation") & frame.group.str.startswith("translation")
    ]
    assert chosen.group.nunique() == 1
    assert said["translation", "signed"] == pytest.approx(chosen.value.to_numpy(), rel=1e-4, abs=1e-7)


def test_the_mean_is_over_the_kinds_that_the_problem_has(recorded):
    _, said = recorded
    for form in ("signed", "unit"):
        each = [said[kind, form] for kind in ("rescale", "scale", "translation")]
        assert said["mean", form] == pytest.approx(np.mean(each, axis=0), rel=1e-5)


def test_the_norm_is_that_of_the_whole_update(recorded):
    path, said = recorded
    run = tt.open_run(path)
    total = sum((run.array("update", name) ** 2).reshape(STEPS, -1).sum(axis=1) for name in run.shapes)
    assert said["norm", "signed"] == said["norm", "unit"] == pytest.approx(np.sqrt(total), rel=1e-5)


def test_plain_sgd_breaks_none():
    optimizee = make_problem("digits-mlp", activation="leaky_relu").start(3)
    parameters = FlatParameters(optimizee.model)
    optimizee.loss(next(optimizee.batches)).backward()
    regularizer = Regularizer("mean", optimizee.symmetries, parameters, form="unit")
    adams = -parameters.gradients.sign()
    assert regularizer(parameters.values, adams) > 1
    assert regularizer(parameters.values, -parameters.gradients) < 1e-5


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        ("rescale", {}, "this one has translation; choose another regularizer"),
        ("scale", {"activation": "relu"}, "this one has rescale, translation"),
    ],
)
def test_a_problem_without_the_symmetry_is_refused(kind, options, says):
    optimizee = make_problem("digits-mlp", **options).start(0)
    with pytest.raises(MissingData, match=says):
        Regularizer(kind, optimizee.symmetries, FlatParameters(optimizee.model))


def test_a_problem_without_symmetries_has_no_mean():
    optimizee = make_problem("quadratic").start(0)
    with pytest.raises(MissingData, match="this one has none"):
        Regularizer("mean", optimizee.symmetries, FlatParameters(optimizee.model))


def test_unknown_names_are_refused():
    optimizee = make_problem("digits-mlp").start(0)
    parameters = FlatParameters(optimizee.model)
    with pytest.raises(UnknownName, match="did you mean translation"):
        Regularizer("translate", optimizee.symmetries, parameters)
    with pytest.raises(UnknownName, match="did you mean signed"):
        Regularizer("norm", optimizee.symmetries, parameters, form="sign")
