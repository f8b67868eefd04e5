"""Norms, ratios, angles and lengths against plain NumPy, one step at a time."""

import metric_runs as runs
import numpy as np
import pytest

from trajectory_tools.errors import MissingData
from trajectory_tools.metrics import compute
from trajectory_tools.metrics.histogram import WHOLE


def quotient(above, below):
    return above / below if below != 0 else np.nan


def naive(run, names):
    """(kind, quantity) → one value for each recorded step, of these parameters as one vector; None counts as zero."""

    def vector(kind, row):
        found = [arrays[kind, n][row].ravel() for n in names]
        return np.concatenate([np.zeros_like(a) if kind == "grad" and np.isnan(a).all() else a for a in found])

    arrays = {(k, n): run.array(k, n).astype(float) for k in ("param", "grad", "update") for n in names}
    quantities = ("norm", "ratio", "cos_previous", "cos_descent", "path_length", "displacement")
    rows = {("param", "norm"): [], ("grad", "norm"): [], **{("update", q): [] for q in quantities}}
    path, first, previous = 0.0, vector("param", 0), None
    for row, step in enumerate(run.steps):
        w, g, u = (vector(kind, row) for kind in ("param", "grad", "update"))
        norms = [np.sqrt(np.sum(v * v)) for v in (w, g, u)]
        adjacent = row > 0 and run.steps[row - 1] == step - 1
        path = path + norms[2] if row == 0 or adjacent else np.nan
        values = {
            ("param", "norm"): norms[0],
            ("grad", "norm"): norms[1],
            ("update", "norm"): norms[2],
            ("update", "ratio"): quotient(norms[2], norms[0]),
            ("update", "cos_previous"): np.nan,
            ("update", "cos_descent"): quotient(np.sum(-g * u), norms[1] * norms[2]),
            ("update", "path_length"): path,
            ("update", "displacement"): np.sqrt(np.sum((w + u - first) ** 2)),
        }
        if adjacent:
            length = np.sqrt(np.sum(previous**2)) * norms[2]
            values["update", "cos_previous"] = quotient(np.sum(previous * u), length)
        for key, value in values.items():
            rows[key].append(value)
        previous = u
    return rows


@pytest.mark.parametrize("name", ["walked", "adam", "momentum"])
def test_every_number_is_that_of_numpy(name, request):
    run = request.getfixturevalue(name)
    frame = compute(run, "dynamics")
    assert set(frame["parameter"]) == {*run.shapes, WHOLE}
    for parameter, names in [*((n, [n]) for n in run.shapes), (WHOLE, list(run.shapes))]:
        for (kind, quantity), expected in naive(run, names).items():
            got = runs.series(frame, parameter=parameter, kind=kind, quantity=quantity)
            if got.empty:
                assert np.isnan(expected).all()
                continue
            assert got.index.tolist() == run.steps.tolist()
            np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-13, err_msg=f"{parameter} {kind} {quantity}")
        n = frame.loc[frame["parameter"] == parameter, "n"].unique()
        assert n.tolist() == [sum(int(np.prod(run.shapes[name])) for name in names)]
    assert "nonfinite" not in frame["quantity"].tolist()


FROM_STATS = ("norm", "ratio", "path_length", "nonfinite")


def test_between_the_recorded_steps_stats_know_norms_and_the_path(sparse, every_step):
    assert sparse.steps.tolist() == [0, 3, 6, 9]
    frame, dense = compute(sparse, "dynamics"), compute(every_step, "dynamics")
    for parameter in (*sparse.shapes, WHOLE):
        for kind, quantity in dense[["kind", "quantity"]].drop_duplicates().itertuples(index=False):
            keys = {"parameter": parameter, "kind": kind, "quantity": quantity}
            got, expected = runs.series(frame, **keys), runs.series(dense, **keys)
            if quantity in FROM_STATS:
                assert got.index.tolist() == list(range(12))
                np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-12, err_msg=str(keys))
                if quantity == "norm":  # where the tensors are recorded, their own
                    assert got[sparse.steps].tolist() == expected[sparse.steps].tolist()
            elif quantity == "cos_previous":
                assert got.isna().all()
            else:
                assert got.index.tolist() == [0, 3, 6, 9]
                np.testing.assert_allclose(got, expected[sparse.steps], rtol=1e-9)


