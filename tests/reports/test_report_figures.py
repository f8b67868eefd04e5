"""The numbers behind the figures, without drawing them."""

import re

import numpy as np
import pandas as pd
import pytest

import trajectory_tools as tt
from trajectory_tools.errors import MissingData
from trajectory_tools.metrics.summary import final_values
from trajectory_tools.reports import dynamics, histogram, loss, symmetry
from trajectory_tools.reports.curves import GRADIENTS, Panel, averaged, make_curves, thinned
from trajectory_tools.reports.described import hyperparameters
from trajectory_tools.reports.figure import rounded
from trajectory_tools.reports.style import RunStyle
from trajectory_tools.reports.summary import summarize
from trajectory_tools.reports.svg import draw, short_path
from trajectory_tools.reports.words import number, one_line, plus_minus, power_of_ten


def frame_of(values: dict[str, list[float]], label: str = "a") -> pd.DataFrame:
    """run → its value at steps 0, 1, ..."""
    rows = [(run, label, step, value) for run, series in values.items() for step, value in enumerate(series)]
    return pd.DataFrame(rows, columns=["run", "label", "step", "value"])


@pytest.fixture(scope="module")
def analyses(runs):
    return tt.analyze(runs)


def test_mean_and_standard_deviation_over_seeds():
    curves = averaged(frame_of({"r0": [1.0, 2.0], "r1": [3.0, np.nan], "r2": [5.0, np.inf]}))
    assert curves.loc[0, ["value", "low", "high", "runs"]].tolist() == [3, 1, 5, 3]
    assert curves.loc[1, ["value", "runs"]].tolist() == [2, 1]
    assert curves.loc[1, ["low", "high"]].isna().all()


def test_a_logarithmic_band_is_geometric_and_positive():
    curves = averaged(frame_of({"r0": [1e-3, 0.0, 0.0], "r1": [1e-1, 4.0, 0.0]}), log=True)
    deviation = 10 ** np.std([-3, -1], ddof=1)
    np.testing.assert_allclose(
        curves.loc[0, ["value", "low", "high"]].astype(float), [1e-2, 1e-2 / deviation, 1e-2 * deviation]
    )
    assert curves["value"].tolist()[1:] == [4, 0]  # a zero among others does not enter, zeros alone stay


def test_long_runs_are_thinned_to_means_and_say_so():
    frame = frame_of({"r": [float(step) for step in range(1200)]})
    data, stride = thinned(frame)
    assert (len(data), stride) == (300, 4)
    assert data["step"].tolist()[:3] == [0, 4, 8]
    assert data["value"].tolist()[:3] == [1.5, 5.5, 9.5]
    curves = make_curves([Panel("x", frame, "x")])
    assert curves.notes == ("x: thinned: each point is the mean of 4 consecutive recorded steps.",)
    assert len(curves.data) == 300
    narrow = make_curves([Panel(name, frame, "x") for name in "abc"])  # three beside each other
    assert narrow.notes == ("a, b, c: thinned: each point is the mean of 12 consecutive recorded steps.",)
    assert len(narrow.data) == 3 * 100


def test_the_loss_is_the_mean_over_seeds_and_its_band_stays_positive(runs, analyses):
    figure = loss.training_loss(analyses["loss"].frame)
    recorded = np.stack([run.scalars()["loss"] for run in runs if run.label == "SGD"])
    curve = figure.data[figure.data["label"] == "SGD"]
    np.testing.assert_allclose(curve["value"], recorded.mean(axis=0), rtol=1e-3)
    assert (figure.data["low"] > 0).all()
    assert set(figure.data["panel"]) == {"loss"}  # the learning rate stays the same
    np.testing.assert_allclose(
        final_values(analyses["loss"].frame)["SGD"].to_numpy(), recorded[:, -10:].mean(axis=1), rtol=1e-6
    )
    assert "ends lowest" in figure.finding


def test_a_loss_of_widely_differing_runs_keeps_its_band_above_zero():
    frame = frame_of({"r0": [10.0, 2.0], "r1": [0.01, 1.0], "r2": [0.01, 0.0]})
    curves = make_curves([Panel("loss", frame, "loss", "log", "arithmetic")]).data
    assert curves["value"].tolist() == [3.34, 1.0]
    assert curves["high"].tolist() == [pytest.approx(3.34 + np.std([10, 0.01, 0.01], ddof=1), rel=1e-3), 2.0]
    assert curves["low"].tolist() == pytest.approx([3.34 / 3, 1 / 3], rel=1e-3)  # mean − sd would be below and at 0


