"""Which coordinates are recorded: by name, by a seeded choice, by a seeded projection; and what they hold."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from training import network, recorded

from trajectory_tools.errors import BadArgument, MissingData
from trajectory_tools.recorder import Recorder
from trajectory_tools.recorder.capture import Capture
from trajectory_tools.recorder.host_capture import HostCapture
from trajectory_tools.recorder.names import Named
from trajectory_tools.run import open_run
from trajectory_tools.store.hashing import place_hashes, place_key
from trajectory_tools.store.projection import Projection
from trajectory_tools.store.sampling import sampled_coordinates
from trajectory_tools.store.selection import Selection

KINDS = ("param", "grad", "update")


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


def test_match_records_the_tensors_of_those_parameters_and_the_stats_of_all(tmp_path):
    model = network()
    run, seen = recorded(tmp_path / "run", model, sgd(model), 4, match=r"^0\.|2\.bias")
    assert list(run.recorded_shapes) == ["0.weight", "0.bias", "2.bias"]
    for step, (before, grads, _) in enumerate(seen):
        for name in run.recorded_shapes:
            np.testing.assert_array_equal(run.array("param", name, steps=step)[0], before[name].numpy())
            np.testing.assert_array_equal(run.array("grad", name, steps=step)[0], grads[name].numpy())
    with pytest.raises(MissingData, match=r"'2\.weight' in .* is not recorded but in its stats"):
        run.array("param", "2.weight")
    assert set(run.stats()["name"]) == set(run.shapes) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert "all coordinates of the parameters that match" in repr(run)


def test_match_that_is_found_nowhere_says_the_names(tmp_path):
    model = network()
    with pytest.raises(BadArgument, match=r"found in no parameter's name; there are: 0\.weight, 0\.bias, 2\.weight"):
        Recorder(tmp_path / "run", model, sgd(model), match="layer")
    with pytest.raises(BadArgument, match=r"match is a regular expression, and '\(' is none"):
        Recorder(tmp_path / "run", model, sgd(model), match="(")
    assert Selection(match="b").matching(["a.b", "c"]) == ["a.b"]
    assert Selection().matching(["a.b", "c"]) == ["a.b", "c"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"subsample": 0.0}, "subsample is 0.0"),
        ({"subsample": 1.5}, "subsample is 1.5"),
        ({"subsample": True}, "subsample is True"),
        ({"subsample": "1"}, "subsample is '1'"),
        ({"projection": 0}, "projection is 0"),
        ({"projection": 2**17}, "projection is 131072"),
        ({"subsample": 0.1, "projection": 3}, "found both"),
        ({"subsample": 0.1, "selection_seed": -1}, "seed of a selection is -1"),
        ({"budget": "much", "steps": 3}, "'much' is no number of bytes"),
        ({"budget": "1GB"}, r"say how many there will be \(steps=\)"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, options, words):
    model = network()
    with pytest.raises(BadArgument, match=words):
        Recorder(tmp_path / "run", model, sgd(model), **options)
    assert not (tmp_path / "run").exists()


def test_hashes_are_those_of_splitmix64():
    """The first outputs for the seed 1234567, as the generator's reference implementation gives them."""
    found = place_hashes(1234567, 1, 6).tolist()
    assert found == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_the_choice_of_coordinates_is_the_documented_one():
    hashes = place_hashes(place_key(3, "a.weight"), 0, 5000)
    expected = sorted(sorted(range(5000), key=lambda i: hashes[i])[:40])
    assert sampled_coordinates(3, "a.weight", 5000, 40).tolist() == expected
    assert set(expected) <= set(sampled_coordinates(3, "a.weight", 5000, 41).tolist())
    assert sampled_coordinates(4, "a.weight", 5000, 40).tolist() != expected
    assert sampled_coordinates(3, "b.weight", 5000, 40).tolist() != expected
    # Recorded runs depend on these: they must never change.
    assert sampled_coordinates(0, "0.weight", 1000, 3).tolist() == [402, 639, 758]


