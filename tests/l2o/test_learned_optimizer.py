"""The learned optimizer against plain LSTM cells, as a torch optimizer, and recorded."""

from __future__ import annotations

import copy
import io
import json
import math
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import trajectory_tools as tt
from trajectory_tools.errors import BadArgument, MissingData
from trajectory_tools.experiments.recording import Experiment
from trajectory_tools.experiments.tune import tune_lr
from trajectory_tools.l2o import choice
from trajectory_tools.l2o.network import CoordinatewiseLSTM
from trajectory_tools.l2o.optimizer import LearnedOptimizer
from trajectory_tools.l2o.weights import load_weights, save_weights
from trajectory_tools.optimizers import make_optimizer
from trajectory_tools.problems import make_problem
from trajectory_tools.recorder import Recorder

SHAPES = [(3, 4), (5,), (), (0,), (2, 1, 3)]


def network(seed=0, **options):
    """Throw-away weights, larger than they start, so that every gate counts."""
    torch.manual_seed(seed)
    made = CoordinatewiseLSTM(**options)
    with torch.no_grad():
        for weight in made.parameters():
            weight.mul_(2)
    return made


def parameters(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for shape in SHAPES]


def gradients(n_steps, dtype=torch.float64, seed=1):
    """Of sizes from 1e-9 to 1e2, so that both of the preprocessing's cases occur."""
    generator = torch.Generator().manual_seed(seed)

    def gaussian(shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return [[(gaussian(shape) * 10 ** (3 * gaussian(shape) - 4)).to(dtype) for shape in SHAPES] for _ in range(n_steps)]


def walk(optimizer, params, grads):
    """Take one step for each list of gradients; a copy of all parameters after each."""
    path = []
    for step in grads:
        for param, grad in zip(params, step, strict=True):
            param.grad = None if grad is None else grad.clone()
        optimizer.step()
        path.append([param.detach().clone() for param in params])
    return path


def assert_same_path(path, other, **tolerance):
    for step, other_step in zip(path, other, strict=True):
        for tensor, other_tensor in zip(step, other_step, strict=True):
            if tolerance:
                torch.testing.assert_close(tensor, other_tensor, **tolerance)
            else:
                assert torch.equal(tensor, other_tensor)


class CellTwin:
    """The optimizer in the plainest words: two cells and a linear layer that take one parameter after the other."""

    def __init__(self, params, weights):
        self.params = list(params)
        self.n_inputs = weights["recurs.weight_ih"].shape[1]
        self.recurs = nn.LSTMCell(self.n_inputs, 20, dtype=torch.float64)
        self.recurs2 = nn.LSTMCell(20, 20, dtype=torch.float64)
        self.output = nn.Linear(20, 1, dtype=torch.float64)
        modules = nn.ModuleDict({"recurs": self.recurs, "recurs2": self.recurs2, "output": self.output})
        modules.load_state_dict(weights)
        self.states = {}

    @torch.no_grad()
    def step(self):
        for param in self.params:
            if param.grad is None:
                continue
            inputs = torch.tensor([self.inputs(g) for g in param.grad.flatten().tolist()], dtype=torch.float64)
            first, second = self.states.get(param, (None, None))
            first = self.recurs(inputs.view(-1, self.n_inputs), first)
            second = self.recurs2(first[0], second)
            self.states[param] = first, second
            param.add_(0.1 * self.output(second[0]).view(param.shape))

    def inputs(self, g):
        if self.n_inputs == 1:
            return [g]
        if abs(g) >= math.exp(-10):
            return [math.log(abs(g)) / 10, math.copysign(1, g)]
        return [-1, math.exp(10) * g]

    def zero_grad(self):
        for param in self.params:
            param.grad = None


@pytest.mark.parametrize("preprocess", [True, False])
def test_every_update_is_that_of_plain_lstm_cells(preprocess):
    weights = network(preprocess=preprocess)
    ours, theirs = parameters(), parameters()
    grads = gradients(6)
    path = walk(LearnedOptimizer(ours, weights=weights), ours, grads)
    assert_same_path(path, walk(CellTwin(theirs, weights.state_dict()), theirs, grads), rtol=1e-9, atol=1e-12)
    assert (path[0][0] - path[-1][0]).abs().min() > 1e-3, "it moves"


@pytest.mark.parametrize("preprocess", [True, False])
@pytest.mark.parametrize("threads", [1, 2])
def test_many_coordinates_are_cut_into_chunks(preprocess, threads):
    """Three chunks and a rest, against the formula; every third step only the second parameter has a gradient."""
    sizes = [9000, 5000]
    weights = network(preprocess=preprocess).double()
    params = [torch.zeros(size, dtype=torch.float64, requires_grad=True) for size in sizes]
    generator = torch.Generator().manual_seed(0)
    states = [weights.initial_state(size) for size in sizes]
    before, used = [torch.zeros(size, dtype=torch.float64) for size in sizes], torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        optimizer = LearnedOptimizer(params, weights=weights)
        for step in range(5):
            for i, param in enumerate(params):
                param.grad = torch.randn(sizes[i], generator=generator, dtype=torch.float64) * 10.0 ** (i - step)
                if step % 3 == 2 and i == 0:
                    param.grad = None
                    continue
                update, states[i] = weights(param.grad, states[i])
                before[i] += update.detach()
            optimizer.step()
            assert_same_path([params], [before], rtol=1e-9, atol=1e-12)
    finally:
        torch.set_num_threads(used)
    for param, state in zip(params, states, strict=True):
        for name in ("h1", "c1", "h2", "c2"):
            torch.testing.assert_close(optimizer.state[param][name], getattr(state, name).T, rtol=1e-9, atol=1e-12)


presence = st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4)


