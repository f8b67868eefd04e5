"""What ``traj record`` records of a network, of a script's and of a built-in problem's, in processes of their own."""

from __future__ import annotations

import json
import math

import pytest
from launching import launch

from trajectory_tools.run import open_run

SCRIPT = """
import torch
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(40, 10), torch.nn.Linear(10, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(4):
    optimizer.zero_grad()
    model(torch.ones(40)).sum().backward()
    optimizer.step()
"""
OPTIONS = {
    "match": ["--match", "weight"],
    "subsample": ["--subsample", "10%", "--every", 2],
    "number": ["--subsample", 40],
    "projection": ["--projection", 4, "--selection-seed", 3],
    "no stats": ["--no-stats"],
}
OF_PROBLEMS = {
    "budget": ["--budget", "150kB"],
    "too small": ["--budget", "1kB"],
    "nothing": ["--match", "head"],
    "dry": ["--subsample", "10%", "--dry-run", "--json"],
    "dry budget": ["--budget", "150kB", "--dry-run"],
}
PROBLEM = ["digits-mlp", "--steps", 4]


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """(the folder, name of the run → how its command ended); a script's runs are called ``script ...``."""
    folder = tmp_path_factory.mktemp("selections")
    (folder / "train.py").write_text(SCRIPT)
    commands = {f"script {name}": ["train.py", *options] for name, options in OPTIONS.items()}
    commands |= {name: [*PROBLEM, *options] for name, options in (OPTIONS | OF_PROBLEMS).items()}
    words = [["traj", "record", *command, "-o", f"runs/{name}"] for name, command in commands.items()]
    return folder, dict(zip(commands, launch(words, folder=folder / "said", cwd=folder), strict=True))


SOURCES = pytest.mark.parametrize("source", ["script ", ""], ids=["script", "problem"])


def opened(ended, name):
    """(the run, parameter → its numel, parameter → how many values of it a step holds)."""
    folder, how = ended
    assert how[name].code == 0, how[name].stderr
    run = open_run(folder / "runs" / name)
    numels = {parameter: math.prod(shape) for parameter, shape in run.shapes.items()}
    return run, numels, {name: run.array("param", name).shape[1:] for name in run.recorded_shapes}


@SOURCES
def test_the_parameters_that_match(ended, source):
    run, _, recorded = opened(ended, f"{source}match")
    assert recorded == {name: shape for name, shape in run.shapes.items() if "weight" in name}
    assert set(run.stats()["name"]) == set(run.shapes)


@SOURCES
def test_a_share_of_the_coordinates(ended, source):
    run, numels, recorded = opened(ended, f"{source}subsample")
    assert recorded == {name: (max(1, round(0.1 * numel)),) for name, numel in numels.items()}
    assert (run.steps.tolist(), run.n_steps) == ([0, 2], 4)


def test_the_end_says_how_much_of_it_was_recorded(ended):
    said = {name: ended[1][f"script {name}"].stderr for name in ("match", "subsample", "no stats")}
    assert "recorded 4 steps of SGD (4 parameters, 410 of 421 values) in" in said["match"]
    assert "SGD (4 parameters, 43 of 421 values), the tensors of 2 of them, in" in said["subsample"]
    assert "SGD (4 parameters, 421 values) in" in said["no stats"]


@SOURCES
def test_a_number_of_coordinates(ended, source):
    _, numels, recorded = opened(ended, f"{source}number")
    assert abs(sum(count for (count,) in recorded.values()) - 40) <= len(numels)


@SOURCES
def test_projections(ended, source):
    run, numels, recorded = opened(ended, f"{source}projection")
    assert [math.prod(shape) for shape in recorded.values()] == [min(4, numel) for numel in numels.values()]
    assert (run.selection.projection, run.selection.seed) == (4, 3)


@SOURCES
def test_no_stats(ended, source):
    run, _, recorded = opened(ended, f"{source}no stats")
    assert recorded == run.shapes
    assert run.stats().empty


def test_a_budget_is_kept_and_its_choice_said(ended):
    how = ended[1]
    run, _, _ = opened(ended, "budget")
    assert run.nbytes <= 150_000
    assert run.metadata["budget"] in how["budget"].stderr


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("too small", "budget of 1 kB is too small for one step: "),
        ("nothing", "match='head' is found in no parameter's name; there are: 0.weight, 0.bias, 2.weight, 2.bias"),
    ],
)
def test_refused_with_one_sentence_and_nothing_written(ended, name, says):
    folder, how = ended
    assert how[name].code == 2
    [sentence] = how[name].stderr.splitlines()
    assert says in sentence
    assert not (folder / "runs" / name).exists()


def test_a_dry_run_says_what_the_run_takes_and_writes_nothing(ended):
    folder, how = ended
    said = {table["table"]: table["rows"] for table in json.loads(how["dry"].stdout)["tables"]}
    assert said == {"scalars": 4, "tensors": 16, "stats": 16}
    assert not (folder / "runs/dry").exists()
    assert "a budget of 150 kB for 4 steps: " in how["dry budget"].stderr
    assert not (folder / "runs/dry budget").exists()
