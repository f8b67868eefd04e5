"""Meta-training as a whole: that it learns, resumes, records, and ends well whatever happens."""

from __future__ import annotations

import math
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import trajectory_tools as tt
from trajectory_tools.cli.main import app
from trajectory_tools.errors import BadArgument, MissingData, OutputExists, TrajectoryError
from trajectory_tools.experiments.meta_training import MetaTraining, Recording, checkpoint_of
from trajectory_tools.experiments.tune import SEEDS as TUNING_SEEDS
from trajectory_tools.l2o.checkpoint import load_checkpoint, save_checkpoint
from trajectory_tools.l2o.meta_training import Diverged, MetaTrainer, _horizon, held_out_seeds, run_seed
from trajectory_tools.l2o.options import MetaTrainingOptions
from trajectory_tools.l2o.weights import load_weights
from trajectory_tools.options import option
from trajectory_tools.problems import SEED_LIMIT, Optimizee, Problem, make_problem
from trajectory_tools.problems.quadratic import Quadratic

SMALL: dict[str, Any] = {
    "epochs": 2,
    "runs": 3,
    "horizon": (5, 12),
    "unroll": 5,
    "selection_seeds": 1,
    "selection_steps": 5,
}


def quadratic(**options: Any) -> MetaTraining:
    return MetaTraining(make_problem("quadratic"), MetaTrainingOptions.make({**SMALL, **options}))


def weights_in(path: Path) -> dict[str, torch.Tensor]:
    return load_weights(path)[0].state_dict()