@given(present=presence)
@settings(deadline=None, max_examples=25)
def test_a_parameter_without_gradient_keeps_its_state(present):
    """Frozen, late and skipped parameters, in whichever order they have their first gradient."""
    weights = network()
    ours, theirs = parameters(), parameters()
    grads = [
        [grad if there else None for grad, there in zip(step, row, strict=True)]
        for step, row in zip(gradients(len(present)), present, strict=True)
    ]
    optimizer = LearnedOptimizer([{"params": ours[:2]}, {"params": ours[2:]}], weights=weights)
    path = walk(optimizer, ours, grads)
    assert_same_path(path, walk(CellTwin(theirs, weights.state_dict()), theirs, grads), rtol=1e-9, atol=1e-12)
    seen = {param for param, *there in zip(ours, *present, strict=True) if any(there)}
    assert set(optimizer.state) == seen


def test_a_late_group_starts_from_zero():
    weights = network()
    params, alone = parameters(), parameters()
    optimizer = LearnedOptimizer(params[:2], weights=weights)
    walk(optimizer, params[:2], [step[:2] for step in gradients(3)])
    optimizer.add_param_group({"params": params[2:]})
    late = walk(optimizer, params, gradients(3, seed=2))
    fresh = walk(LearnedOptimizer(alone[2:], weights=weights), alone[2:], [step[2:] for step in gradients(3, seed=2)])
    assert_same_path([step[2:] for step in late], fresh, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_a_resumed_run_is_the_same_to_the_bit(dtype):
    """Through a file, with a parameter that joined later and one that has not had a gradient yet."""
    params, resumed = parameters(dtype), parameters(dtype)
    grads = gradients(12, dtype)
    grads[0][0] = None
    for step in grads[:8]:
        step[4] = None
    optimizer = LearnedOptimizer(params, weights=network())
    walk(optimizer, params, grads[:5])
    file = io.BytesIO()
    torch.save([params, optimizer.state_dict()], file)
    expected = walk(optimizer, params, grads[5:])

    file.seek(0)
    values, state = torch.load(file, weights_only=True)
    assert len(file.getvalue()) < 60_000, "no more than the state itself"
    fresh = LearnedOptimizer(resumed, weights=network())
    with torch.no_grad():
        for param, value in zip(resumed, values, strict=True):
            param.copy_(value)
    fresh.load_state_dict(state)
    assert_same_path(walk(fresh, resumed, grads[5:]), expected)


def test_a_state_dict_is_a_copy_of_plain_tensors():
    params = parameters()
    optimizer = LearnedOptimizer(params, weights=network())
    walk(optimizer, params, gradients(2))
    state = optimizer.state_dict()
    before = copy.deepcopy(state)
    walk(optimizer, params, gradients(1))
    fresh = LearnedOptimizer(parameters(), weights=network())
    fresh.load_state_dict(state)
    walk(fresh, fresh.param_groups[0]["params"], gradients(2))
    for i, shape in enumerate(SHAPES):
        for name in ("h1", "c1", "h2", "c2"):
            assert torch.equal(state["state"][i][name], before["state"][i][name])
            assert state["state"][i][name].shape == (math.prod(shape), 20)
            assert state["state"][i][name].is_contiguous()


@pytest.mark.parametrize("twin_of", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))])
def test_a_copy_goes_its_own_way(twin_of):
    params = parameters()
    optimizer = LearnedOptimizer(params, weights=network())
    walk(optimizer, params, gradients(2))
    twin_params, twin = twin_of((params, optimizer))
    after = walk(optimizer, params, gradients(3))
    assert_same_path(walk(twin, twin_params, gradients(3)), after)
    assert twin.weights.sha256 == optimizer.weights.sha256


