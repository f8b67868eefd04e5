"""Symmetry breaking against loops over units, and against what is known of SGD."""

import math

import metric_runs as runs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from trajectory_tools.errors import BadArgument, MissingData
from trajectory_tools.metrics import compute
from trajectory_tools.metrics.generators import conserved_change, conserved_quantity, count, inner_products
from trajectory_tools.metrics.symmetry import Symmetry, deviations, symmetry_share
from trajectory_tools.recorder import Recorder
from trajectory_tools.run import open_run
from trajectory_tools.store.chunks import Chunk
from trajectory_tools.symmetry import SymmetryGroup, rescale, scale, translation

CASES = [SymmetryGroup.from_json(group).checked(runs.SHAPES) for group in runs.GROUPS]
IDS = [group.label for group in CASES]


def measured(frame, group, kind, quantity):
    return runs.series(frame, group=group.label, kind=kind, quantity=quantity)


@pytest.mark.parametrize("name", ["walked", "adam", "momentum", "sparse"])
def test_every_number_is_that_of_the_loops(name, request):
    run = request.getfixturevalue(name)
    frame = compute(run, "symmetry", units="all")
    chunk = runs.whole_chunk(run)
    for group in run.symmetries:
        data = group.to_json()
        n_generators = len(runs.generators(data, {n: chunk.param[n][0] for n in group.names}))
        for kind, sign in (("grad", 1), ("update", -1)):
            got = {q: measured(frame, group, kind, q) for q in ("deviation", "share", "unit_abs")}
            rows = frame[(frame["group"] == group.label) & (frame["kind"] == kind)]
            band = rows[rows["quantity"] == "unit_abs"].set_index("step")
            units = rows[rows["quantity"] == "unit"].pivot(index="step", columns="unit", values="value")
            assert got["share"].index.tolist() == run.steps.tolist()
            for row, step in enumerate(run.steps):
                w = {n: chunk.param[n][row] for n in group.names}
                v = {n: sign * chunk.values(kind)[n][row] for n in group.names}
                inner, share = runs.naive_symmetry(data, v, w)
                close = {"rtol": 1e-9, "atol": 1e-15}
                np.testing.assert_allclose(units.loc[step], inner, **close)
                np.testing.assert_allclose(got["deviation"][step], abs(math.fsum(inner)), rtol=1e-9, atol=1e-14)
                np.testing.assert_allclose(got["share"][step], share, rtol=1e-9, atol=1e-20)
                size = np.abs(inner)
                expected = [size.mean(), size.min(), size.max()]
                np.testing.assert_allclose(band.loc[step, ["value", "low", "high"]].astype(float), expected, **close)
                assert band.loc[step, "n"] == n_generators == len(inner)
        q = measured(frame, group, "update", "conserved")
        change = measured(frame, group, "update", "conserved_change")
        for row, step in enumerate(run.steps):
            w, u = ({n: chunk.values(c)[n][row] for n in group.names} for c in ("param", "update"))
            before, after = (runs.naive_conserved(data, one) for one in (w, {n: w[n] + u[n] for n in w}))
            np.testing.assert_allclose(q[step], before, rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(change[step], after - before, rtol=1e-6, atol=1e-12)
        chance = measured(frame, group, "random", "chance")
        assert chance.tolist() == [n_generators / sum(math.prod(run.shapes[n]) for n in group.names)]
        assert n_generators == count(group, run.shapes)


def test_by_hand():
    # Two inputs, two hidden units, one output. w_in = [[1, 2], [3, 4]], b = [5, 6], w_out = [[7, 8]];
    # u_in = [[1, 0], [0, 1]], u_b = [1, 1], u_out = [[1, -1]]; v = -u.
    # Unit 0: ⟨u, ξ⟩ = 1·1 + 1·5 − 1·7 = −1, unit 1: 1·4 + 1·6 + 1·8 = 18; so v gives 1 and −18.
    # deviation = |1 − 18| = 17. ‖ξ_0‖² = 1 + 4 + 25 + 49 = 79, ‖ξ_1‖² = 9 + 16 + 36 + 64 = 125, ‖u‖² = 6.
    # share = (1/79 + 324/125) / 6. Q = (1+4+9+16) + (25+36) − (49+64) = −22.
    # ΔQ = 2(−1 + 18) + (2 + 2 − 2) = 36; indeed θ + u = [[2,2],[3,5]], [6,7], [[8,7]]: Q = 42 + 85 − 113 = 14.
    param = {"a": [[[1, 2], [3, 4]]], "b": [[5, 6]], "c": [[[7, 8]]]}
    update = {"a": [[[1, 0], [0, 1]]], "b": [[1, 1]], "c": [[[1, -1]]]}
    param, update = ({k: np.array(v, float) for k, v in one.items()} for one in (param, update))
    group = rescale([("a", 0), ("b", 0)], [("c", 1)])
    got = deviations(group, {k: -v for k, v in update.items()}, param)
    assert got["unit"].tolist() == [[1, -18]]
    assert got["deviation"].tolist() == [17]
    assert got["share"] == pytest.approx([(1 / 79 + 324 / 125) / 6], rel=1e-15)
    assert conserved_quantity(group, param).tolist() == [-22]
    assert conserved_change(group, param, update).tolist() == [36]
    # Scale of the first layer: 1·1 + 1·5 = 6 and 1·4 + 1·6 = 10 for u. Q = 91, ΔQ = 2·16 + 4 = 36.
    group = scale([("a", 0), ("b", 0)])
    got = deviations(group, {k: -v for k, v in update.items()}, param)
    assert (got["unit"].tolist(), got["deviation"].tolist()) == ([[-6, -10]], [16])
    assert got["share"] == pytest.approx([(36 / 30 + 100 / 61) / 4], rel=1e-15)
    assert (conserved_quantity(group, param).tolist(), conserved_change(group, param, update).tolist()) == ([91], [36])
    # Translation of the same: columns of u sum to 1 and 1, its bias to 2; ‖ξ‖² = 2. Q = 21, ΔQ = 4.
    group = translation([("a", 0), ("b", 0)])
    got = deviations(group, {k: -v for k, v in update.items()}, param)
    assert (got["unit"].tolist(), got["deviation"].tolist()) == ([[-1, -1, -2]], [4])
    assert got["share"] == pytest.approx([(1 / 2 + 1 / 2 + 4 / 2) / 4], rel=1e-15)
    assert (conserved_quantity(group, param).tolist(), conserved_change(group, param, update).tolist()) == ([21], [4])


def tolerated(run, group, kind, dtype):
    """How far rounding alone may put ⟨v, ξ_j⟩ from 0: (steps, generators).

    The gradient is a sum over the mini-batch: its error, and so that of its product with ξ, is some tens of eps of
    ‖v‖‖ξ‖. A recorded update is the difference of two stored parameters, each rounded to eps/2 of its size:
    it is off by up to eps |θ_i| in each element, whatever its own size.
    """
    eps = np.finfo(dtype).eps
    chunk = runs.whole_chunk(run)
    found = np.zeros((len(run.steps), count(group, run.shapes)))
    for row in range(len(run.steps)):
        w, v = ({n: chunk.values(c)[n][row] for n in group.names} for c in ("param", kind))
        size = math.sqrt(sum((v[n] ** 2).sum() for n in group.names))
        for j, xi in enumerate(runs.generators(group.to_json(), w)):
            length = math.sqrt(sum((x**2).sum() for x in xi.values()))
            stored = sum(float(np.abs(w[n] * xi[n]).sum()) for n in group.names) if kind == "update" else 0.0
            found[row, j] = eps * (50 * size * length + stored)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_plain_sgd_breaks_nothing(tmp_path, activation, dtype):
    run, _ = runs.train(tmp_path / "sgd", "sgd", dtype=dtype, hidden=(6, 5), activation=activation)
    assert [group.kind for group in run.symmetries] == ["rescale", "rescale", "translation"]
    frame = compute(run, "symmetry", units="all")
    for group in run.symmetries:
        for kind in ("grad", "update"):
            rows = frame[(frame["group"] == group.label) & (frame["kind"] == kind) & (frame["quantity"] == "unit")]
            units = rows.pivot(index="step", columns="unit", values="value").to_numpy()
            limit = tolerated(run, group, kind, str(dtype).removeprefix("torch."))
            assert (np.abs(units) <= limit).all()
            assert (measured(frame, group, kind, "deviation") <= limit.sum(axis=1)).all()
            assert (limit < 1e-3).all(), "a tolerance that hides nothing"
            chance = measured(frame, group, "random", "chance").item()
            assert (measured(frame, group, kind, "share") < 1e-8 * chance).all()


def test_momentum_breaks_what_its_gradients_do_not(momentum):
    frame = compute(momentum, "symmetry")
    for group in momentum.symmetries:
        grad, update = (measured(frame, group, kind, "share") for kind in ("grad", "update"))
        assert (grad < 1e-24).all()
        if group.kind == "rescale":
            assert update[0] < 1e-24, "the first update is plain SGD's"
            assert (update.loc[2:] > 1e-8).all()
            assert (measured(frame, group, "update", "deviation").loc[2:] > 1e-6).all()
        else:  # sums of gradients whose columns sum to 0 sum to 0: linear, so momentum keeps it
            assert (update < 1e-24).all()


def test_adam_breaks_every_group(adam):
    frame = compute(adam, "symmetry")
    for group in adam.symmetries:
        assert (measured(frame, group, "update", "share") > 1e-4).all()
        assert (measured(frame, group, "grad", "share") < 1e-9).all()


@pytest.mark.parametrize("eps", [1e-5, 1e-2])
def test_scale_is_left_with_what_eps_leaves(tmp_path, eps):
    # z ↦ γ (z − μ)/√(σ² + ε) + β. With z scaled by ρ, d/dlnρ of the normalised z is itself times ε/(σ² + ε), so
    # ⟨g, ξ_j⟩ = γ_j ∂L/∂γ_j ε/(σ_j² + ε), exactly.
    run, variances = runs.train(
        tmp_path / "bn", "sgd", dtype=torch.float64, bn_eps=eps, hidden=(6, 5), activation="tanh", batch_norm=True
    )
    frame = compute(run, "symmetry", units="all")
    groups = [group for group in run.symmetries if group.kind == "scale"]
    assert [group.names[0] for group in groups] == ["0.weight", "3.weight"]
    for group, norm in zip(groups, ("1", "4"), strict=True):
        left = run.array("param", f"{norm}.weight") * run.array("grad", f"{norm}.weight")
        left = left * eps / (variances[norm] + eps)
        for kind, lr in (("grad", 1), ("update", 0.1)):
            rows = frame[(frame["group"] == group.label) & (frame["kind"] == kind) & (frame["quantity"] == "unit")]
            units = rows.pivot(index="step", columns="unit", values="value").to_numpy()
            limit = tolerated(run, group, kind, "float64")
            assert (np.abs(units / lr - left) <= limit / lr).all()
            assert np.median(np.abs(left)) > 10 * np.median(limit / lr), "there is something to see"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_plain_sgd_on_a_convolution(tmp_path, dtype):
    torch.manual_seed(0)
    nn = torch.nn
    layers = [nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model = nn.Sequential(*layers).to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    groups = [
        rescale([("0.weight", 0), ("0.bias", 0)], [("2.weight", 1)]),
        translation([("2.weight", 0), ("2.bias", 0)]),
    ]
    with Recorder(tmp_path / "conv", model, optimizer, symmetries=groups):
        for _ in range(6):
            optimizer.zero_grad()
            logits = model(torch.randn(16, 2, 6, 6, dtype=dtype))
            nn.functional.cross_entropy(logits, torch.randint(4, (16,))).backward()
            optimizer.step()
    run = open_run(tmp_path / "conv")
    frame = compute(run, "symmetry", units="all")
    for group, n_generators in zip(run.symmetries, (5, 5 * 2 * 2 + 1), strict=True):
        for kind in ("grad", "update"):
            rows = frame[(frame["group"] == group.label) & (frame["kind"] == kind) & (frame["quantity"] == "unit")]
            units = rows.pivot(index="step", columns="unit", values="value").to_numpy()
            assert units.shape == (6, n_generators)
            assert (np.abs(units) <= tolerated(run, group, kind, str(dtype).removeprefix("torch."))).all()


@pytest.mark.parametrize("group", CASES, ids=IDS)
def test_the_share_of_a_direction_along_the_symmetry_is_1(group):
    w = runs.random_arrays(3, seed=3)
    mixed = {n: np.zeros(a.shape) for n, a in w.items()}
    rng = np.random.default_rng(0)
    for row in range(3):
        for xi in runs.generators(group.to_json(), {n: w[n][row] for n in group.names}):
            factor = rng.normal()
            for n in group.names:
                mixed[n][row] += factor * xi[n]
    np.testing.assert_allclose(deviations(group, mixed, w)["share"], 1, rtol=1e-12)


@pytest.mark.parametrize("group", CASES, ids=IDS)
def test_a_random_direction_has_the_share_that_chance_says(group):
    n_draws = 4000
    w = {n: np.broadcast_to(a, (n_draws, *a.shape[1:])) for n, a in runs.random_arrays(1, seed=5).items()}
    got = deviations(group, runs.random_arrays(n_draws, seed=6), w)["share"]
    d = sum(math.prod(runs.SHAPES[n]) for n in group.names)
    k = count(group, runs.SHAPES)
    # The squared length of a random unit vector's projection from d to k dimensions is Beta(k/2, (d − k)/2).
    mean, variance = k / d, 2 * k * (d - k) / (d**2 * (d + 2))
    assert abs(got.mean() - mean) < 4 * math.sqrt(variance / n_draws)
    assert got.var() == pytest.approx(variance, rel=0.15)  # 4 σ: its relative error is about √(2 … 4 / 4000)


values = st.floats(-1e3, 1e3, allow_subnormal=False).map(lambda x: 0.0 if abs(x) < 1e-3 else x)


@st.composite
def a_step(draw, group):
    """Vectors and parameters of one step, zeros included."""
    pairs = [{n: draw(npst.arrays(float, (1, *runs.SHAPES[n]), elements=values)) for n in group.names} for _ in "vw"]
    return group, *pairs


steps = st.sampled_from(CASES).flatmap(a_step)


@settings(max_examples=60, deadline=None)
@given(steps, st.floats(1e-6, 1e6))
def test_the_share_is_bounded_and_free_of_the_size(step, factor):
    group, v, w = step
    share = deviations(group, v, w)["share"].item()
    if all((a == 0).all() for a in v.values()):
        assert math.isnan(share)
        return
    assert 0 <= share <= 1 + 1e-12
    scaled = deviations(group, {n: -factor * a for n, a in v.items()}, w)["share"].item()
    assert scaled == pytest.approx(share, rel=1e-9, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(steps)
def test_the_change_of_what_is_conserved_is_exact_for_any_update(step):
    group, u, w = step
    after = {n: w[n] + u[n] for n in w}
    change = conserved_change(group, w, u).item()
    data = group.to_json()
    before, then = (runs.naive_conserved(data, {n: a[0] for n, a in one.items()}) for one in (w, after))
    # Rounding: 1e-16 of the largest term, of which there are up to a hundred, none above 4e6.
    assert change == pytest.approx(then - before, rel=1e-9, abs=1e-6)
    assert conserved_quantity(group, w).item() == pytest.approx(before, rel=1e-12, abs=1e-6)


def test_consecutive_steps_chain_up(walked, momentum, adam):
    for run, eps in ((walked, 2e-16), (momentum, 2e-16), (adam, 1e-7)):
        frame = compute(run, "symmetry")
        for group in run.symmetries:
            q, change = (measured(frame, group, "update", name) for name in ("conserved", "conserved_change"))
            limit = 1000 * eps * max(1, q.abs().max())
            assert (q + change).to_numpy()[:-1] - q.to_numpy()[1:] == pytest.approx(0, abs=limit)
            assert change.abs().max() > 1e-5 or group.kind == "translation"


def test_zero_vectors_and_generators_of_length_zero():
    group = rescale([("a", 0)], [("c", 1)]).checked({"a": (2, 2), "c": (1, 2)})
    param = {"a": np.array([[[1.0, 2.0], [0.0, 0.0]]]), "c": np.array([[[3.0, 0.0]]])}  # unit 1 is dead
    zero = {n: np.zeros_like(a) for n, a in param.items()}
    got = deviations(group, zero, param)
    assert (got["unit"].tolist(), got["deviation"].tolist()) == ([[0, 0]], [0])
    assert np.isnan(got["share"]).all()
    # v = (1, 0; 5, 5 | 0, 5): ⟨v, ξ_0⟩ = 1, ‖ξ_0‖² = 14, unit 1 counts 0, ‖v‖² = 76.
    vector = {"a": np.array([[[1.0, 0.0], [5.0, 5.0]]]), "c": np.array([[[0.0, 5.0]]])}
    got = deviations(group, vector, param)
    assert got["unit"].tolist() == [[1, 0]]
    assert got["share"] == pytest.approx([1 / 14 / 76])
    assert deviations(group, vector, zero)["share"].tolist() == [0]
    assert np.isnan(symmetry_share(np.array([[np.nan]]), np.array([[0.0]]), np.array([1.0]))).all()


def test_gradients_that_are_none_nan_or_infinite(tmp_path):
    param, grad, update = runs.walk(6)
    grad["conv.bias"][2] = np.nan  # None
    grad["far"][3, 0, 0, 0] = np.nan
    grad["next"][4, 0, 0, 0, 0] = np.inf
    for array in grad.values():
        array[5] = np.nan  # None, all of them
    run = runs.write_run(tmp_path / "odd", param, grad, update, steps=range(6), parts=3)
    frame = compute(run, "symmetry", units="all")
    clean = compute(runs.write_run(tmp_path / "clean", *runs.walk(6), steps=range(6)), "symmetry", units="all")
    hurt = {
        "conv.bias": {2},
        "far": {3},
        "next": {4},
    }
    for group in run.symmetries:
        lost = set.union({5}, *(hurt.get(n, set()) for n in group.names))
        for quantity in ("deviation", "share", "unit_abs"):
            got, expected = (measured(f, group, "grad", quantity) for f in (frame, clean))
            assert got.index.tolist() == list(range(6)), "a step without a number is NaN, not left out"
            for step in range(6):
                if step not in lost:
                    assert got[step] == pytest.approx(expected[step])
                elif quantity == "share" or step != 4:
                    assert math.isnan(got[step])
                else:
                    assert math.isinf(got[step])
        for quantity in ("deviation", "share", "conserved", "conserved_change"):
            np.testing.assert_allclose(
                measured(frame, group, "update", quantity), measured(clean, group, "update", quantity)
            )


def test_parameters_that_came_later_leave_nan_before(tmp_path):
    param, grad, update = runs.walk(4)
    for arrays in (param, grad, update):
        arrays["skip"][:2] = np.nan
    frame = compute(runs.write_run(tmp_path / "late", param, grad, update, steps=range(4)), "symmetry")
    for kind in ("grad", "update"):
        share = measured(frame, CASES[0], kind, "share")
        assert share.isna().tolist() == [True, True, False, False]
        assert measured(frame, CASES[3], kind, "share").notna().all()


@pytest.mark.parametrize("kept", ["grad", "update"])
def test_with_only_gradients_or_only_updates(tmp_path, kept, walked):
    param, grad, update = runs.walk(24)
    run = runs.write_run(
        tmp_path / "one",
        param,
        grad if kept == "grad" else None,
        update if kept == "update" else None,
        steps=range(24),
    )
    both = compute(walked, "symmetry")
    alone = compute(run, "symmetry")
    expected = both[both["kind"].isin([kept, "random"])]
    assert runs.same(*(f.drop(columns=["run", "label"]) for f in (alone, expected)), rtol=1e-12)


def test_units_thin_out():
    metric = Symmetry()
    steps = np.arange(20001)
    kept = steps[metric._unit_steps(steps)]
    expected = [*range(100), *range(100, 1000, 10), *range(1000, 10000, 100), 10000, 11000]
    assert kept[: len(expected)].tolist() == expected
    assert Symmetry("all")._unit_steps(steps).all()
    assert not Symmetry("none")._unit_steps(steps).any()
    with pytest.raises(BadArgument, match="units is 'thinned', 'all' or 'none', found 'some'"):
        Symmetry("some")


def test_units_none_leaves_out_single_units_alone(walked):
    thinned, none = compute(walked, "symmetry"), compute(walked, "symmetry", units="none")
    assert "unit" not in none["quantity"].tolist()
    assert runs.same(thinned[thinned["quantity"] != "unit"], none)
    assert (none["unit"] == -1).all()


def test_groups_that_share_parameters_and_kind_are_told_apart(tmp_path):
    groups = [{"kind": "translation", "in": [["square", axis]]} for axis in (0, 1)]
    arrays = runs.walk(3, shapes={"square": (4, 4)})
    run = runs.write_run(tmp_path / "twice", *arrays, steps=range(3), symmetries=groups)
    frame = compute(run, "symmetry")
    deviation = frame[(frame["kind"] == "grad") & (frame["quantity"] == "share")]
    assert deviation["group"].nunique() == 2
    for (_, rows), axis in zip(deviation.groupby("group", observed=True), (0, 1), strict=True):
        g = arrays[1]["square"]
        expected = (g.sum(axis=1 + axis) ** 2).sum(axis=1) / 4 / (g**2).sum(axis=(1, 2))
        np.testing.assert_allclose(rows["value"], expected)


def test_what_is_missing_is_said(tmp_path):
    param, grad, update = runs.walk(2)
    with pytest.raises(MissingData, match="no symmetry groups were declared"):
        compute(runs.write_run(tmp_path / "a", param, grad, update, steps=[0, 1], symmetries=[]), "symmetry")
    with pytest.raises(MissingData, match="it needs param, and grad or update, and the run has grad, update"):
        compute(runs.write_run(tmp_path / "b", None, grad, update, steps=[0, 1]), "symmetry")
    with pytest.raises(MissingData, match="it needs param, and grad or update, and the run has param"):
        compute(runs.write_run(tmp_path / "c", param, None, None, steps=[0, 1]), "symmetry")


def test_inner_products_are_linear_in_the_vector():
    w, v, u = (runs.random_arrays(2, seed=s) for s in (1, 2, 3))
    for group in CASES:
        both = inner_products(group, {n: 2 * v[n] - u[n] for n in v}, w)
        np.testing.assert_allclose(both, 2 * inner_products(group, v, w) - inner_products(group, u, w), atol=1e-12)


def test_an_update_of_sgd_has_its_gradients_sign():
    v, w = runs.random_arrays(1, seed=1), runs.random_arrays(1, seed=2)
    metric = Symmetry("all")
    context = type("C", (), {"groups": {g.label: g for g in CASES}, "kinds": ("grad", "update")})
    chunk = Chunk(np.array([0]), w, v, {n: -0.5 * a for n, a in v.items()})
    ((_, numbers),) = metric.update(context, chunk).spans
    for group in CASES:
        np.testing.assert_allclose(numbers[group.label, "update", "unit"], 0.5 * numbers[group.label, "grad", "unit"])


def test_a_session_that_saved_no_parameters_leaves_nan(tmp_path):
    param, grad, update = runs.walk(4)
    runs.write_run(tmp_path / "run", None, *({n: a[:2] for n, a in v.items()} for v in (grad, update)), steps=[0, 1])
    late = ({n: a[2:] for n, a in v.items()} for v in (param, grad, update))
    run = runs.write_run(tmp_path / "run", *late, steps=[2, 3], if_exists="resume")
    frame = compute(run, "symmetry")
    for group in CASES:
        assert measured(frame, group, "update", "share").isna().tolist() == [True, True, False, False]
    ratio = runs.series(compute(run, "dynamics"), parameter="next", quantity="ratio")
    assert ratio.isna().tolist() == [True, True, False, False]