def test_other_scalars_and_a_changing_learning_rate_are_shown():
    frame = pd.concat(
        [
            frame_of({"r": values}).assign(quantity=name)
            for name, values in {"lr": [1, 0.5], "loss": [2, 1], "acc": [0, 1]}.items()
        ]
    )
    assert list(loss.training_loss(frame).data["panel"].unique()) == ["loss", "lr", "acc"]


def test_plain_sgd_keeps_the_symmetry_and_the_others_do_not(analyses):
    frame = analyses["symmetry"].frame
    share = symmetry.share(frame).data
    rescale = share[share["panel"] == "rescale"].set_index(["label", "step"])["value"]
    assert (rescale["SGD"] < 1e-10).all()
    assert (rescale["Adam"] > 1e-3).all()
    assert (rescale[GRADIENTS] < 1e-10).all()
    assert (rescale["momentum"].iloc[2:] > 1e-5).all()
    translation = share[share["panel"] == "translation"].set_index(["label", "step"])["value"]
    assert (translation["momentum"] < 1e-10).all()  # a linear constraint is kept by sums of gradients
    finding = symmetry.share(frame).finding
    assert "is kept but for rounding by SGD (" in finding
    assert "broken by" in finding
    assert "chance is 0.0133" in finding
    deviation = symmetry.signed_sum(frame).data.set_index(["panel", "label", "step"])["value"]["rescale"]
    assert deviation["SGD"].max() < 1e-5 < deviation["Adam"].min()


def test_the_drift_is_that_of_the_recorded_parameters(runs, analyses):
    data = symmetry.drift(analyses["symmetry"].frame).data
    found = data[(data["panel"] == "rescale") & (data["label"] == "Adam")]["value"].iloc[-1]

    def conserved(theta):
        return sum((theta[name] ** 2).sum() for name in ("0.weight", "0.bias")) - (theta["2.weight"] ** 2).sum()

    expected = []
    for run in (run for run in runs if run.label == "Adam"):
        param, update = (
            {name: run.array(column, name).astype(float) for name in run.shapes} for column in ("param", "update")
        )
        first = {name: values[0] for name, values in param.items()}
        last = {name: param[name][-1] + update[name][-1] for name in param}
        expected.append(conserved(last) - conserved(first))
    assert found == pytest.approx(np.mean(expected), rel=1e-3)


def test_single_units_are_those_of_the_first_seed(runs, analyses):
    figure = symmetry.units(analyses["symmetry"].frame)
    assert "seed 0" in figure.shows
    dots = figure.data[(figure.data["panel"] == "rescale") & (figure.data["step"] == 11)]
    assert dots.groupby("label").size().to_dict() == {"Adam": 20, "SGD": 20, "momentum": 20}
    run = next(run for run in runs if run.label == "Adam")
    param, update = (
        {name: run.array(column, name, steps=11)[0].astype(float) for name in run.shapes}
        for column in ("param", "update")
    )
    product = {name: param[name] * update[name] for name in param}
    unit = product["0.weight"].sum(axis=1) + product["0.bias"] - product["2.weight"].sum(axis=0)
    np.testing.assert_allclose(dots[dots["label"] == "Adam"].sort_values("unit")["value"], np.abs(unit), rtol=1e-3)


def test_of_many_groups_the_largest_are_shown():
    names = [f"rescale {i}.weight → {i + 1}.weight" for i in range(8)]
    frame = pd.concat(
        [
            frame_of({"r": [10.0**-i] * 3}).assign(group=name, kind="update", quantity="share", n=1)
            for i, name in enumerate(names)
        ]
        + [frame_of({"r": [0.1]}).assign(group=name, kind="random", quantity="chance", n=1) for name in names]
    )
    figure = symmetry.share(frame)
    assert list(figure.data["panel"].unique()) == [f"rescale {i}" for i in range(1, 7)]
    assert figure.notes[-1].startswith("Of 8 groups the 6 are shown")


def test_histograms_hold_every_element(analyses, runs):
    figure = histogram.updates(analyses["histogram"].frame)
    assert set(figure.data["panel"]) == {"step 1", "step 5", "step 10"}
    total = figure.data.groupby(["panel", "label"])["share"].sum()
    assert (total > 0.99).all()
    assert (total < 1.001).all()
    assert re.findall("SGD|momentum|Adam", figure.finding) == ["SGD", "momentum", "Adam"]  # as in the legend
    adam = [run for run in runs if run.label == "Adam"]
    zeros = np.mean(
        [np.mean(np.concatenate([run.array("update", n, steps=10).ravel() for n in run.shapes]) == 0) for run in adam]
    )
    rows = figure.data[
        (figure.data["panel"] == "step 10") & (figure.data["label"] == "Adam") & (figure.data["high"] == 0)
    ]
    assert rows["share"].iloc[0] == pytest.approx(zeros, rel=1e-3)
    assert set(histogram.layers(analyses["histogram"].frame).data["panel"]) == {
        "0.weight",
        "0.bias",
        "2.weight",
        "2.bias",
    }


