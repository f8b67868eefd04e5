"""The callbacks, in the real libraries, on tiny models: the weights stay the same, and the steps are all there.

And the same two trainings as scripts under ``traj record``, without any callback.
"""

from __future__ import annotations

import runpy
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from trajectory_tools.run import open_run

EXAMPLES = Path(__file__).parent.parent / "scripts" / "examples"


def trained(library, tmp_path, capsys):
    """(the run, the trained model), once the weights are found to be those without the callback."""
    pytest.importorskip(library, reason=f"skipped: {library} is not installed (make test-integrations)")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries' own
        from importlib import import_module

        callback = import_module(f"trajectory_tools.integrations.{library}").RecordTrajectory
        train = runpy.run_path(str(EXAMPLES / f"{library}_script.py"))["train"]
        plain, watched = train(), train([callback(tmp_path / "run", label="mine")])
    capsys.readouterr()
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), watched.parameters(), strict=True))
    run = open_run(tmp_path / "run")
    assert (run.status, run.label, run.optimizer) == ("finished", "mine", "AdamW")
    for name, parameter in watched.named_parameters():
        params, updates = run.array("param", name), run.array("update", name)
        np.testing.assert_array_equal(updates[:-1], params[1:] - params[:-1])
        np.testing.assert_array_equal(updates[-1], parameter.detach().numpy() - params[-1])
    return run


def test_lightning(tmp_path, capsys):
    run = trained("lightning", tmp_path, capsys)
    assert run.n_steps == 8  # two epochs of 8 batches, two a step
    total = sum((run.array("grad", name).astype(np.float64) ** 2).reshape(8, -1).sum(1) for name in run.shapes)
    np.testing.assert_allclose(np.sqrt(total), 0.1, rtol=1e-3)  # as the optimizer used it: clipped
    scalars = run.scalars()
    assert scalars["loss"].between(0.5, 2).all()
    assert scalars["lr"].tolist() == [0.01] * 4 + [0.005] * 4


def test_transformers(tmp_path, capsys):
    run = trained("transformers", tmp_path, capsys)
    assert run.n_steps == 6
    scalars = run.scalars()
    assert scalars["loss"].between(0.3, 1.5).all()
    assert {"grad_norm", "epoch"} <= set(scalars)


def test_the_same_scripts_under_traj_record(tmp_path):
    import sys

    for library in ("lightning", "transformers"):
        pytest.importorskip(library, reason=f"skipped: {library} is not installed (make test-integrations)")
    sys.path.insert(0, str(EXAMPLES.parent))
    try:
        from launching import launch
    finally:
        sys.path.pop(0)
    commands = []
    for library in ("lightning", "transformers"):
        script = EXAMPLES / f"{library}_script.py"
        commands.append(["python", script, f"--save={tmp_path / library}.plain"])
        commands.append(["traj", "record", script, "-o", library, "--", f"--save={tmp_path / library}.recorded"])
    ended = launch(commands, folder=tmp_path / "said", cwd=tmp_path)
    for library, steps, prefix in (("lightning", 8, "net."), ("transformers", 6, "bert.")):
        assert all(each.code == 0 for each in ended), [each.stderr for each in ended]
        one, two = (torch.load(tmp_path / f"{library}.{kind}") for kind in ("plain", "recorded"))
        assert all(torch.equal(one[key], two[key]) for key in one)
        run = open_run(tmp_path / library)
        assert run.n_steps == steps
        assert next(iter(run.shapes)).startswith(prefix)
        assert run.scalars()["loss"].between(0.3, 2).all()
