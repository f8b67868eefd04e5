"""Steps that fail, that call others, that evaluate a closure: what stands in the record is what happened."""

import numpy as np
import pytest
import torch
from torch import nn
from training import backward, batches, network, recorded, sgd

from trajectory_tools.recorder import Recorder
from trajectory_tools.run import open_run


class Moody(torch.optim.SGD):
    """Fails in the middle of the steps that it is told to."""

    failing = ()
    calls = 0

    def step(self, closure=None):
        self.calls += 1
        super().step(closure)
        if self.calls in self.failing:
            raise ValueError("moody")


def test_a_step_that_fails_is_not_recorded_and_the_numbering_goes_on(tmp_path):
    torch.optim.SGD([nn.Parameter(torch.ones(1))])  # so that the parent's step is hooked, too
    model = network()
    optimizer = Moody(model.parameters(), lr=0.1)
    optimizer.failing = (3,)
    kept = []
    with Recorder(tmp_path / "run", model, optimizer) as recorder:
        for i, batch in enumerate(batches(5)):
            loss = backward(model, batch)
            before = model[0].bias.detach().clone()
            if i == 2:
                with pytest.raises(ValueError, match="moody"):
                    optimizer.step()
                continue
            optimizer.step()
            recorder.log(loss=loss)
            kept.append((before, loss.item()))
    run = open_run(tmp_path / "run")
    assert run.steps.tolist() == run.logged_steps.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(run.array("param", "0.bias"), torch.stack([b for b, _ in kept]).numpy())
    assert run.scalars()["loss"].tolist() == [loss for _, loss in kept]


class Twice(torch.optim.SGD):
    """Makes two of its parent's steps in one."""

    def step(self, closure=None):
        super().step()
        super().step()


@pytest.mark.parametrize("parent_first", [True, False])
@pytest.mark.parametrize("kind", [Moody, Twice])
def test_a_subclass_that_calls_its_parents_step_makes_one_record(tmp_path, kind, parent_first):
    if parent_first:
        torch.optim.SGD([nn.Parameter(torch.ones(1))])
    model = network()
    run, seen = recorded(tmp_path / "run", model, kind(model.parameters(), lr=0.1), 4)
    assert run.steps.tolist() == [0, 1, 2, 3]
    for step, (before, grads, after) in enumerate(seen):
        np.testing.assert_array_equal(run.array("grad", "0.weight")[step], grads["0.weight"].numpy())
        np.testing.assert_array_equal(
            run.array("update", "0.weight")[step], (after["0.weight"] - before["0.weight"]).numpy()
        )


@pytest.mark.parametrize("keyword", [True, False])
def test_a_closure_gives_loss_and_first_gradient(tmp_path, keyword):
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)
    plain = network()
    alone = torch.optim.LBFGS(plain.parameters(), lr=0.1, max_iter=4)
    firsts = []
    with Recorder(tmp_path / "run", model, optimizer):
        for batch in batches(3):
            calls = []

            def closure(batch=batch, calls=calls):
                loss = backward(model, batch)
                calls.append((loss.item(), model[0].weight.grad.clone()))
                return loss

            returned = optimizer.step(closure=closure) if keyword else optimizer.step(closure)
            assert returned.item() == calls[0][0]
            alone.step(lambda batch=batch: backward(plain, batch))
            firsts.append((*calls[0], len(calls)))
    run = open_run(tmp_path / "run")
    scalars = run.scalars()
    assert scalars["loss"].tolist() == [loss for loss, _, _ in firsts]
    assert scalars["n_evals"].tolist() == [n for _, _, n in firsts]
    assert max(scalars["n_evals"]) > 1
    np.testing.assert_array_equal(run.array("grad", "0.weight"), torch.stack([g for _, g, _ in firsts]).numpy())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


def test_a_closure_of_sgd_and_one_that_returns_something_else(tmp_path):
    model = network()
    optimizer = sgd(model)
    batch = next(batches(1))
    with Recorder(tmp_path / "run", model, optimizer) as recorder:
        loss = optimizer.step(lambda: backward(model, batch))
        optimizer.step(lambda: (backward(model, batch), "more"))
        optimizer.step(lambda: [backward(model, batch), None][1])
        optimizer.step(lambda: backward(model, batch).item())
        recorder.log(loss=9.0)
    scalars = open_run(tmp_path / "run").scalars()
    assert scalars["loss"][0] == loss.item()
    assert scalars["loss"].isna().tolist() == [False, True, True, False]
    assert scalars["loss"][3] == 9.0
    assert np.isfinite(open_run(tmp_path / "run").array("grad", "0.weight")).all()