def test_histograms_need_a_common_step():
    frame = pd.DataFrame({"run": ["a", "b"], "step": [1, 2]})
    with pytest.raises(MissingData, match="no step of a histogram in common"):
        histogram.common_steps(frame)


def test_dynamics_of_plain_sgd(analyses):
    frame = analyses["dynamics"].frame
    cosines = dynamics.directions(frame).data
    descent = cosines[(cosines["panel"] == "descent") & (cosines["label"] == "SGD")]["value"]
    np.testing.assert_allclose(descent, 1, atol=1e-4)
    path = dynamics.path(frame).data
    assert (path["straightness"] <= 1).all()
    assert path.groupby("label")["straightness"].first().tolist() == pytest.approx([1, 1, 1])
    sizes = dynamics.sizes(frame).data.set_index(["panel", "label"])["value"]
    np.testing.assert_allclose(sizes["update norm", "SGD"], 0.5 * sizes["gradient norm", "SGD"], rtol=2e-3)


def test_recording_every_second_step_leaves_out_the_path(tmp_path, record):
    run = record(tmp_path / "run", 9, every=2)
    frame = tt.compute(run, "dynamics")
    assert dynamics.sizes(frame).data["step"].max() == 8
    assert any(note.startswith("previous: skipped") for note in dynamics.directions(frame).notes)


def test_what_is_plotted_is_what_the_csv_says():
    frame = rounded(pd.DataFrame({"a": [1 / 3, np.nan, -1.23456e-12, np.inf], "step": [1, 2, 3, 4]}))
    assert frame["a"].tolist()[::2] == [0.3333, -1.235e-12]
    assert frame["step"].tolist() == [1, 2, 3, 4]


def test_each_label_looks_different_and_the_same_everywhere():
    style = RunStyle(tuple(f"label {i}" for i in range(32)))
    looks = {(style.color(label), style.dashes(label)) for label in style.labels}
    assert len(looks) == 32
    assert len({style.color(label) for label in style.labels[:8]}) == 8


def test_many_labels_fit_above_the_figure(runs):
    style = RunStyle(tuple(f"a long label of optimizer {i}" for i in range(20)))
    frame = pd.concat([frame_of({f"r{i}": [1.0, 2.0]}, label) for i, label in enumerate(style.labels)])
    figure = loss.training_loss(frame.assign(quantity="loss"))
    assert "label of optimizer 19" in draw(figure, style, "key")


def test_the_summarys_heads_are_narrow_enough_for_a_page(runs, analyses):
    by_label = {label: [run for run in runs if run.label == label] for label in ("SGD", "momentum", "Adam")}
    table = summarize(by_label, analyses)
    assert any("translation" in head for head, _ in table.columns)
    assert max(len(word) for head, _ in table.columns for word in re.split(r"[\s\u200b]", head)) <= len("displacement")
    assert [label for label, _ in table.rows] == list(by_label)


def test_hyperparameters_in_words():
    class Recorded:
        def __init__(self, *groups):
            self.metadata = {"optimizer": {"groups": groups}}

    first = {"lr": 0.1, "initial_lr": 0.2, "betas": [0.9, 0.99], "momentum": 0.9, "nesterov": False, "foreach": None}
    assert hyperparameters(Recorded()) == ""
    assert hyperparameters(Recorded(first)) == "lr 0.1, betas (0.9, 0.99), momentum 0.9"
    others = ({**first, "initial_lr": 1}, {**first, "lr": 1e-5, "momentum": 0.0})
    assert hyperparameters(Recorded(first, *others)).endswith("momentum 0.9; group 2: lr 1×10⁻⁵, momentum 0")


def test_words():
    assert [number(x) for x in (0.0, 1252.0, -0.5, 2.5e-9, 1e6, np.inf)] == [
        "0",
        "1250",
        "−0.5",
        "2.5×10⁻⁹",
        "1×10⁶",
        "∞",
    ]
    assert [power_of_ten(x) for x in (1e-3, 0.01, 100.0, -1e5, 0.0, 5.0)] == ["10⁻³", "0.01", "100", "−10⁵", "0", "5"]
    assert plus_minus([1.0, 3.0]).split() == ["2", "±", "1.4"]
    assert plus_minus([2.5]) == "2.5"
    assert plus_minus([]) == "–"
    assert plus_minus([1.0, np.nan]) == "1, NaN"
    assert one_line("a\n\x00 b\t$x$") == "a b $x$"
    assert len(one_line("x" * 500)) == 60
    assert short_path("M 0 0 C 1 2 3 4 5 6") == "M 0 0 C 1 2 3 4 5 6"
