"""The learned optimizer as it is recorded, with weights of a file and with those that ship."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cells import CellTwin, network
from torch import nn

import trajectory_tools as tt
from trajectory_tools.errors import BadArgument, MissingData
from trajectory_tools.experiments.recording import Experiment
from trajectory_tools.experiments.tune import tune_lr
from trajectory_tools.l2o import choice
from trajectory_tools.l2o.optimizer import LearnedOptimizer
from trajectory_tools.l2o.weights import load_weights, save_weights
from trajectory_tools.optimizers import make_optimizer
from trajectory_tools.problems import make_problem
from trajectory_tools.recorder import Recorder


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