def test_the_state_can_be_looked_at_and_started_again():
    params = parameters()
    optimizer = LearnedOptimizer(params, weights=network())
    walk(optimizer, params, gradients(2))
    for state in optimizer.state.values():
        for value in state.values():
            value.zero_()
    start = copy.deepcopy(params)
    again = walk(optimizer, params, gradients(3))
    optimizer.state.clear()
    with torch.no_grad():
        for param, value in zip(params, start, strict=True):
            param.copy_(value)
    assert_same_path(walk(optimizer, params, gradients(3)), again)
    fresh = LearnedOptimizer(start, weights=network())
    assert_same_path(walk(fresh, start, gradients(3)), again)


def test_a_half_parameter_is_computed_in_float32_and_rounded_once():
    params = parameters(torch.bfloat16)
    optimizer = LearnedOptimizer(params, weights=network())
    whole = [param.detach().float().requires_grad_() for param in params]
    grads = gradients(1, torch.bfloat16)
    walk(optimizer, params, grads)
    walk(LearnedOptimizer(whole, weights=network()), whole, [[grad.float() for grad in grads[0]]])
    assert_same_path([params], [[param.bfloat16() for param in whole]])
    assert optimizer.state[params[0]]["c1"].dtype == torch.float32


def test_parameters_of_several_dtypes_go_side_by_side():
    weights = network()
    dtypes = (torch.float32, torch.float64, torch.bfloat16)
    params = [param for dtype in dtypes for param in parameters(dtype)]
    optimizer = LearnedOptimizer(params, weights=weights)
    grads = [[*a, *b, *c] for a, b, c in zip(*(gradients(2, d) for d in dtypes), strict=True)]
    path = walk(optimizer, params, grads)
    alone = parameters()
    assert_same_path([step[5:10] for step in path], walk(LearnedOptimizer(alone, weights=weights), alone, gradients(2)))


def test_a_parameter_that_changes_its_dtype_takes_its_state_along():
    model = nn.Linear(3, 2)
    optimizer = LearnedOptimizer(model.parameters(), weights=network())
    twin = copy.deepcopy(model).double()
    other = LearnedOptimizer(twin.parameters(), weights=network())
    for step in range(4):
        if step == 2:
            model.double()
        for m, o in ((model, optimizer), (twin, other)):
            o.zero_grad()
            (m(torch.ones(3, dtype=m.weight.dtype)) ** 2).sum().backward()
            o.step()
    torch.testing.assert_close(model.weight, twin.weight, rtol=1e-5, atol=1e-6)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_it_takes_the_same_steps_and_resumes_on_the_cpu():
    here, there = parameters(), [param.detach().cuda().requires_grad_() for param in parameters()]
    optimizer, gpu = (LearnedOptimizer(params, weights=network()) for params in (here, there))
    path = walk(optimizer, here, gradients(4))
    assert_same_path(walk(gpu, there, [[g.cuda() for g in step] for step in gradients(4)])[-1:], path[-1:], **GPU)
    back = LearnedOptimizer(here, weights=network())
    back.load_state_dict(gpu.state_dict())
    torch.testing.assert_close(back.state_dict(), optimizer.state_dict(), rtol=1e-9, atol=1e-12)


