"""The declared figures fit together, and the problems have what they ask for."""

from __future__ import annotations

import pytest

from trajectory_tools.experiments.study import FIGURES
from trajectory_tools.experiments.study.design import MetaTrained
from trajectory_tools.optimizers import OPTIMIZERS
from trajectory_tools.problems.mlp import MLP

SETTINGS = [(figure, setting) for figure in FIGURES.values() for setting in figure.settings]


@pytest.mark.parametrize(("figure", "setting"), SETTINGS, ids=lambda one: getattr(one, "name", getattr(one, "key", "")))
def test_a_setting_has_what_its_claims_and_columns_name(figure, setting):
    curves = [curve.label for curve in setting.curves]
    columns = [column.name for column in setting.columns]
    assert len(set(curves)) == len(curves)
    assert len(set(columns)) == len(columns)
    for claim in setting.claims:
        assert {number.curve for number in claim.numbers} <= set(curves)
        assert {number.column for number in claim.numbers} <= set(columns)
    for column in setting.columns:
        assert set(column.paper) <= set(curves)
        assert 1 <= column.reading.first <= column.reading.last <= figure.iterations
        if column.reading.metric != "loss" and figure.at:
            within = [i for i in figure.at if column.reading.first <= i <= column.reading.last]
            assert within, f"no tensors are recorded for {column.name}"
        if column.reading.metric in ("tail_index", "covariance"):
            probed = [i + 1 for i in figure.probing.at if column.reading.first <= i + 1 <= column.reading.last]
            assert len(probed) >= 3, f"few probes are taken for {column.name}"
            assert max(figure.probing.at) < figure.iterations
    problem = setting.make("digits", None)
    if isinstance(problem, MLP) and setting.symmetry:
        kinds = [group.kind for group in problem.symmetries()]
        assert kinds.count(setting.symmetry) == 1, "a reading takes the one group of its kind"
    for curve in setting.curves:
        options = dict(curve.options) | ({"lr": 0.1} if curve.tuned else {})
        OPTIMIZERS[curve.optimizer].make(options)


def test_the_settings_are_those_of_the_study():
    assert list(FIGURES) == ["fig4", "fig5", "fig7", "fig8", "fig9", "learning-curves"]
    left, right = FIGURES["fig4"].settings
    assert left.make("mnist", "x").options() | {"data_dir": ""} == {
        "hidden": [20],
        "activation": "leaky_relu",
        "batch_norm": False,
        "batch_size": 128,
        "data_dir": "",
        "download": False,
    }
    assert (right.options, right.symmetry) == ({"activation": "relu", "batch_norm": True}, "scale")
    assert {curve.label: curve.options["mix"] for curve in FIGURES["fig7"].settings[0].curves} == {
        "Lion": 1,
        "λ = 0.5": 0.5,
        "λ = 0.25": 0.25,
        "λ = 0.1": 0.1,
        "SGD": 0,
    }
    assert [column.reading.first for column in FIGURES["fig9"].settings[0].columns[:6]] == [1, 5, 10, 30, 100, 500]
    assert (FIGURES["fig9"].save, FIGURES["fig9"].at) == (("update",), (1, 5, 10, 30, 100, 500))
    assert {name: figure.seeds for name, figure in FIGURES.items() if figure.seeds != 3} == {"learning-curves": 10}


def test_names_and_commands_of_weights():
    regularized = MetaTrained("relu", True, "scale", 0.5)
    assert regularized.name("mnist") == "mnist-mlp-relu-batch_norm-scale-beta0.5"
    assert (
        MetaTrained("leaky_relu", regularizer="rescale", beta=1).name("digits") == "digits-mlp-leaky_relu-rescale-beta1"
    )
    assert MetaTrained().name("digits") == "digits-mlp-sigmoid"
    assert regularized.command("mnist") == (
        "traj meta-train mnist-mlp --activation relu --batch-norm --regularizer scale --beta 0.5 --data-dir DIR"
        " -o mnist-mlp-relu-batch_norm-scale-beta0.5.safetensors"
    )
    needed = {name: [one.name("digits") for one in figure.weights()] for name, figure in FIGURES.items()}
    assert needed["fig7"] == []
    assert needed["fig8"] == ["digits-mlp-leaky_relu"]
    assert needed["fig9"] == needed["learning-curves"] == ["digits-mlp-sigmoid"]
    assert needed["fig4"] == ["digits-mlp-leaky_relu", "digits-mlp-relu-batch_norm"]
    assert needed["fig5"] == [
        f"digits-mlp-{network}{end}"
        for network, symmetry in (("leaky_relu", "rescale"), ("relu-batch_norm", "scale"))
        for end in ("", f"-{symmetry}-beta0.1", f"-{symmetry}-beta0.5", f"-{symmetry}-beta1")
    ]


def test_the_command_that_makes_weights_is_one():
    from trajectory_tools.l2o.options import MetaTrainingOptions

    words = MetaTrained("relu", True, "scale", 0.5).command("digits").split()
    given = {word[2:].replace("-", "_") for word in words if word.startswith("--")}
    known = {option.name for option in (*MetaTrainingOptions.listing(), *MLP.listing())}
    assert given <= known
