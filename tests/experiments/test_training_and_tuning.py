"""The training loop, and the learning rate it is tuned with."""

import json
import math

import pytest
import torch

from trajectory_tools.errors import BadArgument, UnknownName
from trajectory_tools.experiments.training import train
from trajectory_tools.experiments.tune import LEARNING_RATES, SEEDS, tune_lr
from trajectory_tools.optimizers import make_optimizer
from trajectory_tools.problems import SEED_LIMIT, make_problem


def test_training_is_the_plain_loop():
    problem = make_problem("digits-mlp", activation="relu")
    optimizee, by_hand = problem.start(0), problem.start(0)
    losses = train(optimizee, make_optimizer("adam", optimizee.model.parameters()), 30)

    optimizer = torch.optim.Adam(by_hand.model.parameters(), lr=0.01)
    expected = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = by_hand.loss(next(by_hand.batches))
        loss.backward()
        optimizer.step()
        expected.append(loss.detach())
    assert torch.equal(torch.stack(losses), torch.stack(expected))
    assert not losses[0].requires_grad
    assert losses[-1] < 0.7 * losses[0]
    for p, q in zip(optimizee.model.parameters(), by_hand.model.parameters(), strict=True):
        assert torch.equal(p, q)
    assert torch.equal(next(optimizee.batches)[0], next(by_hand.batches)[0]), "one batch for each step, no more"


def test_on_step_comes_after_the_update_and_may_end_the_run():
    optimizee = make_problem("quadratic").start(0)
    theta = optimizee.model.get_parameter("theta")
    seen = [theta.detach().clone()]

    def on_step(loss):
        assert not torch.equal(theta, seen[-1])
        seen.append(theta.detach().clone())
        return len(seen) > 3

    losses = train(optimizee, make_optimizer("sgd", [theta], lr=1e-3), 10, on_step=on_step)
    assert len(losses) == 3
    assert len(train(optimizee, make_optimizer("sgd", [theta], lr=1e-3), 2, on_step=lambda loss: None)) == 2


@pytest.mark.parametrize("n_steps", [0, -3])
def test_no_steps(n_steps):
    optimizee = make_problem("quadratic").start(0)
    with pytest.raises(BadArgument, match=f"the number of steps is {n_steps}; give at least 1"):
        train(optimizee, make_optimizer("sgd", optimizee.model.parameters()), n_steps)


def test_tuning_is_an_exhaustive_search():
    problem = make_problem("digits-mlp", activation="leaky_relu")
    tuning = tune_lr(problem, "sgd", momentum=0.9)
    assert tuple(trial.lr for trial in tuning.table) == LEARNING_RATES
    assert LEARNING_RATES == (1e-4, 5e-4, 1e-3, 5e-3, 1e-2, 5e-2, 1e-1, 5e-1, 1, 3)
    assert (tuning.steps, tuning.seeds) == (50, SEEDS)
    for trial in (tuning.table[3], tuning.table[8]):
        for seed, summed in zip(tuning.seeds, trial.losses, strict=True):
            optimizee = problem.start(seed)
            optimizer = torch.optim.SGD(optimizee.model.parameters(), lr=trial.lr, momentum=0.9)
            assert summed == pytest.approx(sum(loss.item() for loss in train(optimizee, optimizer, 50)), rel=1e-6)
        assert trial.mean == pytest.approx(sum(trial.losses) / 3)
    assert tuning.best == min(tuning.table, key=lambda trial: trial.mean).lr
    assert 0.1 <= tuning.best <= 1
    assert tune_lr(problem, "sgd", momentum=0.9) == tuning


def test_tuning_seeds_are_none_that_a_run_is_recorded_with():
    assert len(set(SEEDS)) == 3
    assert min(SEEDS) >= SEED_LIMIT == 2**32


def test_divergence_counts_as_infinite_and_json_says_null():
    tuning = tune_lr(make_problem("quadratic"), "sgd")
    assert math.isinf(tuning.table[-1].mean)
    assert tuning.best in {5e-3, 1e-2}
    assert math.isfinite(next(trial.mean for trial in tuning.table if trial.lr == tuning.best))
    stored = json.loads(json.dumps(tuning.to_json(), allow_nan=False))
    assert stored["best"] == tuning.best
    assert stored["table"][-1]["mean"] is None
    assert stored["table"][0] == {
        "lr": 1e-4,
        "losses": list(tuning.table[0].losses),
        "mean": tuning.table[0].mean,
    }
    assert (stored["steps"], stored["seeds"]) == (50, list(SEEDS))


def test_of_equal_learning_rates_the_smaller_wins():
    # λ = 1 leaves SGD's learning rate, the tuned one, without effect.
    tuning = tune_lr(make_problem("quadratic"), "lion-sgd", mix=1)
    assert len({trial.mean for trial in tuning.table}) == 1
    assert tuning.best == 1e-4


def test_when_every_learning_rate_diverges():
    with pytest.raises(BadArgument, match=r"sgd diverges on quadratic .* from 0.0001 to 3; give one with --lr"):
        tune_lr(make_problem("quadratic"), "sgd", weight_decay=1e30)


def test_tuning_refuses_what_it_cannot_do():
    with pytest.raises(BadArgument, match=r"lr is 0\.1 and to be tuned as well"):
        tune_lr(make_problem("quadratic"), "sgd", lr=0.1)
    with pytest.raises(UnknownName, match="did you mean momentum"):
        tune_lr(make_problem("quadratic"), "sgd", momentun=0.9)
