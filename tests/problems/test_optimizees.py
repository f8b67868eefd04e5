"""Starting a problem: seeds, mini-batches, losses."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from trajectory_tools.data import load_digits
from trajectory_tools.errors import BadArgument, MissingData
from trajectory_tools.problems import make_problem

SMALL = {
    "quadratic": {"size": 4},
    "digits-mlp": {"hidden": (5,), "batch_size": 100},
}


@pytest.fixture(params=SMALL)
def problem(request):
    return make_problem(request.param, **SMALL[request.param])


def weights(optimizee):
    return torch.cat([p.detach().flatten() for p in optimizee.model.parameters()])


def rows(batches, n_batches):
    """The mini-batches' images, as bytes."""
    return [[row.tobytes() for row in x.numpy()] for x, _ in islice(batches, n_batches)]


def test_a_seed_gives_the_same_bits_and_another_seed_others(problem):
    first, again, other = problem.start(7), problem.start(7), problem.start(8)
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))
    losses, same, others = ([o.loss(batch).item() for batch in islice(o.batches, 20)] for o in (first, again, other))
    assert losses == same
    assert losses != others


def test_batches_differ_between_seeds():
    problem = make_problem("digits-mlp")
    first, again, other = (rows(problem.start(seed).batches, 15) for seed in (0, 0, 1))
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_torchs_global_generator_is_neither_read_nor_moved(problem):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = problem.start(7)
    batches = list(islice(first.batches, 20))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = problem.start(7)
    assert torch.equal(weights(first), weights(second))
    for ours, theirs in zip(batches, islice(second.batches, 20), strict=True):
        assert all(map(torch.equal, ours, theirs))


def test_an_epoch_shows_each_training_image_at_most_once_and_drops_the_rest():
    images = load_digits()
    known = {x.tobytes(): y for x, y in zip(images.train_inputs, images.train_labels, strict=True)}
    assert len(known) == 1437, "the images are distinct, so they can be told apart"
    batches = make_problem("digits-mlp", batch_size=128).start(0).batches
    epochs = [list(islice(batches, 1437 // 128)) for _ in range(2)]
    for epoch in epochs:
        assert {len(x) for x, _ in epoch} == {128}
        seen = [(x.tobytes(), int(y)) for xs, ys in epoch for x, y in zip(xs.numpy(), ys, strict=True)]
        assert len(dict(seen)) == len(seen) == 11 * 128
        assert all(known[x] == y for x, y in seen)
    assert not torch.equal(epochs[0][0][0], epochs[1][0][0])


def test_every_image_has_its_turn_when_the_batch_is_the_whole_training_set():
    x, y = next(make_problem("digits-mlp", batch_size=1437).start(0).batches)
    images = load_digits()
    np.testing.assert_array_equal(np.sort(y), np.sort(images.train_labels))
    np.testing.assert_allclose(x.sum(0), images.train_inputs.sum(0), rtol=1e-5)


@pytest.mark.parametrize(("batch_norm", "fewest"), [(False, 1), (True, 2)])
def test_batch_sizes_that_the_data_can_give(batch_norm, fewest):
    for size in (fewest, 1437):
        optimizee = make_problem("digits-mlp", batch_size=size, batch_norm=batch_norm).start(0)
        assert optimizee.loss(next(optimizee.batches)).isfinite()
    for size in (fewest - 1, 1438):
        with pytest.raises(BadArgument, match=rf"batch_size is {size}; give"):
            make_problem("digits-mlp", batch_size=size, batch_norm=batch_norm).start(0)


def test_the_mlps_loss_by_hand():
    optimizee = make_problem("digits-mlp").start(0)
    p = {name: value.detach().double().numpy() for name, value in optimizee.model.named_parameters()}
    assert {name: value.shape for name, value in p.items()} == {
        "0.weight": (20, 64),
        "0.bias": (20,),
        "2.weight": (10, 20),
        "2.bias": (10,),
    }
    x, y = next(optimizee.batches)
    hidden = 1 / (1 + np.exp(-(x.numpy() @ p["0.weight"].T + p["0.bias"])))
    logits = hidden @ p["2.weight"].T + p["2.bias"]
    expected = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(y)), y.numpy()])
    assert optimizee.loss((x, y)).item() == pytest.approx(expected, rel=1e-5)
    assert optimizee.data == "digits (scikit-learn), 1,437/360"


def test_batch_norm_keeps_no_running_statistics():
    model = make_problem("digits-mlp", batch_norm=True, hidden=(6, 5), activation="tanh").start(0).model
    assert [type(layer).__name__ for layer in model] == ["Linear", "BatchNorm1d", "Tanh"] * 2 + ["Linear"]
    assert list(model.state_dict()) == [name for name, _ in model.named_parameters()]
    assert [name for name, _ in model.named_parameters()][2:4] == ["1.weight", "1.bias"]


def test_no_hidden_layer_is_softmax_regression():
    optimizee = make_problem("digits-mlp", hidden=()).start(0)
    assert [name for name, _ in optimizee.model.named_parameters()] == ["0.weight", "0.bias"]
    assert [group.kind for group in optimizee.symmetries] == ["translation"]


def test_newton_solves_the_quadratic_in_one_step():
    """Only of a quadratic, and the least value of ‖Wθ − y‖² is 0."""
    optimizee = make_problem("quadratic", size=3).start(0)
    theta = optimizee.model.get_parameter("theta")
    assert [name for name, _ in optimizee.model.named_parameters()] == ["theta"]
    (gradient,) = torch.autograd.grad(optimizee.loss(next(optimizee.batches)), theta, create_graph=True)
    hessian = torch.stack([torch.autograd.grad(g, theta, retain_graph=True)[0] for g in gradient])
    with torch.no_grad():
        theta -= torch.linalg.solve(hessian, gradient)
    assert optimizee.loss(next(optimizee.batches)).item() == pytest.approx(0, abs=1e-6)


def test_quadratics_are_standard_gaussian():
    """∇f(0) = −2 Wᵀy and f(0) = ‖y‖², so E f(0) = size and E ‖∇f(0)‖² = 4 size²."""
    values, gradients = [], []
    for seed in range(400):
        optimizee = make_problem("quadratic", size=10).start(seed)
        theta = optimizee.model.get_parameter("theta")
        assert 0 < theta.abs().max() < 0.06  # 0.01 times Gaussians
        with torch.no_grad():
            theta.zero_()
        loss = optimizee.loss(next(optimizee.batches))
        loss.backward()
        values.append(loss.item())
        gradients.append(theta.grad.square().sum().item())
    assert np.mean(values) == pytest.approx(10, abs=4 * np.sqrt(20 / 400))
    assert np.mean(gradients) == pytest.approx(400, rel=0.15)


def test_mnist_from_the_shared_folder():
    folder = Path(__file__).parents[3] / "shared" / "data" / "mnist"
    if not folder.is_dir():
        pytest.skip("../shared/data/mnist is not here")
    optimizee = make_problem("mnist-mlp", data_dir=folder).start(0)
    assert optimizee.data == "MNIST-10k, 8,000/2,000"
    assert optimizee.model.get_parameter("0.weight").shape == (20, 784)
    assert optimizee.loss(next(optimizee.batches)).item() == pytest.approx(np.log(10), abs=0.3)


def test_mnist_that_is_not_there(tmp_path):
    for name in ("mnist-mlp", "fashion-mnist-mlp"):
        with pytest.raises(MissingData, match=r"--data-dir DIR"):
            make_problem(name, data_dir=str(tmp_path)).start(0)
