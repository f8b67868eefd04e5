"""Scripts that know nothing of us train the same weights, and what was recorded is what they did."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from launching import EXAMPLES, TRAJ, launch
from launching import run as run_process

from trajectory_tools.run import find_runs, open_run

SCRIPTS = ("mnist", "nanogpt", "gan", "lbfgs")


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """(the folder, script → how it ended, run by python and recorded)."""
    folder = tmp_path_factory.mktemp("scripts")
    commands = []
    for name in SCRIPTS:
        script = EXAMPLES / f"{name}.py"
        commands.append(["python", script, f"--save={folder / name}.plain"])
        commands.append(["traj", "record", script, "-o", f"runs/{name}", "--", f"--save={folder / name}.recorded"])
    done = launch(commands, folder=folder / "said", cwd=folder)
    return folder, {name: done[2 * i : 2 * i + 2] for i, name in enumerate(SCRIPTS)}


def flat(state):
    states = state if isinstance(state, list) else [state]
    return {f"{i}.{name}": tensor for i, each in enumerate(states) for name, tensor in each.items()}


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_weights_are_bit_identical_and_the_recorded_ones_lead_to_them(ended, name):
    folder, how = ended
    plain, recorded = how[name]
    assert (plain.code, recorded.code) == (0, 0), recorded.stderr
    assert recorded.stdout == plain.stdout
    one, two = (flat(torch.load(folder / f"{name}.{kind}")) for kind in ("plain", "recorded"))
    assert all(torch.equal(one[key], two[key]) for key in one)
    runs = find_runs(folder / "runs" / name)
    assert sum(len(run.shapes) for run in runs) == len({t.data_ptr() for t in two.values()})
    order = {"gan": ["1", "0"]}.get(name, ["0"])  # the discriminator steps first, and is the second one saved
    for run, prefix in zip(runs, order, strict=True):
        assert run.status == "finished"
        for parameter in run.shapes:
            assert f"{prefix}.{parameter}" in two
            params, updates = run.array("param", parameter), run.array("update", parameter)
            np.testing.assert_array_equal(updates[:-1], params[1:] - params[:-1])
            last = two[f"{prefix}.{parameter}"].numpy()
            np.testing.assert_array_equal(updates[-1], last - params[-1])


def test_what_each_script_says_of_itself(ended):
    folder, how = ended
    mnist = open_run(folder / "runs/mnist")
    assert (mnist.optimizer, mnist.problem) == ("Adadelta", "mnist.py")
    assert mnist.metadata["command"].startswith("mnist.py --save=")
    printed = [float(line.split()[-1]) for line in how["mnist"][1].stdout.splitlines()]
    np.testing.assert_allclose(mnist.scalars()["loss"][[0, 5]], printed, atol=1e-6)
    gpt = open_run(folder / "runs/nanogpt").scalars()
    assert gpt["skipped"].tolist() == [True, True, False, False, False, False]
    assert gpt["loss"].between(2, 3).all()  # not times the scale, and summed over the micro-batches; ln 11 = 2.4
    assert gpt["lr"].is_monotonic_decreasing
    discriminator, generator = find_runs(folder / "runs/gan")
    assert (discriminator.path.name, discriminator.label) == ("optimizer-0", "gan optimizer-0 (Adam)")
    assert discriminator.scalars()["loss"].between(1, 4).all()  # two backward calls
    assert generator.scalars()["loss"].between(0.3, 1.5).all()
    lbfgs = open_run(folder / "runs/lbfgs").scalars()
    assert (lbfgs["n_evals"] > 1).all()
    assert lbfgs["loss"].is_monotonic_decreasing
    assert "traj: recorded 4 steps of LBFGS (4 parameters, 25 values) in runs/lbfgs\n" in how["lbfgs"][1].stderr
    assert how["lbfgs"][1].stderr.splitlines()[-1] == "next: traj report runs/lbfgs -o report.html"


def test_clipped_and_unscaled_gradients(ended):
    """nanoGPT's: accumulated, unscaled, clipped to a norm of 1."""
    run = open_run(ended[0] / "runs/nanogpt")
    total = sum((run.array("grad", name)[2:].astype(np.float64) ** 2).reshape(4, -1).sum(1) for name in run.shapes)
    assert (total <= 1.0001).all()
    assert (total > 1e-3).all()
    assert all((run.array("update", name)[:2] == 0).all() for name in run.shapes)


def test_a_script_beside_modules_of_its_own(tmp_path):
    """From start to end in processes of their own: torch is imported by the script, and not before."""
    script = EXAMPLES / "beside" / "train.py"
    plain = run_process(sys.executable, script, "--save", tmp_path / "plain", cwd=tmp_path)
    recorded = run_process(
        TRAJ, "record", script, "--match", "weight", "--", "--save", tmp_path / "recorded", cwd=tmp_path
    )
    assert (plain.code, recorded.code, recorded.stdout) == (0, 0, plain.stdout), recorded.stderr
    one, two = torch.load(tmp_path / "plain"), torch.load(tmp_path / "recorded")
    assert all(torch.equal(one[key], two[key]) for key in one)
    opened = open_run(tmp_path / "runs/train")
    assert set(opened.query("SELECT DISTINCT name FROM tensors")["name"]) == {"0.weight", "1.weight", "2.weight"}
    assert (opened.n_steps, opened.status) == (6, "finished")
