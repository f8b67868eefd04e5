"""What real training loops do, each recorded and compared with copies taken by hand in the same loop, and with the
weights of the same loop unrecorded."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from training import batches, copies, network

from trajectory_tools.errors import BadArgument
from trajectory_tools.recorder import Recorder
from trajectory_tools.run import open_run

criterion = nn.functional.cross_entropy


class ByHand:
    """Copies of θ_t, g_t and θ_{t+1}, taken by the loop itself around its step."""

    def __init__(self, named):
        self.named = dict(named)
        self.rows = []

    def before(self):
        self.theta = self.values(lambda p: p)
        self.grads = self.values(lambda p: p.grad)

    def after(self):
        self.rows.append((self.theta, self.grads, self.values(lambda p: p)))

    def values(self, of):
        found = {name: of(p) for name, p in self.named.items()}
        return {n: None if v is None else v.detach().to_dense().clone() for n, v in found.items()}

    def agrees_with(self, run):
        assert run.steps.tolist() == run.logged_steps.tolist() == list(range(len(self.rows)))
        for step, (theta, grads, after) in enumerate(self.rows):
            for name, before in theta.items():
                params, updates = (run.array(column, name, steps=step)[0] for column in ("param", "update"))
                np.testing.assert_array_equal(params, real(before))
                np.testing.assert_array_equal(updates, real(after[name]) - real(before))
                if grads[name] is not None:
                    np.testing.assert_array_equal(run.array("grad", name, steps=step)[0], real(grads[name]))
                else:
                    assert np.isnan(run.array("grad", name, steps=step)).all()


def real(tensor):
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return tensor.to(torch.float64 if tensor.dtype == torch.float64 else torch.float32).numpy()


class Plain:
    """Stands in for the copies and for the recorder where nothing is recorded."""

    def before(self):
        pass

    after = before

    def log(self, **scalars):
        pass


def recorded_and_not(tmp_path, loop, *, model=network, optimizer, **options):
    """(the run, the copies by hand), once the weights are found to be those of the loop unrecorded."""
    plain, watched = model(), model()
    torch.manual_seed(5)
    loop(plain, optimizer(plain), Plain(), Plain())
    hand = ByHand(watched.named_parameters())
    torch.manual_seed(5)
    made = optimizer(watched)
    with Recorder(tmp_path / "run", watched, made, **options) as recorder:
        loop(watched, made, hand, recorder)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), watched.parameters(), strict=True))
    run = open_run(tmp_path / "run")
    hand.agrees_with(run)
    return run, hand


def adam(model, **options):
    return torch.optim.Adam(model.parameters(), lr=0.01, **options)


def test_gradient_accumulation_and_clipping(tmp_path):
    def loop(model, optimizer, hand, recorder):
        for i, (x, y) in enumerate(batches(12)):
            loss = criterion(model(x), y) / 3
            loss.backward()
            recorder.log(loss=loss)
            if i % 3 == 2:
                nn.utils.clip_grad_norm_(model.parameters(), 0.1)
                hand.before()
                optimizer.step()
                hand.after()
                optimizer.zero_grad()

    run, _ = recorded_and_not(tmp_path, loop, optimizer=adam)
    assert run.n_steps == 4


def scaled_loop(*, unscale, bad=(1, 3)):
    def loop(model, optimizer, hand, recorder):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
        for i, (x, y) in enumerate(batches(6)):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = criterion(model(x), y)
            scaler.scale(loss * (float("inf") if i in bad else 1)).backward()
            if unscale:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            hand.before()
            scale = scaler.get_scale()
            scaler.step(optimizer)
            if not unscale and isinstance(hand, ByHand):  # unscaled in the step, or inside a fused kernel
                hand.grads = {name: grad / scale for name, grad in hand.grads.items()}
            hand.after()
            scaler.update()
            recorder.log(i=i)

    return loop


@pytest.mark.parametrize("unscale", [True, False])
@pytest.mark.parametrize("kind", [{}, {"foreach": True}, {"fused": True}], ids=["plain", "foreach", "fused"])
def test_a_grad_scaler(tmp_path, kind, unscale):
    original = torch.amp.GradScaler.step
    run, _ = recorded_and_not(tmp_path, scaled_loop(unscale=unscale), optimizer=lambda model: adam(model, **kind))
    scalars = run.scalars()
    assert scalars["skipped"].tolist() == [False, True, False, True, False, False]
    assert scalars["i"].tolist() == list(range(6))
    assert all((run.array("update", name, steps=[1, 3]) == 0).all() for name in run.shapes)
    assert torch.amp.GradScaler.step is original


def test_a_scaler_that_is_switched_off_and_one_of_another_optimizer(tmp_path):
    model, other = network(), network(1)
    optimizer, second = adam(model), adam(other)
    off, on = torch.amp.GradScaler("cpu", enabled=False), torch.amp.GradScaler("cpu", init_scale=4.0)
    with Recorder(tmp_path / "run", model, optimizer):
        for x, y in batches(2):
            off.scale(criterion(model(x), y)).backward()
            off.step(optimizer)
            on.scale(criterion(other(x), y) * float("inf")).backward()
            on.step(second)
            on.update()
    assert open_run(tmp_path / "run").scalars()["skipped"].tolist() == [False, False]


def simple_loop(model, optimizer, hand, recorder):
    for x, y in batches(4):
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        hand.before()
        optimizer.step()
        hand.after()


def test_a_compiled_model_has_the_names_of_the_model(tmp_path):
    def model():
        return torch.compile(network(), backend="aot_eager")

    plain, watched = model(), model()
    simple_loop(plain, adam(plain), Plain(), Plain())
    hand = ByHand((name.removeprefix("_orig_mod."), p) for name, p in watched.named_parameters())
    optimizer = adam(watched)
    with Recorder(tmp_path / "run", watched, optimizer) as recorder:
        simple_loop(watched, optimizer, hand, recorder)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), watched.parameters(), strict=True))
    hand.agrees_with(open_run(tmp_path / "run"))


def compiled_loop(**options):
    def loop(model, optimizer, hand, recorder):
        torch._dynamo.reset()
        step = torch.compile(optimizer.step, backend="eager", **options)
        for x, y in batches(4):
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            hand.before()
            step()
            hand.after()

    return loop


def test_a_compiled_step(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.compile's own
        recorded_and_not(tmp_path, compiled_loop(), optimizer=adam)


class OneGraph(torch.optim.Optimizer):
    """One that can be compiled as a whole; torch's own break the graph themselves."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(group["lr"] * p.grad)


