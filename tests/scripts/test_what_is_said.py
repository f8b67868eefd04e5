"""What cannot be recorded is said in one sentence, and the script's own behaviour and exit code stay its own."""

from __future__ import annotations

import pytest
import torch
from launching import launch

from trajectory_tools.run import find_runs, open_run

START = """
import os, sys, torch
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))
def steps(n, optimizer, model=model):
    for _ in range(n):
        optimizer.zero_grad()
        model(torch.ones(3)).sum().backward()
        optimizer.step()
"""
SGD = START + "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
ADAM = "torch.optim.Adam(model.parameters(), lr=0.1)"
SCRIPTS = {
    "none": START,
    "unused": SGD,
    "raises": SGD + "steps(3, optimizer)\nraise ValueError('mine')",
    "interrupted": SGD + "steps(3, optimizer)\nraise KeyboardInterrupt",
    "exits": SGD + "steps(3, optimizer)\nsys.exit(4)",
    "match": SGD + "steps(2, optimizer)\nprint('trained')",
    "nowhere": START + "w = torch.ones(3, requires_grad=True)\nsteps(2, torch.optim.SGD([w], lr=0.1), lambda x: x * w)",
    "child": SGD + "if (pid := os.fork()) == 0:\n    steps(2, optimizer)\n    os._exit(0)\nos.waitpid(pid, 0)",
    "later": SGD + f"steps(2, optimizer)\nsecond = {ADAM}\nsteps(3, second)",
    "first": SGD + f"steps(2, optimizer)\nsecond = {ADAM}\nsteps(3, second)",
    "second": SGD + f"steps(2, optimizer)\nsecond = {ADAM}\nsteps(3, second)",
    "third": SGD + f"steps(2, optimizer)\nsecond = {ADAM}\nsteps(3, second)",
    "beyond": SGD + "steps(2, optimizer)",
    "search": START + f"for _ in range(18):\n    steps(1, {ADAM})",
    "backward": START + """
optimizers = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}
def step(p):
    optimizers[p].step()
    optimizers[p].zero_grad()
for p in model.parameters():
    p.register_post_accumulate_grad_hook(step)
for _ in range(3):
    model(torch.ones(3)).sum().backward()
""",
    "shared loss": START + """
first = torch.optim.SGD(model[0].parameters(), lr=0.1)
second = torch.optim.Adam(model[1].parameters(), lr=0.1)
for _ in range(3):
    model(torch.ones(3)).sum().backward()
    first.step()
    second.step()
second.step()
lbfgs = torch.optim.LBFGS(model.parameters(), max_iter=2)
def closure():
    loss = model(torch.ones(3)).square().sum()
    loss.backward()
    return loss
lbfgs.step(closure)
first.step()
""",
    "inner": START + """
class Sam(torch.optim.Optimizer):
    def __init__(self, params):
        super().__init__(params, {})
        self.inner = torch.optim.SGD(self.param_groups, lr=0.1)
    def step(self, closure=None):
        self.inner.step()
steps(3, Sam(model.parameters()))
""",
    "clips in a hook": SGD + """
steps(1, optimizer)
def clip(*arguments):
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.001)
optimizer.register_step_pre_hook(clip)
steps(2, optimizer)
""",
    "two models": START + """
model2 = torch.nn.Linear(1, 1)
both = torch.optim.SGD([*model.parameters(), *model2.parameters()], lr=0.1)
steps(2, both, lambda x: model2(model(x)))
""",
    "full": START + """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
big = torch.nn.Linear(300, 300)
steps(3, torch.optim.SGD(big.parameters(), lr=0.1), lambda x: big(x.repeat(100)))
print("trained")
""",
    "fault": SGD + "open('gone', 'w').close()\nsteps(2, optimizer)\nopen(sys.argv[1], 'w').close()",
}  # fmt: skip
OPTIONS = {
    "match": ["--match", "head"],
    "first": ["--optimizer-index", 0],
    "second": ["--optimizer-index", 1],
    "third": ["--optimizer-index", 2],
    "beyond": ["--optimizer-index", 1],
    "fault": ["-o", "gone/run"],
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """(the folder, script → how it ended)."""
    folder = tmp_path_factory.mktemp("said")
    commands = []
    for name, text in SCRIPTS.items():
        script = folder / f"{name}.py"
        script.write_text(text)
        commands.append(["traj", "record", script.name, "-o", f"runs/{name}", *OPTIONS.get(name, []), "--", name])
    done = launch(commands, folder=folder / "said", cwd=folder)
    return folder, dict(zip(SCRIPTS, done, strict=True))


SAID = {
    "none": (0, "nothing was recorded: no torch.optim optimizer made a step; for one of another kind, put `with rec"),
    "unused": (0, "nothing was recorded: it made an optimizer (SGD), which made no step"),
    "raises": (1, "recorded 3 steps of SGD (4 parameters, 11 values) in runs/raises"),
    "interrupted": (-2, "recorded 3 steps of SGD (4 parameters, 11 values) in runs/interrupted"),
    "exits": (4, "recorded 3 steps of SGD (4 parameters, 11 values) in runs/exits"),
    "match": (0, "the SGD is not recorded: match='head' is found in no parameter's name; there are: 0.weight, 0.bi"),
    "nowhere": (0, "1 of the 1 parameters of the SGD belong to no module; they are called after their place in it: "),
    "child": (0, "the SGD that steps in the child process "),
    "third": (0, "nothing was recorded: there is no optimizer 2; optimizers 0 to 1 made steps"),
    "beyond": (0, "nothing was recorded: there is no optimizer 1; only optimizer 0 made steps"),
    "search": (0, "16 optimizers are recorded, and the further ones are not"),
    "fault": (0, "the SGD is not recorded: cannot record into "),
}  # fmt: skip


@pytest.mark.parametrize("name", SAID)
def test_one_sentence_says_it(ended, name):
    code, sentence = SAID[name]
    how = ended[1][name]
    assert how.code == code, how.stderr
    times = 2 if name in ("match", "fault") else 1  # at once, and again at the end
    assert [line.startswith(f"traj: {sentence}") for line in how.stderr.splitlines()].count(True) == times, how.stderr
    assert "trajectory_tools" not in how.stderr.replace("trajectory_tools.recorder.Recorder", "")
    assert how.stderr.count("Traceback") == (name in ("raises", "interrupted"))
    assert how.stdout == ("trained\n" if name == "match" else "")


def test_what_is_not_on_the_disk_was_not_recorded(ended):
    how = ended[1]["full"]
    assert (how.code, how.stdout) == (0, "trained\n")
    assert "File too large; what was committed before can be read" in how.stderr
    recorded = [line for line in how.stderr.splitlines() if line.startswith("traj: recorded 3 steps of SGD")]
    assert all("values), without tensors, in runs/full" in line for line in recorded)  # scalars may have been committed
    assert ("next:" in how.stderr) == bool(recorded)


@pytest.mark.parametrize(
    ("name", "status"), [("raises", "failed"), ("interrupted", "interrupted"), ("exits", "failed")]
)
def test_a_run_says_how_its_script_ended(ended, name, status):
    run = open_run(ended[0] / "runs" / name)
    assert (run.status, run.n_steps, len(run.steps)) == (status, 3, 3)


def test_an_optimizer_that_is_made_later_stands_below_the_first(ended):
    folder, how = ended
    runs = find_runs(folder / "runs/later")
    assert [(run.path.relative_to(folder).as_posix(), run.optimizer, run.n_steps) for run in runs] == [
        ("runs/later", "SGD", 2),
        ("runs/later/optimizer-1", "Adam", 3),
    ], how["later"].stderr
    assert runs[0].status == runs[1].status == "finished"


def test_only_the_optimizer_that_was_asked_for(ended):
    for name, optimizer, steps in (("first", "SGD", 2), ("second", "Adam", 3)):
        (run,) = find_runs(ended[0] / "runs" / name)
        assert (run.path.name, run.optimizer, run.n_steps) == (name, optimizer, steps)
    assert not (ended[0] / "runs/third").exists()


def test_optimizers_in_backward_are_recorded_as_one(ended):
    folder, how = ended
    (run,) = find_runs(folder / "runs/backward")
    assert list(run.shapes) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert (run.n_steps, run.status) == (3, "finished")
    assert "recorded 3 steps of 4 SGD (4 parameters" in how["backward"].stderr


def test_an_optimizer_inside_another_is_part_of_it(ended):
    (run,) = find_runs(ended[0] / "runs/inner")
    assert (run.path.name, run.optimizer, run.n_steps) == ("inner", "Sam", 3)


def test_a_hook_that_was_registered_later_has_its_effect_in_the_record(ended):
    run = open_run(ended[0] / "runs/clips in a hook")
    total = sum((run.array("grad", name) ** 2).reshape(3, -1).sum(1) for name in run.shapes) ** 0.5
    assert total[0] > 0.01
    assert total[1:] == pytest.approx([0.001, 0.001], rel=1e-3)


def test_names_of_several_models_under_one_optimizer(ended):
    run = open_run(ended[0] / "runs/two models")
    assert list(run.shapes)[:1] == ["Sequential.0.weight"]
    assert list(run.shapes)[-2:] == ["Linear.weight", "Linear.bias"]


def test_the_loss_is_what_backward_was_called_on(ended):
    run = open_run(ended[0] / "runs/exits")
    w, b = run.array("param", "0.weight")[0], run.array("param", "0.bias")[0]
    v, c = run.array("param", "1.weight")[0], run.array("param", "1.bias")[0]
    wanted = torch.tensor(v) @ (torch.tensor(w) @ torch.ones(3) + torch.tensor(b)) + torch.tensor(c)
    assert run.scalars()["loss"][0] == pytest.approx(wanted.item(), rel=1e-5)


def test_optimizers_that_step_one_after_the_other_share_a_loss(ended):
    """But not that of an earlier step, nor the evaluations of another one's closure."""
    runs = {run.optimizer: run.scalars()["loss"] for run in find_runs(ended[0] / "runs/shared loss")}
    assert runs["Adam"][:3].tolist() == runs["SGD"][:3].tolist()
    assert runs["Adam"][:3].nunique() == 3
    assert runs["Adam"].isna().tolist() == runs["SGD"].isna().tolist() == [False] * 3 + [True]
    assert runs["LBFGS"].notna().all()