GPU = {"rtol": 1e-9, "atol": 1e-12, "check_device": False}


def test_neither_random_numbers_nor_a_graph():
    weights = network()
    before = torch.get_rng_state()
    params = parameters(torch.float32)
    optimizer = LearnedOptimizer(params, weights=weights)
    walk(optimizer, params, gradients(3, torch.float32))
    optimizer.load_state_dict(optimizer.state_dict())
    copy.deepcopy(optimizer)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(param.requires_grad and param.is_leaf for param in params)
    held = [*optimizer.weights.network.parameters(), *(v for s in optimizer.state.values() for v in s.values())]
    assert not any(value.requires_grad for value in held)


def test_gradients_stay_and_the_networks_later_changes_do_not_matter():
    weights = network()
    params, others = parameters(), parameters()
    optimizer, same = LearnedOptimizer(params, weights=weights), LearnedOptimizer(others, weights=weights)
    with torch.no_grad():
        weights.output.bias.add_(1)
    grads = gradients(1)[0]
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad
    kept = [grad.clone() for grad in grads]
    optimizer.step()
    assert all(map(torch.equal, grads, kept))
    assert_same_path([params], walk(same, others, [grads]))
    assert torch.equal(optimizer.weights.network.output.bias, network().output.bias)


def test_a_closure_is_evaluated_with_gradients():
    param = torch.ones(3, requires_grad=True)
    optimizer = LearnedOptimizer([param], weights=network())

    def closure():
        optimizer.zero_grad()
        loss = (param**2).sum()
        loss.backward()
        return loss

    before = param.detach().clone()
    assert optimizer.step(closure).item() == 3
    assert not torch.equal(param, before)
    assert optimizer.step() is None


def test_nan_and_infinite_gradients_stay_in_their_coordinate():
    params, clean = parameters(), parameters()
    grads, others = gradients(4), gradients(4)
    grads[1][0][1, 2] = math.nan
    grads[1][1][3] = math.inf
    grads[2][1][4] = -math.inf
    path = walk(LearnedOptimizer(params, weights=network()), params, grads)
    expected = walk(LearnedOptimizer(clean, weights=network()), clean, others)
    for step in range(4):
        touched = [torch.zeros(shape, dtype=torch.bool) for shape in SHAPES]
        touched[0][1, 2] = step >= 1
        touched[1][3] = step >= 1
        touched[1][4] = step >= 2
        for value, other, bad in zip(path[step], expected[step], touched, strict=True):
            assert torch.equal(value[~bad], other[~bad])
    assert path[1][0][1, 2].isnan()
    assert path[3][0][1, 2].isnan()
    assert path[3][1].isfinite().all(), "an infinite gradient is one that is very large"
    bound = 0.1 * (network().output.weight.abs().sum() + network().output.bias.abs())
    assert (path[1][1][3] - path[0][1][3]).abs() <= bound


def test_what_is_refused():
    dense, sparse = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    optimizer = LearnedOptimizer([dense, sparse], weights=network())
    dense.grad, sparse.grad = torch.ones(3), torch.ones(3).to_sparse()
    with pytest.raises(BadArgument, match="l2o found a sparse gradient; make it dense"):
        optimizer.step()
    assert torch.equal(dense.detach(), torch.ones(3))
    with pytest.raises(BadArgument, match=r"a parameter group has lr = 0\.1; leave it out"):
        optimizer.add_param_group({"params": [torch.ones(1, requires_grad=True)], "lr": 0.1})
    with pytest.raises(BadArgument, match="a parameter is complex"):
        optimizer.add_param_group({"params": [torch.ones(1, dtype=torch.complex64, requires_grad=True)]})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({**optimizer.param_groups[0], "params": [torch.ones(1, requires_grad=True)]})