def assert_identical(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


class Interrupt:
    """A callback that interrupts at the n-th call, as Ctrl-C does."""

    def __init__(self, call: int) -> None:
        self.left = call

    def __call__(self, _: object) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def test_it_learns_to_optimize_quadratics(tmp_path):
    made = quadratic(epochs=1, runs=30, horizon=20, selection_steps=20, selection_seeds=4, loss="sum", lr=0.01)
    losses = made.train(tmp_path / "w.safetensors")["losses"]
    assert losses["best_epoch"] > 0
    assert losses["best_selection"] < 0.8 * losses["selection"][0]


def test_the_best_weights_on_the_held_out_seeds_are_written(tmp_path):
    trainer = MetaTrainer(make_problem("quadratic"), MetaTrainingOptions.make(SMALL | {"epochs": 4}))
    seen = {}
    while not trainer.finished:
        if trainer.selection_is_due:
            weights = {name: value.clone() for name, value in trainer.network.state_dict().items()}
            seen[trainer.select().selection_loss] = weights
        else:
            trainer.run()
    assert len(seen) == 5
    assert_identical(trainer.best_network().state_dict(), seen[min(seen)])


@pytest.mark.parametrize("call", [1, 4, 6])
@pytest.mark.parametrize("options", [{}, {"scaling": 1.0, "loss": "sum", "keep": "inputs"}])
def test_resumed_after_an_interrupt_it_comes_to_the_identical_weights(tmp_path, options, call):
    made = quadratic(**options)
    expected = made.train(tmp_path / "whole.safetensors")
    output = tmp_path / "resumed.safetensors"
    with pytest.raises(KeyboardInterrupt):
        made.train(output, on_run=Interrupt(call))
    assert not output.exists()
    card = MetaTraining.resumed(output).train(output, resume=True)
    assert card["losses"] == expected["losses"]
    assert_identical(weights_in(output), weights_in(tmp_path / "whole.safetensors"))
    assert not checkpoint_of(output).exists()


def test_an_interrupt_within_a_run_goes_back_to_its_beginning(tmp_path):
    made = quadratic()
    made.train(tmp_path / "whole.safetensors")
    output = tmp_path / "resumed.safetensors"
    step = Interrupt(8)

    @dataclass(frozen=True, kw_only=True)
    class Interrupted(Quadratic):
        def start(self, seed: int) -> Optimizee:
            optimizee = super().start(seed)

            def batches() -> Iterator[tuple[()]]:
                while True:
                    if seed == run_seed(0, 2):
                        step(None)
                    yield ()

            return Optimizee(optimizee.model, batches(), optimizee.loss, (), "synthetic")

    with pytest.raises(KeyboardInterrupt):
        MetaTraining(Interrupted(), made.options).train(output)
    made.train(output, resume=True)
    assert_identical(weights_in(output), weights_in(tmp_path / "whole.safetensors"))


def test_ctrl_c_on_the_command_line_leaves_a_checkpoint_that_resumes(tmp_path):
    # Seconds of work, so that it cannot end before the signal comes.
    options = ["--epochs", "2", "--runs", "200", "--horizon", "10", "--unroll", "5", "--selection-steps", "5"]
    command = [str(Path(sys.executable).with_name("traj")), "meta-train", "quadratic", *options, "-o", "w.safetensors"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # A shell's background job ignores Ctrl-C, and so would what it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    assert process.stderr is not None
    seen = process.stderr.readline()  # "epoch 0 of 2: ...": it runs
    process.send_signal(signal.SIGINT)
    output, rest = process.communicate(timeout=60)
    assert process.returncode == 130, seen + rest
    assert output == ""
    assert "traj meta-train --resume -o w.safetensors" in rest
    assert [path.name for path in tmp_path.iterdir()] == ["w.checkpoint"]
    done = CliRunner().invoke(app, ["meta-train", "--resume", "-o", str(tmp_path / "w.safetensors")])
    assert done.exit_code == 0, done.output
    given = MetaTrainingOptions(epochs=2, runs=200, horizon=(10,), unroll=5, selection_steps=5)
    MetaTraining(make_problem("quadratic"), given).train(tmp_path / "whole.safetensors")
    assert_identical(weights_in(tmp_path / "w.safetensors"), weights_in(tmp_path / "whole.safetensors"))


def test_the_number_of_threads_does_not_change_the_weights():
    found = []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        options = {**SMALL, "runs": 1, "epochs": 1, "hidden": ()} | {"units": 4}
        del options["hidden"]
        trainer = MetaTrainer(make_problem("digits-mlp", hidden=(70,)), MetaTrainingOptions.make(options))
        trainer.run()
        found.append({name: value.clone() for name, value in trainer.network.state_dict().items()})
    torch.set_num_threads(before)
    assert_identical(*found)


def test_it_starts_from_given_weights(tmp_path):
    first = tmp_path / "first.safetensors"
    quadratic(seed=3).train(first)
    trainer = MetaTrainer(make_problem("quadratic"), MetaTrainingOptions.make({**SMALL, "init": str(first)}))
    assert_identical(trainer.network.state_dict(), weights_in(first))
    trainer.run()
    assert not torch.equal(trainer.network.output.weight, weights_in(first)["output.weight"])
    with pytest.raises(BadArgument, match="its preprocess is True, not False"):
        quadratic(init=str(first), preprocess=False).train(tmp_path / "second.safetensors")
    with pytest.raises(BadArgument, match="no weights 'nowhere'"):
        quadratic(init="nowhere").train(tmp_path / "second.safetensors")


def test_resuming_with_other_options_is_refused(tmp_path):
    output = tmp_path / "w.safetensors"
    with pytest.raises(KeyboardInterrupt):
        quadratic().train(output, on_run=Interrupt(1))
    with pytest.raises(BadArgument, match=r"was begun with lr = 0.003, found 0.01"):
        quadratic(lr=0.01).train(output, resume=True)
    with pytest.raises(OutputExists, match="go on with --resume"):
        quadratic().train(output)
    quadratic().train(output, force=True)
    with pytest.raises(OutputExists, match="is there already"):
        quadratic().train(output)


def test_there_is_nothing_to_resume_without_a_checkpoint(tmp_path):
    with pytest.raises(BadArgument, match="there is no checkpoint"):
        MetaTraining.resumed(tmp_path / "w.safetensors")
    (tmp_path / "w.checkpoint").write_bytes(b"PK\x03\x04 no checkpoint")
    with pytest.raises(BadArgument, match="is no checkpoint"):
        MetaTraining.resumed(tmp_path / "w.safetensors")


def test_a_full_disk_at_a_checkpoint_is_one_sentence_and_leaves_the_last_one_whole(tmp_path):
    path = tmp_path / "w.checkpoint"
    save_checkpoint(path, {"numbers": torch.arange(3)})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # what is beyond cannot be written
    try:
        with pytest.raises(TrajectoryError, match=r"the checkpoint .* cannot be written: File too large"):
            save_checkpoint(path, {"numbers": torch.arange(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert load_checkpoint(path)["numbers"].tolist() == [0, 1, 2]
    assert [file.name for file in tmp_path.iterdir()] == ["w.checkpoint"]


def test_the_networks_weights_and_chosen_runs_are_recorded_by_the_recorder(tmp_path):
    made = MetaTraining(make_problem("digits-mlp"), MetaTrainingOptions.make({**SMALL, "epochs": 1}))
    made.train(tmp_path / "plain.safetensors")
    made.train(tmp_path / "w.safetensors", recording=Recording(tmp_path / "rec", runs=[0, 2]))
    assert_identical(weights_in(tmp_path / "w.safetensors"), weights_in(tmp_path / "plain.safetensors"))
    assert sorted(path.name for path in (tmp_path / "rec").iterdir()) == ["run-0", "run-2", "weights"]

    run = tt.open_run(tmp_path / "rec" / "run-2")
    assert 5 <= run.n_steps <= 12
    assert [group.kind for group in run.symmetries] == ["translation"]
    params, updates = run.array("param", "0.weight"), run.array("update", "0.weight")
    np.testing.assert_allclose(params[1:], params[:-1] + updates[:-1], atol=1e-6)
    assert run.scalars().loss.notna().all()
    fresh = made.problem.start(run_seed(0, 2)).model.state_dict()["0.weight"]
    np.testing.assert_array_equal(params[0], fresh.numpy())

    weights = tt.open_run(tmp_path / "rec" / "weights")
    assert set(weights.shapes) == set(weights_in(tmp_path / "w.safetensors"))
    theta, grad, update = (weights.array(column, "recurs2.weight_hh") for column in ("param", "grad", "update"))
    lr = weights.scalars().lr.to_numpy()
    # Adam's first step is lr · sign of the gradient.
    large = np.abs(grad[0]) > 1e-5
    np.testing.assert_allclose(update[0][large], -lr[0] * np.sign(grad[0][large]), rtol=0.02)
    np.testing.assert_allclose(theta[1:], theta[:-1] + update[:-1], atol=1e-6)


def test_recording_of_the_weights_goes_on_where_it_was_interrupted(tmp_path):
    made = quadratic()
    made.train(tmp_path / "whole.safetensors", recording=Recording(tmp_path / "whole"))
    output = tmp_path / "w.safetensors"
    with pytest.raises(KeyboardInterrupt):
        made.train(output, recording=Recording(tmp_path / "rec"), on_run=Interrupt(4))
    made.train(output, resume=True, recording=Recording(tmp_path / "rec"))
    whole, resumed = (tt.open_run(tmp_path / name / "weights") for name in ("whole", "rec"))
    assert resumed.n_steps == whole.n_steps
    for name in whole.shapes:
        np.testing.assert_array_equal(resumed.array("param", name), whole.array("param", name))


@dataclass(frozen=True, kw_only=True)
class Exploding(Problem):
    """A loss that is NaN from a step on, in every run from the first or in some alone."""

    name: ClassVar[str] = "exploding"
    nan_from: int = option(0, "step")
    every: int = option(1, "run")

    def start(self, seed: int) -> Optimizee:
        theta = torch.nn.Parameter(torch.ones(3))
        steps = iter(range(10**9))
        explodes = seed < held_out_seeds(0, 1)[0] and (seed - run_seed(0, 0)) % self.every == 0

        def loss(_: object) -> torch.Tensor:
            step = next(steps)
            return theta.square().sum() * (math.nan if explodes and step >= self.nan_from else 1.0)

        return Optimizee(torch.nn.ParameterDict({"theta": theta}), repeat(()), loss, (), "synthetic")


def test_steps_that_are_not_finite_are_skipped_and_counted(tmp_path):
    options = MetaTrainingOptions.make({**SMALL, "horizon": 15, "runs": 4})
    trainer = MetaTrainer(Exploding(nan_from=7, every=2), options)
    runs = [trainer.run() for _ in range(4)]
    assert [run.lost for run in runs] == [True, False, True, False]
    assert [run.n_steps for run in runs] == [7, 15, 7, 15]
    assert [run.skipped for run in runs] == [1, 0, 1, 0]
    assert trainer.skipped == 2
    assert trainer.meta_steps == 2 * (1 + 3)
    assert all(parameter.isfinite().all() for parameter in trainer.network.parameters())


def test_divergence_stops_it_and_the_best_weights_are_kept(tmp_path):
    output = tmp_path / "w.safetensors"
    with pytest.raises(Diverged, match=r"the last 20 runs .* the best weights so far, of epoch 0, are in"):
        MetaTraining(Exploding(), MetaTrainingOptions.make({**SMALL, "runs": 50})).train(output)
    assert all(value.isfinite().all() for value in weights_in(output).values())


def test_no_run_that_is_recorded_tuned_or_selected_on_is_trained_on():
    training = {run_seed(seed, number) for seed in (0, 1, 2**20 - 1) for number in (0, 2**20 - 1)}
    held_out = {seed for meta_seed in (0, 1, 2**20 - 1) for seed in held_out_seeds(meta_seed, 2**20)[:: 2**20 - 1]}
    assert len(training) == len(held_out) == 6
    assert min(training) > max(TUNING_SEEDS) >= SEED_LIMIT
    assert max(training) < min(held_out)


def test_runs_are_fresh_and_differ_in_length():
    trainer = MetaTrainer(make_problem("quadratic"), MetaTrainingOptions.make({**SMALL, "horizon": (5, 40)}))
    runs = [trainer.run() for _ in range(6)]
    assert len({run.mean_loss for run in runs}) == 6
    assert len({run.n_steps for run in runs}) > 3


def test_horizons_are_constant_or_log_uniform():
    generator = torch.Generator().manual_seed(0)
    drawn = np.array([_horizon((50, 200), generator) for _ in range(2000)])
    assert (drawn.min(), drawn.max()) == (50, 200)
    assert abs(np.log(drawn).mean() - np.log(100)) < 4 * np.log(4) / np.sqrt(12 * 2000)
    assert (drawn < 100).mean() == pytest.approx(0.5, abs=0.05)
    assert {_horizon((70,), generator) for _ in range(5)} == {70}


def test_the_meta_learning_rate_falls_as_a_cosine():
    trainer = MetaTrainer(make_problem("quadratic"), MetaTrainingOptions.make({**SMALL, "epochs": 2, "runs": 2}))
    rates = []
    for _ in range(4):
        trainer.run()
        rates.append(trainer.meta_optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([3e-3 * (1 + math.cos(math.pi * k / 4)) / 2 for k in range(4)])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"horizon": 10}, "horizon is .* shorter than the unroll of 20"),
        ({"horizon": (10, 200)}, "shorter than the unroll"),
        ({"horizon": (200, 50)}, "the least and the greatest"),
        ({"horizon": (50, 100, 200)}, "one number of steps, or"),
        ({"beta": -1}, "beta is -1; give a number at least 0"),
        ({"unroll": 0}, "unroll is 0"),
        ({"lr": 0}, "lr is 0"),
        ({"loss": "logarithm"}, "unknown loss"),
        ({"regularizer": "rescaling"}, "did you mean rescale"),
        ({"loss_cap": math.inf}, "loss_cap is inf"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options, says):
    with pytest.raises(BadArgument, match=says):
        MetaTrainingOptions.make(options)


def test_a_problem_without_the_symmetry_is_refused_before_anything_runs(tmp_path):
    options = MetaTrainingOptions.make({**SMALL, "regularizer": "rescale"})
    with pytest.raises(MissingData, match="'rescale' needs a problem with that symmetry, and this one has translation"):
        MetaTraining(make_problem("digits-mlp"), options).train(tmp_path / "w.safetensors")
    assert not list(tmp_path.iterdir())


def run_command(*words: object) -> Any:
    return CliRunner().invoke(app, ["meta-train", *map(str, words)])


def test_every_option_is_in_the_help_and_in_a_file(tmp_path):
    shown = run_command("--help").output
    names = [option.name for option in MetaTrainingOptions.listing()]
    assert [name for name in names if f"--{name.replace('_', '-')}" not in shown] == []
    config = tmp_path / "recipe.toml"
    config.write_text(
        'problem = "quadratic"\nsize = 4\nhorizon = [6, 8]\nunroll = 3\nloss-cap = 9.5\nselection_steps = 2\n'
        "runs = 2\nepochs = 5\nselection-seeds = 1\npreprocess = false\n"
    )
    done = run_command("--config", config, "--epochs", 1, "-o", tmp_path / "w.safetensors")
    assert done.exit_code == 0, done.output
    network, card = load_weights(tmp_path / "w.safetensors")
    assert card["recipe"]["horizon"] == [6, 8]
    assert card["recipe"]["loss_cap"] == 9.5
    assert card["recipe"]["epochs"] == 1  # the command line comes first
    assert card["problem"]["title"] == "quadratic, size=4"
    assert not network.preprocess


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("", "no problem is named"),
        ("no-such", "unknown problem 'no-such'"),
        ("digits-mlp --horizon 10", "shorter than the unroll"),
        ("digits-mlp --beta -1", "beta is '-1'"),
        ("digits-mlp --regularizer scale", "this one has translation"),
        ("digits-mlp --horizn 50", "did you mean --horizon"),
        ("digits-mlp --config nowhere.toml", "cannot be read from nowhere.toml: No such file"),
        ("digits-mlp --config broken.toml", "cannot be read from broken.toml"),
        ("digits-mlp --config table.toml", "has a table [training]"),
        ("digits-mlp --record-runs 1", "give --record DIR"),
        ("digits-mlp --record rec --record-runs 400", "there are runs 0 to 399"),
        ("digits-mlp --record rec --record-runs x", "separated by commas"),
        ("--resume", "there is no checkpoint weights.checkpoint"),
        ("digits-mlp -o /proc/nowhere/w.safetensors", "cannot be written"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.toml").write_text("epochs = = 3")
    (tmp_path / "table.toml").write_text("[training]\nepochs = 3")
    done = run_command(*words.split())
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    [sentence] = done.stderr.splitlines()
    assert says in sentence
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.toml", "table.toml"]