def test_without_tensors_stats_alone_are_measured(tmp_path, every_step):
    run, _ = runs.train(tmp_path / "none", "adam", save=[], hidden=(6,), activation="relu", options={"lr": 0.01})
    frame, dense = compute(run, "dynamics"), compute(every_step, "dynamics")
    assert set(frame["quantity"]) == {"norm", "ratio", "path_length"}
    for quantity in ("ratio", "path_length"):
        got, expected = (runs.series(f, parameter=WHOLE, quantity=quantity) for f in (frame, dense))
        np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_a_subsample_gives_estimates_beside_exact_norms(tmp_path, every_step):
    options = {"hidden": (6,), "activation": "relu", "options": {"lr": 0.01}}
    dense = compute(every_step, "dynamics")
    exact = runs.series(dense, parameter="0.weight", kind="update", quantity="norm") ** 2
    found = []
    for seed in range(4):
        run, _ = runs.train(tmp_path / str(seed), "adam", subsample=0.5, selection_seed=seed, **options)
        frame = compute(run, "dynamics")
        assert not {"cos_previous", "cos_descent", "displacement"} & set(frame["quantity"])
        np.testing.assert_allclose(
            runs.series(frame, parameter="0.weight", kind="update", quantity="norm") ** 2, exact, rtol=1e-5
        )
        of_update = {"parameter": "0.weight", "kind": "update"}
        found.append(runs.series(frame, **of_update, quantity="squared_norm_estimate"))
        picked = run.array("update", "0.weight").astype(float)
        np.testing.assert_allclose(found[-1], (picked**2).sum(1) * 384 / 192, rtol=1e-12)
        products = -(picked * run.array("grad", "0.weight")).sum(1) * 2
        np.testing.assert_allclose(
            runs.series(frame, **of_update, quantity="dot_descent_estimate"), products, rtol=1e-12
        )
        assert WHOLE in set(frame["parameter"][frame["quantity"] == "squared_norm_estimate"])
    np.testing.assert_allclose(np.mean(found, axis=0), exact, rtol=0.2)


@pytest.mark.parametrize("parts", [1, 2, 3])  # with two, the gap lies between them
def test_a_gap_ends_the_path_and_no_more(tmp_path, parts):
    run = runs.write_run(tmp_path / "gap", *runs.walk(6), steps=[4, 5, 6, 9, 10, 11], parts=parts)
    frame = compute(run, "dynamics")
    assert runs.series(frame, parameter=WHOLE, quantity="path_length").isna().tolist() == [False] * 3 + [True] * 3
    angle = runs.series(frame, parameter=WHOLE, quantity="cos_previous")
    assert angle.isna().tolist() == [True, False, False, True, False, False]
    for (kind, quantity), expected in naive(run, list(run.shapes)).items():
        got = runs.series(frame, parameter=WHOLE, kind=kind, quantity=quantity)
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-13)


def test_by_hand(tmp_path):
    # θ: (3, 4) → (3, 5) → (4, 5); u: (0, 1), (1, 0); g: (0, −2), (−3, 3).
    param = {"w": np.array([[3.0, 4.0], [3.0, 5.0]])}
    update = {"w": np.array([[0.0, 1.0], [1.0, 0.0]])}
    grad = {"w": np.array([[0.0, -2.0], [-3.0, 3.0]])}
    frame = compute(runs.write_run(tmp_path / "r", param, grad, update, steps=[0, 1], symmetries=[]), "dynamics")
    for name in ("w", WHOLE):
        rows = frame[frame["parameter"] == name].set_index(["kind", "quantity", "step"])["value"]
        assert rows["param", "norm"].tolist() == [5, np.sqrt(34)]
        assert rows["grad", "norm"].tolist() == [2, np.sqrt(18)]
        assert rows["update", "ratio"].tolist() == [1 / 5, 1 / np.sqrt(34)]
        assert rows["update", "cos_previous"].tolist()[1] == 0
        assert rows["update", "cos_descent"].tolist() == pytest.approx([1, np.sqrt(0.5)])
        assert rows["update", "path_length"].tolist() == [1, 2]
        assert rows["update", "displacement"].tolist() == pytest.approx([1, np.sqrt(2)])