def test_a_step_that_is_compiled_as_one_graph_goes_on_unseen_and_this_is_said(tmp_path):
    plain, watched = network(), network()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        compiled_loop(fullgraph=True)(plain, OneGraph(plain.parameters()), Plain(), Plain())
        optimizer = OneGraph(watched.parameters())
        with Recorder(tmp_path / "run", watched, optimizer) as recorder:
            compiled_loop(fullgraph=True)(watched, optimizer, Plain(), recorder)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), watched.parameters(), strict=True))
    assert any("compiled with fullgraph=True and is not recorded" in str(each.message) for each in caught)
    assert open_run(tmp_path / "run").n_steps == 0


def test_tensors_that_are_rebound(tmp_path):
    def loop(model, optimizer, hand, recorder):
        for x, y in batches(4):
            for p in model.parameters():
                p.data = p.data.clone()
                p.grad = None
            criterion(model(x), y).backward()
            for p in model.parameters():
                p.grad = p.grad.clone()
            hand.before()
            optimizer.step()
            hand.after()

    recorded_and_not(tmp_path, loop, optimizer=adam)


def test_sparse_gradients(tmp_path):
    def loop(model, optimizer, hand, recorder):
        for i in range(4):
            optimizer.zero_grad()
            model(torch.tensor([i, i, 2])).pow(2).sum().backward()
            assert model.weight.grad.is_sparse
            hand.before()
            optimizer.step()
            hand.after()

    def model():
        torch.manual_seed(0)
        return nn.Embedding(6, 3, sparse=True)

    recorded_and_not(tmp_path, loop, model=model, optimizer=lambda m: torch.optim.SparseAdam(list(m.parameters())))


def test_complex_parameters(tmp_path):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.w = nn.Parameter(torch.randn(3, 2, dtype=torch.complex64))

    def loop(model, optimizer, hand, recorder):
        for _ in range(3):
            optimizer.zero_grad()
            (model.w.abs() ** 2).sum().backward()
            hand.before()
            optimizer.step()
            hand.after()

    run, _ = recorded_and_not(tmp_path, loop, model=Model, optimizer=adam)
    assert run.shapes == {"w": (3, 2, 2)}


