"""What stands in the files is what happened, and recording it changed nothing."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from training import backward, batches, network, recorded, train

from trajectory_tools.errors import BadArgument, RecordingFailed, UnknownName
from trajectory_tools.recorder import Recorder, at, every, logarithmic
from trajectory_tools.run import open_run
from trajectory_tools.symmetry import rescale

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adam-foreach": lambda p: torch.optim.Adam(p, lr=0.01, foreach=True, amsgrad=True),
    "adamw-fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5),
}
SCHEDULES = [{}, {"every": 3}, {"schedule": at([0, 2, 5])}, {"schedule": lambda step: step > 3}, {"save": ["grad"]}]


@pytest.mark.parametrize("options", SCHEDULES, ids=["all", "every", "at", "callable", "grad"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_recording_leaves_the_weights_and_the_state_bit_identical(tmp_path, name, options):
    plain, watched = network(), network()
    alone, hooked = OPTIMIZERS[name](plain.parameters()), OPTIMIZERS[name](watched.parameters())
    train(plain, alone, 8)
    recorded(tmp_path / "run", watched, hooked, 8, **options)
    for a, b in zip(plain.parameters(), watched.parameters(), strict=True):
        assert torch.equal(a, b)
    one, two = alone.state_dict(), hooked.state_dict()
    assert one["param_groups"] == two["param_groups"]
    for key, state in one["state"].items():
        assert all(
            torch.equal(torch.as_tensor(v), torch.as_tensor(two["state"][key][k]))
            for k, v in state.items()
            if v is not None
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_param_grad_and_update_are_exactly_what_happened(tmp_path, name, dtype):
    model = network(dtype=dtype)
    run, seen = recorded(tmp_path / "run", model, OPTIMIZERS[name](model.parameters()), 6)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert run.steps.tolist() == list(range(6))
    for parameter in run.shapes:
        params, grads, updates = (run.array(c, parameter) for c in ("param", "grad", "update"))
        assert params.dtype == str(wide).removeprefix("torch.")
        for step, (before, gradient, after) in enumerate(seen):
            old, new = before[parameter].to(wide), after[parameter].to(wide)
            np.testing.assert_array_equal(params[step], old.numpy())
            np.testing.assert_array_equal(grads[step], gradient[parameter].to(wide).numpy())
            np.testing.assert_array_equal(updates[step], (new - old).numpy())
            if step:
                np.testing.assert_array_equal(updates[step - 1], params[step] - params[step - 1])
    assert {p["dtype"] for p in run.metadata["params"]} == {str(dtype).removeprefix("torch.")}


def test_mixed_precision_of_parameters_keeps_each_exact(tmp_path):
    model = nn.ParameterDict(
        {
            "singles": nn.Parameter(torch.tensor([0.1, 0.2])),
            "doubles": nn.Parameter(torch.tensor([0.1, 0.2], dtype=torch.float64)),
            "brains": nn.Parameter(torch.tensor([0.1, 0.2], dtype=torch.bfloat16)),
            "complexs": nn.Parameter(torch.tensor([0.1 + 0.3j], dtype=torch.complex128)),
        }
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Recorder(tmp_path / "run", model, optimizer):
        for _ in range(2):
            optimizer.zero_grad()
            sum((p.abs() ** 2).sum().to(torch.float64) for p in model.values()).backward()
            before = {name: p.detach().clone() for name, p in model.items()}
            optimizer.step()
    run = open_run(tmp_path / "run")
    assert {n: run.array("param", n).dtype for n in run.shapes} == {
        "singles": np.float32, "doubles": np.float64, "brains": np.float32, "complexs": np.float64,
    }  # fmt: skip
    assert run.shapes["complexs"] == (1, 2)
    for name, value in before.items():
        wanted = torch.view_as_real(value) if value.is_complex() else value.to(torch.float64)
        np.testing.assert_array_equal(run.array("param", name, steps=1)[0].astype(float), wanted.numpy())


def test_the_gradient_is_the_one_the_optimizer_used(tmp_path):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with Recorder(tmp_path / "run", model, optimizer):
        for batch in batches(4):
            backward(model, batch)
            nn.utils.clip_grad_norm_(model.parameters(), 0.01)
            optimizer.step()
    run = open_run(tmp_path / "run")
    total = sum((run.array("grad", name).reshape(4, -1) ** 2).sum(1) for name in run.shapes)
    np.testing.assert_allclose(total, 0.01**2, rtol=1e-3)
    for name in run.shapes:
        np.testing.assert_allclose(run.array("update", name), -run.array("grad", name), atol=1e-7)


def test_gradients_that_are_not_finite_are_recorded_as_they_are(tmp_path):
    weight = nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    with Recorder(tmp_path / "run", None, optimizer):
        weight.grad = torch.tensor([float("nan"), float("inf"), -float("inf")])
        optimizer.step()
    grad = open_run(tmp_path / "run").array("grad", "group0.0")[0]
    np.testing.assert_array_equal(grad, [np.nan, np.inf, -np.inf])


class Odd(nn.Module):
    """Every kind of parameter at once."""

    def __init__(self):
        super().__init__()
        self.scalar = nn.Parameter(torch.tensor(2.0))
        self.empty = nn.Parameter(torch.empty(0, 3))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.first = nn.Linear(3, 3, bias=False)
        self.tied = nn.Linear(3, 3, bias=False)
        self.tied.weight = self.first.weight
        self.sometimes = nn.Parameter(torch.ones(2))
        self.strided = nn.Parameter(torch.arange(12.0).reshape(3, 4).t())


def test_odd_parameters(tmp_path):
    model = Odd()
    groups = [
        {"params": [model.scalar, model.empty, model.frozen], "lr": 0.1},
        {"params": [model.first.weight, model.sometimes, model.strided], "lr": 0.2},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.5)
    extra = nn.Parameter(torch.full((2,), 7.0))
    with Recorder(tmp_path / "run", model, optimizer) as recorder:
        for step in range(4):
            if step == 2:
                optimizer.add_param_group({"params": [extra], "lr": 0.3})
            optimizer.zero_grad()
            loss = model.scalar**2 + model.tied(model.first(torch.ones(3))).sum() + (model.strided**2).sum()
            loss = (
                loss + (model.sometimes.sum() if step % 2 else 0) + model.empty.sum() + (extra.sum() if step > 2 else 0)
            )
            loss.backward()
            optimizer.step()
            recorder.log(loss=loss)
    run = open_run(tmp_path / "run")
    assert list(run.shapes) == ["scalar", "empty", "frozen", "first.weight", "sometimes", "strided", "group2.0"]
    aliases = {p["name"]: p["aliases"] for p in run.metadata["params"]}
    assert aliases["first.weight"] == ["tied.weight"]
    assert not any(v for name, v in aliases.items() if name != "first.weight")
    assert run.array("param", "scalar").shape == (4,)
    np.testing.assert_allclose(run.array("update", "scalar"), -0.2 * run.array("param", "scalar"), rtol=1e-6)
    assert run.array("grad", "empty").shape == (4, 0, 3)
    assert np.isnan(run.array("grad", "frozen")).all()
    assert (run.array("update", "frozen") == 0).all()
    assert np.isnan(run.array("grad", "sometimes")).all(axis=1).tolist() == [True, False, True, False]
    np.testing.assert_array_equal(run.array("param", "strided", steps=0)[0], np.arange(12.0).reshape(3, 4).T)
    added = run.array("param", "group2.0")
    assert np.isnan(added).all(axis=1).tolist() == [True, True, False, False]
    assert np.isnan(run.array("grad", "group2.0")).all(axis=1).tolist() == [True, True, True, False]
    assert len(run.metadata["optimizer"]["groups"]) == 3
    scalars = run.scalars()
    assert scalars["lr"].tolist() == [0.1] * 4
    assert scalars["lr_group1"].tolist() == [0.2] * 4
    assert scalars["lr_group2"].isna().tolist() == [True, True, False, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_all_gradients_missing(tmp_path, dtype):
    model = network(dtype=dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Recorder(tmp_path / "run", model, optimizer, queue_bytes=1):  # each step a row group of its own
        optimizer.step()
        backward(model, next(batches(1, dtype=dtype)))
        optimizer.step()
    grads = open_run(tmp_path / "run").array("grad", "0.weight")
    assert np.isnan(grads[0]).all()
    assert np.isfinite(grads[1]).all()


def test_parameters_that_are_replaced_or_taken_away(tmp_path):
    """The count alone would not tell; what was recorded before stays readable."""
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([a], lr=1.0)
    with Recorder(tmp_path / "run", [("a", a), ("b", b)], optimizer):
        a.grad, b.grad = torch.ones(2), torch.ones(3)
        optimizer.step()
        optimizer.param_groups[0]["params"] = [b]
        optimizer.step()
    run = open_run(tmp_path / "run")
    assert np.isnan(run.array("param", "a")).all(axis=1).tolist() == [False, True]
    assert run.array("update", "b")[1].tolist() == [-1.0, -1.0, -1.0]


def test_a_parameter_that_changes_its_shape_ends_the_recording_not_the_training(tmp_path):
    a = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([a], lr=1.0)
    recorder = Recorder(tmp_path / "run", None, optimizer).attach()
    optimizer.step()
    a.data = torch.ones(5)
    a.grad = torch.ones(5)
    with pytest.warns(RuntimeWarning, match="shape"):
        optimizer.step()
    optimizer.zero_grad()
    optimizer.step()  # no second warning
    with pytest.raises(RecordingFailed, match="shape"):
        recorder.close()
    assert a.tolist() == [0.0] * 5
    assert open_run(tmp_path / "run").array("param", "group0.0").shape == (1, 2)


def test_names_of_two_parameters_must_differ(tmp_path):
    one, two = network(), network()
    pairs = [*one.named_parameters(), *two.named_parameters()]
    optimizer = torch.optim.SGD([*one.parameters(), *two.parameters()], lr=0.1)
    with pytest.raises(BadArgument, match=r"called '0\.weight'"):
        Recorder(tmp_path / "run", pairs, optimizer)
    named = [(f"{which}.{name}", p) for which, m in (("one", one), ("two", two)) for name, p in m.named_parameters()]
    with Recorder(tmp_path / "run", named, optimizer):
        optimizer.step()
    assert len(open_run(tmp_path / "run").shapes) == 8


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"every": 4}, [0, 4, 8, 12, 16]),
        ({"schedule": every(7)}, [0, 7, 14]),
        ({"schedule": at([3, 11, 99])}, [3, 11]),
        ({"schedule": logarithmic(2)}, [0, 1, 3, 10]),
        ({"schedule": lambda step: step % 5 == 1}, [1, 6, 11, 16]),
        ({"every": 5, "start_step": 7}, [10, 15, 20, 25]),
        ({"save": []}, []),
    ],
)
def test_schedules(tmp_path, options, steps):
    model = network()
    run, seen = recorded(tmp_path / "run", model, torch.optim.SGD(model.parameters(), lr=0.1), 20, **options)
    first = options.get("start_step", 0)
    assert run.steps.tolist() == steps
    assert run.logged_steps.tolist() == list(range(first, first + 20))
    for step in steps:
        np.testing.assert_array_equal(
            run.array("param", "0.bias", steps=step)[0], seen[step - first][0]["0.bias"].numpy()
        )


def test_a_logarithmic_schedule_thins_out():
    steps = [step for step in range(100_001) if logarithmic(10)(step)]
    assert steps[:11] == [0, 1, 2, 3, 4, 5, 6, 8, 10, 13, 16]
    assert {100, 1000, 10_000, 100_000} <= set(steps)
    assert sum(10_000 < step <= 100_000 for step in steps) == 10


def test_only_what_was_asked_for_is_saved(tmp_path):
    for column in ("param", "grad", "update"):
        model = network()
        run, _ = recorded(tmp_path / column, model, torch.optim.SGD(model.parameters(), lr=0.1), 3, save=column)
        assert run.columns == (column,)
        tensors = run.query("SELECT count(param) AS param, count(grad) AS grad, count(update) AS update FROM tensors")
        assert tensors.iloc[0].to_dict() == {c: 12 * (c == column) for c in ("param", "grad", "update")}


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"every": 0}, BadArgument, "every=0"),
        ({"every": -1}, BadArgument, "every=-1"),
        ({"every": 2, "schedule": at([1])}, BadArgument, "both"),
        ({"schedule": 10}, BadArgument, "callable"),
        ({"save": ["params"]}, UnknownName, "did you mean param"),
        ({"start_step": -1}, BadArgument, "start_step"),
        ({"symmetries": [rescale([("0.weight", 0)], [("2.wieght", 1)])]}, UnknownName, "did you mean 2.weight"),
        ({"symmetries": [{"kind": "scale", "in": [["0.weight", 5]]}]}, BadArgument, "axis 5"),
        ({"seed": 1.5}, BadArgument, "seed is a whole number, found 1.5"),
        ({"info": {"a": np.zeros(2)}}, BadArgument, r"info\['a'\] cannot be written as JSON \(Object of type ndarray"),
        ({"info": {"a": {"b": [float("nan")]}}}, BadArgument, r"info\['a'\] cannot be written as JSON .*finite"),
        ({"info": {"a": {(1, 2): 3}}}, BadArgument, r"info\['a'\] cannot be written as JSON"),
        ({"info": {"params": []}}, BadArgument, "'params', which the recorder fills itself"),
        ({"info": {"optimizer": "mine"}}, BadArgument, r"info\['optimizer'\] is 'mine'; give a dict"),
        ({"info": ["a"]}, BadArgument, "info is a dict"),
    ],
)
def test_arguments_that_cannot_be_are_refused_before_anything_is_made(tmp_path, options, error, words):
    model = network()
    with pytest.raises(error, match=words):
        Recorder(tmp_path / "run", model, torch.optim.SGD(model.parameters(), lr=0.1), **options)
    assert not (tmp_path / "run").exists()
    with pytest.raises(BadArgument, match="Optimizer is needed"):
        Recorder(tmp_path / "run", model, model)


def test_the_same_training_gives_the_same_bytes(tmp_path):
    contents = []
    for name in ("a", "b"):
        model = network()
        run, _ = recorded(tmp_path / name, model, torch.optim.Adam(model.parameters()), 30, run_id="same")
        contents.append([path.read_bytes() for path in run.files("tensors")])
    assert contents[0] == contents[1]


def test_the_recording_of_a_copy_is_not_the_recording(tmp_path):
    """An optimizer can be copied, pickled and saved while it is recorded; the copy is not recorded."""
    import io
    import pickle

    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    with Recorder(tmp_path / "run", model, optimizer) as recorder:
        train(model, optimizer, 2, recorder=recorder)
        copied = copy.deepcopy(optimizer)
        pickled = pickle.loads(pickle.dumps(optimizer))
        torch.save(optimizer.state_dict(), io.BytesIO())
        copied.step()
        pickled.step()
        train(model, optimizer, 1, recorder=recorder)
    assert open_run(tmp_path / "run").logged_steps.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "label", ["a/b", "../../etc", 'say "hi"', "<script>alert(1)</script>", "two\nlines", "🙂", "\udce9", ""]
)
def test_a_label_is_data_and_never_part_of_a_path(tmp_path, label):
    model = network()
    folder = tmp_path / "runs" / "run"
    run, _ = recorded(folder, model, torch.optim.SGD(model.parameters(), lr=0.1), 1, label=label)
    assert run.label == (label or "run")
    assert [p.name for p in tmp_path.iterdir()] == ["runs"]
    assert sorted(p.name for p in folder.iterdir()) == [
        ".lock", "manifest.jsonl", "run.json", "scalars", "stats", "tensors",
    ]  # fmt: skip


def test_what_run_json_says(tmp_path):
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=torch.tensor(0.01), betas=(0.8, 0.99))
    group = rescale([("0.weight", 0), ("0.bias", 0)], [("2.weight", 1)])
    info = {"note": "x"}
    with Recorder(tmp_path / "run", model, optimizer, symmetries=[group], seed=np.int64(3), info=info) as recorder:
        train(model, optimizer, 3, recorder=recorder)
        assert open_run(tmp_path / "run").status == "recording"
        assert "3 steps so far" in repr(recorder)
        assert "MB a step" in repr(recorder)
    run = open_run(tmp_path / "run")
    assert (run.status, run.seed, run.optimizer, run.metadata["note"]) == ("finished", 3, "Adam", "x")
    assert run.metadata["optimizer"]["groups"][0]["betas"] == [0.8, 0.99]
    assert run.metadata["optimizer"]["groups"][0]["lr"] == pytest.approx(0.01)
    assert run.symmetries == (group.checked(run.shapes),)
    assert run.metadata["environment"]["torch"] == torch.__version__
    session = run.metadata["sessions"][0]
    assert (session["first_step"], session["n_steps"], session["status"]) == (0, 3, "finished")


GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="skipped: no GPU")


@pytest.mark.cuda
@GPU
def test_a_model_on_the_gpu_is_recorded_as_copied_back(tmp_path):
    model = network().cuda()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    seen = []
    with Recorder(tmp_path / "run", model, optimizer, queue_bytes=100_000) as recorder:
        for x, y in batches(200):
            loss = backward(model, (x.cuda(), y.cuda()))
            before = {name: p.detach().cpu() for name, p in model.named_parameters()}
            grads = {name: p.grad.cpu() for name, p in model.named_parameters()}
            optimizer.step()
            recorder.log(loss=loss, twice=2 * loss)
            seen.append((before, grads, loss.item()))
    run = open_run(tmp_path / "run")
    for name in run.shapes:
        params, grads, updates = (run.array(c, name) for c in ("param", "grad", "update"))
        np.testing.assert_array_equal(params, torch.stack([before[name] for before, _, _ in seen]).numpy())
        np.testing.assert_array_equal(grads, torch.stack([grad[name] for _, grad, _ in seen]).numpy())
        np.testing.assert_array_equal(updates[:-1], params[1:] - params[:-1])
    assert run.scalars()["loss"].tolist() == [loss for _, _, loss in seen]
    assert run.scalars()["twice"].tolist() == pytest.approx([2 * loss for _, _, loss in seen])


@pytest.mark.cuda
@GPU
def test_learning_rates_on_the_gpu_are_recorded_and_not_waited_for(tmp_path):
    model = network().cuda()
    groups = [{"params": layer.parameters(), "lr": torch.tensor(0.01, device="cuda")} for layer in (model[0], model[2])]
    optimizer = torch.optim.Adam(groups, capturable=True)
    data = [(x.cuda(), y.cuda()) for x, y in batches(20)]
    with Recorder(tmp_path / "run", model, optimizer):
        torch.cuda.set_sync_debug_mode("error")
        try:
            for batch in data:
                backward(model, batch)
                optimizer.step()
                groups[1]["lr"].mul_(0.5)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    scalars = open_run(tmp_path / "run").scalars()
    assert scalars["lr"].tolist() == pytest.approx([0.01] * 20)
    assert scalars["lr_group1"].tolist() == pytest.approx([0.01 * 0.5**step for step in range(20)])


def test_learning_rates_that_are_tensors(tmp_path):
    """They are changed in place, after the step that they were used in."""
    model = network()
    groups = [{"params": layer.parameters(), "lr": torch.tensor(0.5)} for layer in (model[0], model[2])]
    optimizer = torch.optim.Adam(groups)
    with Recorder(tmp_path / "run", model, optimizer):
        for batch in batches(3):
            backward(model, batch)
            optimizer.step()
            groups[1]["lr"].mul_(0.5)
    scalars = open_run(tmp_path / "run").scalars()
    assert scalars["lr"].tolist() == [0.5, 0.5, 0.5]
    assert scalars["lr_group1"].fillna(0.5).tolist() == [0.5, 0.25, 0.125]


@pytest.mark.cuda
@GPU
def test_recording_on_the_gpu_leaves_the_weights_bit_identical_and_does_not_wait_for_it(tmp_path):
    weights = []
    for watched in (False, True):
        model = network().cuda()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        recorder = Recorder(tmp_path / "run", model, optimizer).attach() if watched else None
        data = [(x.cuda(), y.cuda()) for x, y in batches(20)]
        torch.cuda.set_sync_debug_mode("error" if watched else "default")
        try:
            for batch in data:
                loss = backward(model, batch)
                optimizer.step()
                if recorder is not None:
                    recorder.log(loss=loss)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        if recorder is not None:
            recorder.close()
        weights.append([p.detach().cpu() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_a_fused_optimizer_under_a_grad_scaler(tmp_path):
    """The gradient is unscaled, and a step that the scaler dropped says so."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight], lr=0.1, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with Recorder(tmp_path / "run", [("weight", weight)], optimizer):
        for factor in (2.0, float("inf")):
            optimizer.zero_grad()
            scaler.scale((weight * factor).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
    run = open_run(tmp_path / "run")
    assert run.array("grad", "weight")[0].tolist() == [2.0, 2.0, 2.0]
    assert run.scalars()["skipped"].tolist() == [False, True]
    assert not run.array("update", "weight")[1].any()


def test_what_is_logged_without_a_step_changes_no_earlier_row(tmp_path):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    with Recorder(tmp_path / "run", [("weight", weight)], optimizer) as recorder:
        for loss, steps in ((100.0, True), (101.0, True), (102.0, False), (103.0, True)):
            weight.grad = torch.ones(3)
            if steps:
                optimizer.step()
            recorder.log(loss=loss)
    assert open_run(tmp_path / "run").scalars()["loss"].tolist() == [100.0, 101.0, 103.0]