def test_plain_gradient_descent_descends(tmp_path):
    run, _ = runs.train(tmp_path / "sgd", "sgd", hidden=(6,), activation="relu")
    frame = compute(run, "dynamics")
    for parameter in (*run.shapes, WHOLE):
        # The update is rounded to eps |θ|: a cosine falls short of 1 by half the square of that over ‖u‖.
        theta, u = (runs.series(frame, parameter=parameter, kind=k, quantity="norm") for k in ("param", "update"))
        limit = (np.finfo(np.float32).eps * theta / u) ** 2 + 1e-12
        assert limit.max() < 1e-6
        assert (np.abs(1 - runs.series(frame, parameter=parameter, quantity="cos_descent")) <= limit).all()


@pytest.mark.parametrize("name", ["walked", "adam", "momentum"])
def test_no_displacement_is_longer_than_its_path(name, request):
    run = request.getfixturevalue(name)
    frame = compute(run, "dynamics")
    for parameter in (*run.shapes, WHOLE):
        path, straight = (runs.series(frame, parameter=parameter, quantity=q) for q in ("path_length", "displacement"))
        assert (straight <= path * (1 + 1e-6)).all()
        assert path.iloc[0] == pytest.approx(straight.iloc[0], rel=1e-6)
        assert path.is_monotonic_increasing


def test_gradients_that_were_none(tmp_path):
    param, grad, update = runs.walk(5)
    grad["next"][1:3] = np.nan
    run = runs.write_run(tmp_path / "none", param, grad, update, steps=range(5), parts=2)
    frame = compute(run, "dynamics")
    assert runs.series(frame, parameter="next", kind="grad", quantity="norm").isna().tolist() == [0, 1, 1, 0, 0]
    assert runs.series(frame, parameter="next", quantity="cos_descent").isna().tolist() == [0, 1, 1, 0, 0]
    assert runs.series(frame, parameter="next", quantity="cos_previous").isna().tolist() == [1, 0, 0, 0, 0]
    for (kind, quantity), expected in naive(run, list(run.shapes)).items():
        got = runs.series(frame, parameter=WHOLE, kind=kind, quantity=quantity)
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-13, err_msg=quantity)


def test_parameters_that_came_later(tmp_path):
    param, grad, update = runs.walk(5)
    for arrays in (param, grad, update):
        arrays["skip"][:2] = np.nan
    run = runs.write_run(tmp_path / "late", param, grad, update, steps=range(5), parts=2)
    frame = compute(run, "dynamics")
    norm = runs.series(frame, parameter="skip", kind="update", quantity="norm")
    assert norm.isna().tolist() == [True, True, False, False, False]
    angle = runs.series(frame, parameter="skip", quantity="cos_previous")
    assert angle.isna().tolist() == [True, True, True, False, False]
    # It has no place at the first recorded step, and its path is not known from there on.
    assert runs.series(frame, parameter="skip", quantity="displacement").empty
    assert runs.series(frame, parameter="skip", quantity="path_length").empty
    path = runs.series(frame, parameter=WHOLE, quantity="path_length")
    u = {n: np.nan_to_num(a) for n, a in update.items()}
    expected = np.cumsum([np.sqrt(sum((a[row] ** 2).sum() for a in u.values())) for row in range(5)])
    np.testing.assert_allclose(path, expected)
    assert (runs.series(frame, parameter=WHOLE, quantity="displacement") <= path).all()