def test_freezing_and_unfreezing(tmp_path):
    def loop(model, optimizer, hand, recorder):
        for i, (x, y) in enumerate(batches(6)):
            model[0].requires_grad_(i >= 3)
            optimizer.zero_grad(set_to_none=True)
            criterion(model(x), y).backward()
            hand.before()
            optimizer.step()
            hand.after()

    run, _ = recorded_and_not(tmp_path, loop, optimizer=lambda m: torch.optim.SGD(m.parameters(), lr=0.1))
    assert np.isnan(run.array("grad", "0.weight")[:3]).all()
    assert (run.array("update", "0.weight")[3:] != 0).any()


def two_optimizers(model):
    return [torch.optim.SGD(model[0].parameters(), lr=0.1), torch.optim.Adam(model[2].parameters(), lr=0.01)]


def test_several_optimizers_over_one_model_are_one_run(tmp_path):
    plain, watched = network(), network()
    optimizers, seen = two_optimizers(watched), two_optimizers(plain)
    rows = []
    with Recorder(tmp_path / "run", watched, optimizers) as recorder:
        for i, (x, y) in enumerate(batches(6)):
            for model, pair in ((plain, seen), (watched, optimizers)):
                model.zero_grad()
                criterion(model(x), y).backward()
                before, grads = copies(model, "data"), copies(model, "grad")
                pair[0].step()
                if i % 2:
                    pair[1].step()
            rows.append((before, grads, copies(model, "data")))
            recorder.log(i=i)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), watched.parameters(), strict=True))
    run = open_run(tmp_path / "run")
    assert run.n_steps == 6
    assert run.metadata["optimizer"]["class"] == "torch.optim.sgd.SGD + torch.optim.adam.Adam"
    assert run.scalars()["lr_group1"].tolist() == [0.01] * 6
    for step, (before, grads, after) in enumerate(rows):
        for name in run.shapes:
            params, updates, gradient = (run.array(c, name, steps=step)[0] for c in ("param", "update", "grad"))
            np.testing.assert_array_equal(params, before[name].numpy())
            np.testing.assert_array_equal(updates, (after[name] - before[name]).numpy())
            if name.startswith("0.") or step % 2:
                np.testing.assert_array_equal(gradient, grads[name].numpy())
            else:
                assert np.isnan(gradient).all()  # no optimizer used it


def test_optimizers_in_backward_are_one_run(tmp_path):
    """One optimizer for each parameter, stepped as soon as its gradient is there, which is then freed."""

    def hooked(model, seen):
        optimizers = {p: torch.optim.Adam([p], lr=0.01, foreach=False) for p in model.parameters()}

        def step(p):
            before, grad = p.detach().clone(), p.grad.clone()
            optimizers[p].step()
            optimizers[p].zero_grad()
            seen.setdefault(p, []).append((before, grad, p.detach().clone()))

        for p in model.parameters():
            p.register_post_accumulate_grad_hook(step)
        return list(optimizers.values())

    plain, watched, seen = network(), network(), {}
    hooked(plain, {})
    optimizers = hooked(watched, seen)
    with Recorder(tmp_path / "run", watched, optimizers) as recorder:
        for x, y in batches(4):
            criterion(plain(x), y).backward()
            loss = criterion(watched(x), y)
            loss.backward()
            recorder.log(loss=loss)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), watched.parameters(), strict=True))
    run = open_run(tmp_path / "run")
    assert run.steps.tolist() == [0, 1, 2, 3]
    assert run.scalars()["loss"].notna().all()
    for name, p in watched.named_parameters():
        for column, wanted in (
            ("param", [b for b, _, _ in seen[p]]),
            ("grad", [g for _, g, _ in seen[p]]),
            ("update", [a - b for b, _, a in seen[p]]),
        ):
            np.testing.assert_array_equal(run.array(column, name), torch.stack(wanted).numpy())


class NoTorchOptimizer:
    """Of another kind: knows nothing of hooks."""

    def __init__(self, parameters):
        self.parameters = list(parameters)

    def step(self):
        with torch.no_grad():
            for p in self.parameters:
                p.sub_(0.1 * p.grad.sign())


