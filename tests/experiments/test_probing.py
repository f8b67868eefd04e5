"""Probing built-in problems: the recorded training is the one without, and refusals come before anything is made."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from trajectory_tools.errors import BadArgument
from trajectory_tools.experiments.probing import Probing
from trajectory_tools.experiments.recording import Experiment
from trajectory_tools.problems import make_problem
from trajectory_tools.run import open_run


@pytest.mark.parametrize("problem", ["digits-mlp", "quadratic"])
def test_a_probed_run_is_the_run_without_probes(tmp_path, problem):
    experiment = Experiment(make_problem(problem), "adam")
    for name, probing in {
        "without": None,
        "with": Probing(every=2, batches=3, samples=5 if problem == "digits-mlp" else 0, surrogates=2),
    }.items():
        experiment.record(tmp_path / name, seed=1, steps=5, probing=probing)
    runs = [open_run(tmp_path / name) for name in ("without", "with")]
    for name in runs[0].shapes:
        for column in ("param", "grad", "update"):
            np.testing.assert_array_equal(*(run.array(column, name) for run in runs))
    assert runs[0].scalars()["loss"].tolist() == runs[1].scalars()["loss"].tolist()
    assert runs[0].run_id != runs[1].run_id
    assert runs[1].probed_steps.tolist() == [0, 2, 4]
    assert runs[1].metadata["probing"]["every"] == 2
    sizes = [(s.batch_size, len(s.grad)) for s in runs[1].probe_sets(0)]
    assert sizes == ([(128, 3), (1, 5)] if problem == "digits-mlp" else [(None, 3)])
    said = experiment.size(seed=1, steps=5, probing=probing).tables
    assert {size.table: size.rows for size in said} == {
        table: sum(part.rows for part in runs[1].parts(table)) for table in ("scalars", "stats", "tensors", "probes")
    }
    written = {t: sum(part.bytes for part in runs[1].parts(t)) for t in ("tensors", "probes")}
    if problem == "digits-mlp":
        for size in (size for size in said if size.table in ("tensors", "probes")):
            assert 0.6 < written[size.table] / size.bytes < 1.1


def test_draws_are_independent_of_the_trainings_stream_and_the_same_each_time():
    first, second = (make_problem("digits-mlp").start(3) for _ in range(2))
    x, y = first.draw(None)
    assert torch.equal(x, second.draw(None)[0])
    assert len(y) == 128
    assert not torch.equal(x, first.draw(None)[0])
    assert torch.equal(next(first.batches)[0], next(make_problem("digits-mlp").start(3).batches)[0])
    assert len(first.draw(1000)[1]) == 1000


def test_a_probe_sees_each_mini_batch_that_is_drawn(tmp_path, monkeypatch):
    problem = make_problem("digits-mlp")
    start = type(problem).start
    drawn = []

    def watched(self, seed):
        optimizee = start(self, seed)

        def draw(size):
            drawn.append(optimizee.draw(size))
            return drawn[-1]

        return replace(optimizee, draw=draw)

    monkeypatch.setattr(type(problem), "start", watched)
    Experiment(problem, "sgd", {"lr": 0.1}).record(
        tmp_path / "run", seed=3, steps=4, probing=Probing(every=3, batches=2)
    )
    run = open_run(tmp_path / "run")
    assert len(drawn) == 4
    optimizee = start(problem, 3)
    for step in (0, 3):
        for name, parameter in optimizee.model.named_parameters():
            parameter.data = torch.from_numpy(run.array("param", name)[step].copy())
        [found] = run.probe_sets(step)
        assert found.batch_size == 128
        for grad in found.grad:
            optimizee.model.zero_grad()
            optimizee.loss(optimizee.draw(None)).backward()
            wanted = torch.cat([parameter.grad.reshape(-1) for parameter in optimizee.model.parameters()])
            np.testing.assert_array_equal(grad, wanted)


@pytest.mark.parametrize(
    ("problem", "options", "probing", "words"),
    [
        ("quadratic", {}, {"samples": 4}, "has no samples: its loss is deterministic"),
        ("digits-mlp", {"batch_norm": True}, {"samples": 4}, "normalizes over the mini-batch"),
        ("digits-mlp", {}, {"samples": 10**6}, "1,000,000 single samples are more than the 1,437"),
    ],
)
def test_refusals_come_first(tmp_path, problem, options, probing, words):
    with pytest.raises(BadArgument, match=words):
        Experiment(make_problem(problem, **options), "sgd").record(
            tmp_path / "run", seed=0, steps=2, probing=Probing(**probing)
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"every": 0}, "every is 0"),
        ({"batches": 1}, "batches is 1; the spread needs 2"),
        ({"samples": -1}, "samples is -1"),
        ({"batches": 0}, "neither mini-batches nor single samples"),
        ({"sketch": 0}, "sketch is 0"),
        ({"surrogates": -1}, "surrogates is -1"),
    ],
)
def test_numbers_that_mean_nothing(options, words):
    with pytest.raises(BadArgument, match=words):
        Probing(**options)


def test_to_json_can_be_compared_after_reading():
    probing = Probing(at=(0, 5), sketch=10)
    assert json.loads(json.dumps(probing.to_json())) == probing.to_json()
    assert [probing(step) for step in (0, 1, 5)] == [True, False, True]
    assert probing.n_probed(5) == 1


def test_an_optimizer_that_evaluates_the_loss_itself_is_refused():
    optimizee = make_problem("quadratic").start(0)
    with pytest.raises(BadArgument, match="LBFGS evaluates the loss several times"):
        Probing().check(optimizee, torch.optim.LBFGS(optimizee.model.parameters()))