def test_values_that_are_not_finite_are_counted(tmp_path):
    param, grad, update = runs.walk(5, dtype=np.float32)
    grad["next"][1, 0, 0] = [[np.nan, np.inf]]
    grad["skip"][1, 0, 0] = -np.inf
    update["far"][3, :, 0, 0] = np.nan
    param["flat"][4, 0] = np.inf
    frame = compute(runs.write_run(tmp_path / "odd", param, grad, update, steps=range(5), parts=2), "dynamics")
    counts = frame[frame["quantity"] == "nonfinite"].set_index(["parameter", "kind", "step"])["value"]
    assert counts["next", "grad"].tolist() == [0, 2, 0, 0, 0]
    assert counts["skip", "grad"].tolist() == [0, 1, 0, 0, 0]
    assert counts["far", "update"].tolist() == [0, 0, 0, 5, 0]
    assert counts["flat", "param"].tolist() == [0, 0, 0, 0, 1]
    assert counts[WHOLE, "grad"].tolist() == [0, 3, 0, 0, 0]
    assert counts[WHOLE, "update"].tolist() == [0, 0, 0, 5, 0]
    assert len(counts) == 5 * 7
    assert np.isinf(runs.series(frame, parameter="skip", kind="grad", quantity="norm")[1])
    assert runs.series(frame, parameter=WHOLE, kind="grad", quantity="norm").isna().tolist() == [0, 1, 0, 0, 0]


def test_parameters_that_stand_still(tmp_path):
    param, grad, update = runs.walk(3)
    zero = {n: np.zeros_like(a) for n, a in update.items()}
    still = {n: np.repeat(a[:1], 3, axis=0) for n, a in param.items()}
    frame = compute(runs.write_run(tmp_path / "still", still, grad, zero, steps=range(3)), "dynamics")
    for quantity in ("norm", "ratio", "path_length", "displacement"):
        assert runs.series(frame, parameter=WHOLE, kind="update", quantity=quantity).tolist() == [0, 0, 0]
    for quantity in ("cos_previous", "cos_descent"):
        assert runs.series(frame, parameter=WHOLE, kind="update", quantity=quantity).isna().all()
    frame = compute(runs.write_run(tmp_path / "zero", zero, grad, update, steps=range(3)), "dynamics")
    assert runs.series(frame, parameter=WHOLE, kind="update", quantity="ratio").isna().all()


def test_with_one_column_alone(tmp_path):
    param, grad, update = runs.walk(3)
    for i, (columns, expected) in enumerate(
        [
            ((param, None, None), {("param", "norm")}),
            ((None, grad, None), {("grad", "norm")}),
            ((None, None, update), {("update", q) for q in ("norm", "cos_previous", "path_length")}),
        ]
    ):
        frame = compute(runs.write_run(tmp_path / str(i), *columns, steps=range(3)), "dynamics").dropna(subset="value")
        assert set(zip(frame["kind"], frame["quantity"], strict=True)) == expected
        assert set(frame["parameter"]) == {*runs.SHAPES, WHOLE}


def test_empty_and_0_dimensional_parameters(tmp_path):
    shapes = {"scalar": (), "empty": (0, 3), "w": (2,)}
    run = runs.write_run(tmp_path / "r", *runs.walk(4, shapes=shapes), steps=range(4), symmetries=[])
    frame = compute(run, "dynamics")
    np.testing.assert_allclose(
        runs.series(frame, parameter="scalar", kind="param", quantity="norm"), abs(run.array("param", "scalar"))
    )
    assert runs.series(frame, parameter="empty", kind="param", quantity="norm").tolist() == [0] * 4


def test_nothing_recorded(tmp_path):
    run = runs.write_run(tmp_path / "empty", *runs.walk(0), steps=[])
    with pytest.raises(MissingData, match=r"no dynamics of .*: no tensors and no stats were recorded"):
        compute(run, "dynamics")