def test_a_state_of_another_optimizer_is_refused():
    params = parameters()
    optimizer = LearnedOptimizer(params, weights=network())
    walk(optimizer, params, gradients(1))
    state = optimizer.state_dict()
    other = LearnedOptimizer(parameters(), weights=network(1))
    with pytest.raises(
        BadArgument, match=r"the state is of an optimizer with the weights in memory .*; give it the same"
    ):
        other.load_state_dict(state)
    with pytest.raises(BadArgument, match="the state is of an optimizer with the weights of another kind"):
        optimizer.load_state_dict(torch.optim.Adam(parameters()).state_dict())
    state["state"][0]["c1"] = state["state"][0]["c1"][:3]
    with pytest.raises(BadArgument, match=r"the state is of other parameters: c1 is \(3, 20\), needed \(12, 20\)"):
        optimizer.load_state_dict(state)
    del state["state"][0]["c1"]
    with pytest.raises(BadArgument, match="c1 is missing"):
        optimizer.load_state_dict(state)
    assert_same_path(walk(optimizer, params, gradients(2)), walk_after_one(2))


def walk_after_one(n_steps):
    params = parameters()
    optimizer = LearnedOptimizer(params, weights=network())
    walk(optimizer, params, gradients(1))
    return walk(optimizer, params, gradients(n_steps))


