"""From nothing to numbers: small figures, really recorded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import trajectory_tools as tt
from trajectory_tools.errors import BadArgument, MissingData, OutputExists, UnknownName
from trajectory_tools.experiments.study import FIGURES, Plan
from trajectory_tools.experiments.study.claims import Number, larger
from trajectory_tools.experiments.study.design import Column, Curve, MetaTrained, Setting, StudyFigure
from trajectory_tools.experiments.study.reading import Reading

STEPS = 6
SMALL = StudyFigure(
    "small",
    "A small figure",
    "nowhere",
    "about nothing",
    (
        Setting(
            "leaky",
            "leaky ReLU",
            {"activation": "leaky_relu"},
            (
                Curve("L2O", "l2o", weights=MetaTrained("leaky_relu")),
                Curve("Lion", "lion", {"lr": 0.01}),
                Curve("plain SGD", "sgd", {"lr": 0.5}),
            ),
            (
                Column("deviation", Reading("symmetry", "deviation", 3, STEPS, "update", "rescale"), {"Lion": "13"}),
                Column("largest", Reading("histogram", "max", STEPS, STEPS, "update")),
                Column("loss", Reading("loss", "loss", 1, STEPS)),
            ),
            (
                larger(Number("Lion", "deviation"), Number("plain SGD", "deviation"), factor=100),
                larger(Number("plain SGD", "deviation"), Number("Lion", "deviation"), paper="nobody says so"),
            ),
            symmetry="rescale",
        ),
    ),
    iterations=STEPS,
    shows=("deviation", "share", "loss"),
    at=(3, 5, STEPS),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, weights) -> Path:
    """The small figure, recorded with two seeds; not to be changed."""
    folder = tmp_path_factory.mktemp("small")
    Plan.make(SMALL, seeds=2, weights=weights).carry_out(folder)
    return folder


def without_l2o(figure: StudyFigure = SMALL, **changes) -> StudyFigure:
    """The figure without its learned optimizer, its setting changed."""
    setting = replace(figure.settings[0], curves=figure.settings[0].curves[1:], **changes)
    return replace(figure, settings=(setting,))


def test_what_is_recorded_is_what_is_declared(folder):
    assert [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("run.json"))] == [
        f"leaky/{curve}/seed-{seed}/run.json" for curve in ("l2o", "lion", "plain-sgd") for seed in (0, 1)
    ]
    run = tt.open_run(folder / "leaky/lion/seed-1")
    assert (run.label, run.seed, run.n_steps, run.steps.tolist()) == ("Lion", 1, STEPS, [2, 4, 5])
    assert run.metadata["problem"]["options"]["activation"] == "leaky_relu"


def test_the_numbers_are_those_of_the_runs(folder, weights):
    """A naive twin: from the arrays, one unit after the other."""
    result = Plan.make(SMALL, seeds=2, weights=weights).carry_out(folder).settings[0]
    for curve in ("L2O", "Lion", "plain SGD"):
        for seed in (0, 1):
            run = tt.open_run(folder / "leaky" / curve.lower().replace(" ", "-") / f"seed-{seed}")
            array = {
                (column, name): run.array(column, name).astype(float)
                for column in ("param", "update")
                for name in run.shapes
            }
            deviations = []
            for step in range(3):
                total = 0.0
                for unit in range(20):
                    total -= array["update", "0.weight"][step, unit] @ array["param", "0.weight"][step, unit]
                    total -= array["update", "0.bias"][step, unit] * array["param", "0.bias"][step, unit]
                    total += array["update", "2.weight"][step, :, unit] @ array["param", "2.weight"][step, :, unit]
                deviations.append(abs(total))
            # SGD's are differences of numbers a million times as large
            close = {"rel": 1e-6, "abs": 1e-9}
            assert result.values[Number(curve, "deviation")][seed] == pytest.approx(np.mean(deviations), **close)
            largest = max(np.abs(array["update", name][-1]).max() for name in run.shapes)
            assert result.values[Number(curve, "largest")][seed] == pytest.approx(largest)
            assert result.values[Number(curve, "loss")][seed] == pytest.approx(run.scalars()["loss"].mean())
    yes, no = result.verdicts
    assert (yes.holds, yes.seeds_holding) == (True, 2)
    assert (no.holds, no.seeds_holding) == (False, 0)


def test_what_is_recorded_is_taken_and_nothing_touched(folder, weights):
    files = {
        path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and "analysis" not in path.parts
    }
    counted = []
    for force in (False, True):
        Plan.make(SMALL, seeds=2, weights=weights).carry_out(
            folder, replace=force, on_run=lambda: counted.append(1), say=pytest.fail
        )
    assert len(counted) == 12
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_more_seeds_are_added_and_an_unfinished_run_is_recorded_anew(tmp_path):
    figure = without_l2o(claims=())
    Plan.make(figure, seeds=1).carry_out(tmp_path)
    first = tmp_path / "leaky/lion/seed-0/run.json"
    described = json.loads(first.read_text())
    first.write_text(json.dumps({**described, "status": "interrupted"}))
    kept = (tmp_path / "leaky/plain-sgd/seed-0/run.json").stat().st_mtime_ns
    result = Plan.make(figure, seeds=2).carry_out(tmp_path)
    assert [(run.label, run.seed, run.status) for run in result.runs] == [
        (label, seed, "finished") for label in ("Lion", "plain SGD") for seed in (0, 1)
    ]
    assert (tmp_path / "leaky/plain-sgd/seed-0/run.json").stat().st_mtime_ns == kept


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (without_l2o(options={"activation": "relu"}), r"activation = 'leaky_relu', small needs 'relu'"),
        (replace(without_l2o(), iterations=7), "iterations = 6, small needs 7"),
        (replace(without_l2o(), at=(3, STEPS)), r"recorded iterations = \[3, 5, 6\], small needs \[3, 6\]"),
        (replace(without_l2o(), save=("param", "update")), "save = "),
        (
            replace(SMALL, settings=(replace(SMALL.settings[0], curves=(Curve("Lion", "lion", {"lr": 0.1}),)),)),
            "lr = 0.01, small needs 0.1",
        ),
        (
            replace(SMALL, settings=(replace(SMALL.settings[0], curves=(Curve("Lion", "adam", {"lr": 0.1}),)),)),
            "optimizer = 'lion', small needs 'adam'",
        ),
    ],
)
def test_runs_of_other_settings_are_refused(folder, changed, says):
    with pytest.raises(OutputExists, match=rf"lion/seed-0 was recorded with {says}.*; choose another folder with -o"):
        Plan.make(changed, seeds=1).carry_out(folder)


def test_runs_with_other_weights_are_refused(folder, weights, tmp_path):
    other = tmp_path / "digits-mlp-leaky_relu.safetensors"
    other.write_bytes((weights / "digits-mlp-sigmoid.safetensors").read_bytes())
    with pytest.raises(OutputExists, match="l2o/seed-0 was recorded with weights = "):
        Plan.make(SMALL, seeds=1, weights=other).carry_out(folder)


def test_force_replaces_runs_of_other_settings(tmp_path):
    Plan.make(without_l2o(claims=()), seeds=1).carry_out(tmp_path)
    changed = without_l2o(claims=(), options={"activation": "relu"})
    result = Plan.make(changed, seeds=1).carry_out(tmp_path, replace=True)
    assert {run.metadata["problem"]["options"]["activation"] for run in result.runs} == {"relu"}


def test_a_tuned_learning_rate_is_tuned_once(tmp_path):
    columns = (Column("loss", Reading("loss", "loss", 1, 3)),)
    setting = Setting("quad", "quadratic", {"size": 3}, (Curve("Adam", "adam"),), columns, problem="quadratic")
    figure = replace(SMALL, settings=(setting,), iterations=3, at=(), save=())
    said: list[str] = []
    Plan.make(figure, seeds=1).carry_out(tmp_path, say=said.append)
    [tuned] = said
    result = Plan.make(figure, seeds=2).carry_out(tmp_path, say=said.append)
    assert said == [tuned]
    one, other_seed = result.settings[0].runs
    assert one.metadata["tuning"] == other_seed.metadata["tuning"]
    assert tuned.endswith(f"adam: tuned lr = {one.metadata['tuning']['best']:g}")
    assert one.metadata["optimizer"]["options"]["lr"] == one.metadata["tuning"]["best"]
    assert one.columns == ()


def test_json_has_every_number_with_the_papers(folder, weights):
    found = Plan.make(SMALL, seeds=2, weights=weights).carry_out(folder).to_json()
    found = json.loads(json.dumps(found, allow_nan=False))
    [setting] = found["settings"]
    assert [claim["holds"] for claim in setting["claims"]] == [True, False]
    lion = next(row for row in setting["numbers"] if (row["curve"], row["column"]) == ("Lion", "deviation"))
    assert lion["paper"] == "13"
    assert lion["mean"] == pytest.approx(np.mean(lion["values"]))
    assert len(lion["values"]) == found["seeds"][-1] + 1 == 2


def test_bad_arguments_are_found_before_anything_is_recorded(weights, tmp_path):
    with pytest.raises(UnknownName, match="unknown figure 'fig77'; did you mean fig7"):
        Plan.make("fig77")
    with pytest.raises(UnknownName, match="unknown data 'minst'; did you mean mnist"):
        Plan.make("fig7", data="minst")
    with pytest.raises(BadArgument, match="leave --data-dir out"):
        Plan.make("fig7", data_dir="x")
    with pytest.raises(BadArgument, match="the number of seeds is 0"):
        Plan.make("fig7", seeds=0)
    with pytest.raises(MissingData, match=rf"no MNIST in {tmp_path}"):
        Plan.make("fig7", data="mnist", data_dir=str(tmp_path))
    with pytest.raises(BadArgument, match="fig7 has no learned optimizer; leave --weights out"):
        Plan.make("fig7", weights=weights)
    with pytest.raises(BadArgument, match="there are no weights at nowhere"):
        Plan.make("fig9", weights="nowhere")
    with pytest.raises(
        BadArgument, match=r"fig4 needs 2 weights, found one file; give a folder with digits-mlp-leaky_relu"
    ):
        Plan.make("fig4", weights=weights / "digits-mlp-sigmoid.safetensors")


def test_missing_weights_come_with_the_command_that_makes_them(tmp_path):
    strange = MetaTrained("tanh", regularizer="mean", beta=0.3)  # which nobody ships
    figure = replace(SMALL, settings=(replace(SMALL.settings[0], curves=(Curve("L2O", "l2o", weights=strange),)),))
    says = (
        r"small needs the weights digits-mlp-tanh-mean-beta0.3, .* make them with `traj meta-train digits-mlp"
        r" --activation tanh --regularizer mean --beta 0.3 -o digits-mlp-tanh-mean-beta0.3.safetensors`"
    )
    for given in (None, tmp_path):
        with pytest.raises(MissingData, match=says):
            Plan.make(figure, weights=given)


def test_no_seed_of_the_study_is_one_that_was_learned_or_tuned_on():
    from trajectory_tools.experiments.tune import SEEDS
    from trajectory_tools.l2o.meta_training import held_out_seeds, run_seed

    most = max(figure.seeds for figure in FIGURES.values())
    assert most < min(SEEDS) < run_seed(0, 0) < held_out_seeds(0, 1).start