def test_an_optimizer_that_is_no_torch_optim(tmp_path):
    plain, watched = network(), network()
    optimizer = NoTorchOptimizer(watched.parameters())
    hand = ByHand(watched.named_parameters())
    simple = NoTorchOptimizer(plain.parameters())
    with Recorder(tmp_path / "run", None, None, info={"optimizer": {"class": "sign"}}) as recorder:
        for i, (x, y) in enumerate(batches(4)):
            for model, each in ((plain, simple), (watched, optimizer)):
                model.zero_grad()
                criterion(model(x), y).backward()
                if each is simple:
                    each.step()
            hand.before()
            with recorder.step(watched.named_parameters(), lr=0.1):
                optimizer.step()
            hand.after()
            recorder.log(loss=i)
            with pytest.raises(ZeroDivisionError), recorder.step(watched):
                1 / 0
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), watched.parameters(), strict=True))
    run = open_run(tmp_path / "run")
    hand.agrees_with(run)
    assert run.optimizer == "sign"
    assert run.scalars()["lr"].tolist() == [0.1] * 4
    assert run.scalars()["loss"].tolist() == [0, 1, 2, 3]


def test_a_functional_training_puts_new_tensors_in_place_of_the_old(tmp_path):
    def loss(params, x):
        return ((params["w"] * x + params["b"]) ** 2).sum()

    params = {"w": torch.ones(3), "b": torch.zeros(3)}
    hand = []
    with Recorder(tmp_path / "run", params, None) as recorder:
        for i in range(3):
            grads = torch.func.grad(loss)(params, torch.arange(3.0) + i)
            before = dict(params)
            with recorder.step(params, grads=grads):
                params |= {name: value - 0.1 * grads[name] for name, value in params.items()}
            hand.append((before, grads, dict(params)))
    run = open_run(tmp_path / "run")
    for name in ("w", "b"):
        for column, wanted in (
            ("param", [b[name] for b, _, _ in hand]),
            ("grad", [g[name] for _, g, _ in hand]),
            ("update", [a[name] - b[name] for b, _, a in hand]),
        ):
            np.testing.assert_array_equal(run.array(column, name), torch.stack(wanted).numpy())


def test_what_step_is_not_for(tmp_path):
    model = network()
    with (
        pytest.raises(BadArgument, match="is for a Recorder without optimizer"),
        Recorder(tmp_path / "one", model, adam(model)) as recorder,
        recorder.step(model),
    ):
        pass
    with pytest.raises(BadArgument, match=r"attach\(\) first"), Recorder(tmp_path / "two", model, None).step():
        pass
    with (
        pytest.raises(BadArgument, match="no parameters to record"),
        Recorder(tmp_path / "three", None, None) as recorder,
        recorder.step(),
    ):
        pass


def test_only_parameters_whose_name_matches(tmp_path):
    model = network()
    optimizer = adam(model)
    with Recorder(tmp_path / "run", model, optimizer, match="weight$") as recorder:
        simple_loop(model, optimizer, Plain(), recorder)
    run = open_run(tmp_path / "run")
    assert set(run.query("SELECT DISTINCT name FROM tensors")["name"]) == {"0.weight", "2.weight"}
    assert set(run.stats()["name"]) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    with pytest.raises(
        BadArgument, match=r"'head' is found in no parameter's name; there are: 0\.weight, 0\.bias, 2\.weight, 2\.bi"
    ):
        Recorder(tmp_path / "none", model, optimizer, match="head")
    with pytest.raises(BadArgument, match=r"regular expression, and '\(' is none"):
        Recorder(tmp_path / "none", model, optimizer, match="(")


def test_names_that_the_optimizer_was_given(tmp_path):
    model = network()
    optimizer = torch.optim.SGD(model.named_parameters(), lr=0.1)
    with Recorder(tmp_path / "run", None, optimizer) as recorder:
        simple_loop(model, optimizer, Plain(), recorder)
    assert list(open_run(tmp_path / "run").shapes) == [name for name, _ in model.named_parameters()]


def test_a_copy_of_a_scaled_and_recorded_optimizer_is_not_recorded(tmp_path):
    model = network()
    optimizer = adam(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    with Recorder(tmp_path / "run", model, optimizer):
        other = copy.deepcopy(optimizer)
        for p in other.param_groups[0]["params"]:
            p.grad = scaler.scale(torch.ones_like(p))
        scaler.step(other)
    assert open_run(tmp_path / "run").n_steps == 0