def train(model, optimizer, n_steps, log=None):
    generator = torch.Generator().manual_seed(3)
    dtype = next(model.parameters()).dtype
    for _ in range(n_steps):
        x = torch.randn(8, 5, generator=generator, dtype=dtype)
        loss = nn.functional.cross_entropy(model(x), torch.randint(0, 3, (8,), generator=generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if log is not None:
            log(loss=loss)


def perceptron(dtype):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).to(dtype)


def test_it_is_recorded_as_it_happened(tmp_path):
    model, twin = perceptron(torch.float64), perceptron(torch.float64)
    optimizer = LearnedOptimizer(model.parameters(), weights=network())
    with Recorder(tmp_path / "l2o", model, optimizer) as recorder:
        train(model, optimizer, 6, recorder.log)
    path = [copy.deepcopy(twin.state_dict())]
    cells = CellTwin(twin.parameters(), network().state_dict())
    train(twin, cells, 6, lambda loss: path.append(copy.deepcopy(twin.state_dict())))

    run = tt.open_run(tmp_path / "l2o")
    for name in run.shapes:
        param, update = run.array("param", name), run.array("update", name)
        after = [*param[1:], model.get_parameter(name).detach().numpy()]
        for step in range(6):
            assert (after[step] - param[step] == update[step]).all()
            expected = (path[step + 1][name] - path[step][name]).numpy()
            assert update[step] == pytest.approx(expected, rel=1e-9, abs=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recording_changes_nothing(tmp_path, dtype):
    recorded, plain = perceptron(dtype), perceptron(dtype)
    optimizer = LearnedOptimizer(recorded.parameters(), weights=network())
    with Recorder(tmp_path / "l2o", recorded, optimizer) as recorder:
        train(recorded, optimizer, 10, recorder.log)
    train(plain, LearnedOptimizer(plain.parameters(), weights=network()), 10)
    for p, q in zip(recorded.parameters(), plain.parameters(), strict=True):
        assert torch.equal(p, q)
    described = tt.open_run(tmp_path / "l2o").metadata["optimizer"]
    assert described["class"] == "trajectory_tools.l2o.optimizer.LearnedOptimizer"
    assert described["groups"] == [{"weights": "in memory", "sha256": optimizer.weights.sha256}]


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A package that ships weights for two kinds of networks."""
    monkeypatch.setattr(choice, "SHIPPED", tmp_path / "shipped")
    for seed, name in enumerate(["digits-mlp-sigmoid", "digits-mlp-leaky_relu"]):
        card = {"problem": {"title": name}, "seed": seed, "losses": {"best_selection": 0.36}}
        save_weights(tmp_path / "shipped" / f"{name}.safetensors", network(seed), card)
    return tmp_path / "shipped"


def test_the_shipped_weights_that_fit_are_recorded_with(shipped, tmp_path):
    experiment = Experiment(make_problem("digits-mlp", activation="leaky_relu"), "l2o")
    recorder = experiment.record(tmp_path / "run", seed=4, steps=5, save=["param", "update"])
    run = tt.open_run(tmp_path / "run")
    loaded, card = load_weights(shipped / "digits-mlp-leaky_relu.safetensors")
    described = run.metadata["optimizer"]
    assert described["options"] == {"weights": "digits-mlp-leaky_relu"}
    assert described["weights"] == {
        "name": "digits-mlp-leaky_relu",
        "sha256": described["groups"][0]["sha256"],
        "card": card,
    }
    assert (run.optimizer, recorder.steps_seen) == ("LearnedOptimizer", 5)
    assert "lr" not in run.scalars().dropna(axis=1)

    optimizee = experiment.problem.start(4)
    optimizer = LearnedOptimizer(optimizee.model.parameters(), weights=loaded)
    for _ in range(5):
        optimizer.zero_grad()
        optimizee.loss(next(optimizee.batches)).backward()
        optimizer.step()
    for name, param in optimizee.model.named_parameters():
        final = run.array("param", name)[-1] + run.array("update", name)[-1]
        assert (final == param.detach().numpy()).mean() > 0.99, "but for the rounding of that sum"


def test_the_same_weights_give_the_same_run_id_others_another(shipped, tmp_path):
    problem = make_problem("quadratic")

    def run_id(folder, **options):
        Experiment(problem, "l2o", options).record(tmp_path / folder, seed=0, steps=1)
        return tt.open_run(tmp_path / folder).run_id

    file = tmp_path / "mine.safetensors"
    save_weights(file, network(5))
    first = run_id("a", weights=str(file))
    assert run_id("b", weights=str(file)) == first
    save_weights(file, network(6), if_exists="replace")
    assert run_id("c", weights=str(file)) != first
    assert run_id("d") == run_id("e", weights="digits-mlp-sigmoid")


def test_the_report_names_the_weights(shipped, tmp_path, capsys):
    from trajectory_tools.cli.show import show
    from trajectory_tools.reports.described import describe, hyperparameters

    Experiment(make_problem("digits-mlp"), "l2o").record(tmp_path / "run", seed=0, steps=1)
    run = tt.open_run(tmp_path / "run")
    assert hyperparameters(run) == "weights digits-mlp-sigmoid"
    facts = dict(describe("l2o", [run]).facts)
    assert facts["weights"] == (
        f"meta-trained on digits-mlp-sigmoid, seed 0; sha256 {run.metadata['optimizer']['weights']['sha256']}",
    )
    show(tmp_path / "run")
    shown = capsys.readouterr().out
    assert "weights digits-mlp-sigmoid" in shown
    assert "meta-trained on digits-mlp-sigmoid" in shown


def test_no_learning_rate(shipped):
    with pytest.raises(BadArgument, match=r"l2o has no learning rate: .* leave lr out"):
        make_optimizer("l2o", [torch.ones(1, requires_grad=True)], lr=0.1)
    with pytest.raises(BadArgument, match="l2o has no learning rate"):
        tune_lr(make_problem("quadratic"), "l2o")


def test_where_none_are_shipped(tmp_path, monkeypatch):
    monkeypatch.setattr(choice, "SHIPPED", tmp_path)
    with pytest.raises(
        MissingData, match=r"no weights are shipped .*`traj meta-train digits-mlp -o weights.safetensors`"
    ):
        make_optimizer("l2o", [torch.ones(1, requires_grad=True)])
    with pytest.raises(MissingData):
        Experiment(make_problem("digits-mlp"), "l2o").record(tmp_path / "run", seed=0, steps=1)
    assert not (tmp_path / "run").exists()


def test_the_command_line_records_with_a_file(tmp_path):
    save_weights(tmp_path / "mine.safetensors", network(), {"seed": 3})
    command = [Path(sys.executable).with_name("traj"), "record", "digits-mlp", "--optimizer", "l2o", "--weights"]
    options = ["mine.safetensors", "--steps", "3", "-o", "run"]
    done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    described = json.loads((tmp_path / "run/run.json").read_text())["optimizer"]
    assert described["options"] == {"weights": "mine.safetensors"}
    assert described["weights"]["card"]["seed"] == 3