def test_every_coordinate_is_as_likely():
    counts = np.bincount(np.concatenate([sampled_coordinates(s, "w", 20, 5) for s in range(2000)]), minlength=20)
    assert counts.sum() == 10_000
    assert ((counts - 500) ** 2 / 500).sum() < 43.8  # the 0.1 % point of χ² with 19 degrees of freedom


@given(st.integers(1, 5000), st.floats(1e-4, 1.0), st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_a_sample_is_sorted_distinct_and_of_its_size(numel, fraction, seed):
    count = Selection(subsample=fraction, seed=seed).counts({"w": numel})["w"]
    assert count == min(numel, max(1, round(fraction * numel)))
    places = sampled_coordinates(seed, "w", numel, count)
    assert len(places) == count
    assert (np.diff(places) > 0).all()
    assert 0 <= places[0] <= places[-1] < numel


def test_a_number_of_coordinates_is_shared_out():
    counts = Selection(subsample=100).counts({"a": 900, "b": 100, "c": 1, "d": 0})
    assert counts == {"a": 90, "b": 10, "c": 1, "d": 0}
    assert Selection(subsample=10**9).counts({"a": 900}) == {"a": 900}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_a_subsample_is_what_happened_at_its_coordinates(tmp_path, dtype):
    model = network(dtype=dtype)
    run, seen = recorded(tmp_path / "run", model, sgd(model), 3, subsample=0.4, selection_seed=5)
    assert run.selection == Selection(subsample=0.4, seed=5)
    assert run.metadata["selection"] == {
        "kind": "subsample", "subsample": 0.4, "seed": 5, "algorithm": "splitmix64-smallest",
    }  # fmt: skip
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for name, shape in run.recorded_shapes.items():
        places = run.coordinates(name)
        assert shape == (len(places),) == (max(1, round(0.4 * np.prod(run.shapes[name]))),)
        for step, (before, grads, after) in enumerate(seen):
            old, grad, new = (x[name].to(wide).numpy().ravel()[places] for x in (before, grads, after))
            np.testing.assert_array_equal(run.array("param", name, steps=step)[0], old)
            np.testing.assert_array_equal(run.array("grad", name, steps=step)[0], grad)
            np.testing.assert_array_equal(run.array("update", name, steps=step)[0], new - old)
    listed = json.loads((tmp_path / "run" / "run.json").read_text())["params"]
    assert [p["recorded"] for p in listed] == [8, 2, 5, 1]


def dense_matrix(projection):
    """P as the documentation has it, coordinate by coordinate: (k, numel)."""
    length, k, seed = projection.block, projection.dims, projection.seed
    order = np.argsort(place_hashes(place_key(seed, f"order {length}"), 0, length), kind="stable")
    rank = np.argsort(order)
    negative = place_hashes(place_key(seed, f"sign {length}"), 0, length)
    blocks = place_hashes(place_key(seed, projection.name), 0, -(-projection.numel // length))
    matrix = np.zeros((k, projection.numel))
    for i in range(projection.numel):
        b, c = divmod(i, length)
        r = max(r for r in range(k) if r * length // k <= rank[c])
        sign = (-1 if int(negative[c]) & 1 else 1) * (-1 if int(blocks[b]) & 1 else 1)
        matrix[(r + (int(blocks[b]) >> 32) % k) % k, i] = sign
    return matrix


@pytest.mark.parametrize(("numel", "dims"), [(50, 7), (64, 8), (9, 8)])
def test_a_projection_is_the_documented_one(numel, dims):
    projection = Projection(2, "w", numel, dims)
    matrix = dense_matrix(projection)
    assert (np.abs(matrix).sum(0) == 1).all()
    x = np.random.default_rng(0).standard_normal(numel)
    np.testing.assert_allclose(projection.apply(x), matrix @ x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("numel", [700, 150_000])  # of one block, and of three
def test_inner_products_of_projections_are_unbiased_and_as_exact_as_stated(numel):
    rng = np.random.default_rng(1)
    x = rng.standard_normal(numel)
    y = 0.5 * x + rng.standard_normal(numel)
    k, seeds = 32, range(150)
    found = np.array([Projection(s, "w", numel, k).apply(x) @ Projection(s, "w", numel, k).apply(y) for s in seeds])
    sd = np.sqrt(((x @ x) * (y @ y) + (x @ y) ** 2) / k)
    assert abs(found.mean() - x @ y) < 4 * sd / np.sqrt(len(seeds))
    assert 0.75 < found.std() / sd < 1.25


@given(st.integers(1, 400), st.integers(1, 40), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_projections_are_linear_and_keep_what_they_need_not_project(numel, dims, seed):
    projection = Projection(seed, "w", numel, dims)
    x, y = np.random.default_rng(seed).standard_normal((2, numel))
    np.testing.assert_allclose(
        projection.apply(2 * x - y), 2 * projection.apply(x) - projection.apply(y), rtol=1e-9, atol=1e-9
    )
    one = np.zeros(numel)
    one[seed % numel] = 3.0
    assert np.sum(projection.apply(one) ** 2) == pytest.approx(9.0)  # one coordinate falls into one bucket
    if numel <= dims:
        np.testing.assert_array_equal(projection.apply(x), x)


def test_recorded_projections_are_those_of_what_happened(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 5000), nn.Tanh(), nn.Linear(5000, 3))  # the first takes three blocks
    optimizer, seen = sgd(model), []
    with Recorder(tmp_path / "run", model, optimizer, projection=16, selection_seed=4):
        for step in range(2):
            optimizer.zero_grad()
            model(torch.randn(4, 30)).square().sum().backward()
            if step:
                model[0].bias.grad = None
            before = {n: p.detach().clone().numpy() for n, p in model.named_parameters()}
            grads = {n: None if p.grad is None else p.grad.clone().numpy() for n, p in model.named_parameters()}
            optimizer.step()
            seen.append((before, grads, {n: p.detach().numpy() - before[n] for n, p in model.named_parameters()}))
    run = open_run(tmp_path / "run")
    assert run.recorded_shapes == {"0.weight": (16,), "0.bias": (16,), "2.weight": (16,), "2.bias": (3,)}
    for name in run.shapes:
        projection = run.projection(name)
        for step, columns in enumerate(seen):
            for kind, values in zip(KINDS, columns, strict=True):
                found = run.array(kind, name, steps=step)[0]
                if values[name] is None:
                    assert np.isnan(found).all()
                    continue
                size = np.linalg.norm(values[name])
                np.testing.assert_allclose(found, projection.apply(values[name]), rtol=1e-5, atol=1e-6 * size)
    with pytest.raises(MissingData, match="random projections, which are no coordinates"):
        run.coordinates("0.weight")


@pytest.mark.parametrize(
    "selection", [Selection(match="^0"), Selection(subsample=0.1), Selection(projection=16)], ids=str
)
def test_on_a_device_the_same_is_selected(selection):
    found = []
    for kind in (HostCapture, Capture):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(30, 5000), nn.Tanh(), nn.Linear(5000, 3))
        model(torch.randn(4, 30)).square().sum().backward()
        model[2].weight.grad = None
        capture = kind([Named(n, p) for n, p in model.named_parameters()], KINDS, stats=True, selection=selection)
        capture.before()
        capture.gradients()
        sgd(model).step()
        found.append(capture.after(0).rows)
    host, device = found
    assert host.layout.names == device.layout.names
    assert host.present["grad"].tolist() == device.present["grad"].tolist()
    for column in KINDS:
        np.testing.assert_allclose(host.values[column], device.values[column], rtol=1e-4, atol=1e-5)


def test_the_same_selection_gives_the_same_bytes_and_a_resumed_run_keeps_it(tmp_path):
    contents = []
    for name in ("a", "b"):
        model = network()
        options = {"subsample": 0.3, "run_id": "same"}
        run, _ = recorded(tmp_path / name, model, sgd(model), 5, **options)
        contents.append([path.read_bytes() for path in run.files("tensors")])
    assert contents[0] == contents[1]
    model = network()
    with pytest.raises(
        BadArgument, match=r"has a random 30 % of the coordinates, and would go on with all coordinates"
    ):
        Recorder(tmp_path / "a", model, sgd(model), if_exists="resume").attach()
    run, _ = recorded(tmp_path / "a", model, sgd(model), 2, subsample=0.3, if_exists="resume")
    assert run.array("param", "0.weight").shape == (7, 6)
