"""How large a run will be, and what a budget chooses, against what is really written."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from trajectory_tools.errors import BadArgument
from trajectory_tools.recorder import Recorder
from trajectory_tools.run import open_run
from trajectory_tools.store.budget import choose_for_budget, parse_bytes, show_bytes
from trajectory_tools.store.selection import Selection
from trajectory_tools.store.size import RunSize

NUMELS = {"0.weight": 40_000, "0.bias": 200, "2.weight": 2_000, "2.bias": 10}
STEPS = 60


def record(path, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 10))
    optimizer = torch.optim.Adam(model.parameters())
    with Recorder(path, model, optimizer, compression="none", **options) as recorder:
        for _ in range(STEPS):
            optimizer.zero_grad()
            model(torch.randn(8, 200)).square().sum().backward()
            optimizer.step()
    return open_run(path), recorder


def folder_bytes(path):
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


@pytest.mark.parametrize(
    "options", [{}, {"every": 4}, {"subsample": 0.2}, {"projection": 64}, {"match": "0", "save": ["update"]}], ids=str
)
def test_the_estimate_is_kept_and_near(tmp_path, options):
    run, recorder = record(tmp_path / "run", **options)
    counts = recorder.selection.counts(NUMELS)
    size = RunSize(counts, 4, STEPS, len(run.steps), len(run.columns))
    rows = {table: run.query(f"SELECT count(*) AS n FROM {table}")["n"][0] for table in size.rows}
    assert rows == size.rows
    written = folder_bytes(tmp_path / "run")
    assert written <= size.total
    if size.total > 1e6:
        assert written >= 0.85 * size.total


@pytest.mark.parametrize("budget", [700_000, 1_500_000, 8_000_000, 100_000_000])
def test_a_budget_is_kept(tmp_path, budget):
    run, recorder = record(tmp_path / "run", budget=budget, steps=STEPS)
    assert folder_bytes(tmp_path / "run") <= budget
    assert run.metadata["budget"] == recorder.budget_choice
    assert f"a budget of {show_bytes(budget)} for 60 steps: " in recorder.budget_choice


def test_a_budget_that_is_too_small_says_what_is_needed(tmp_path):
    words = "the scalars and stats of 60 steps and the tensors of one take 560 kB; give at least that"
    with pytest.raises(
        BadArgument, match=f"budget of 300 kB is too small for one step: run.json and the like, {words}"
    ):
        record(tmp_path / "run", budget="300kB", steps=STEPS)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("layers", "steps"), [(1, 1), (2, 5), (100, 3)])
def test_the_estimate_of_a_small_run_is_kept_and_near(tmp_path, layers, steps):
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(layers)))
    optimizer = torch.optim.Adam(model.parameters())
    with Recorder(tmp_path / "run", model, optimizer, compression="none") as recorder:
        for _ in range(steps):
            model(torch.ones(2, 4)).square().sum().backward()
            optimizer.step()
    size = recorder.size(steps)
    assert size.beside / 3 < folder_bytes(tmp_path / "run") - sum(size.bytes.values()) <= size.beside
    numels = {name: parameter.numel() for name, parameter in model.named_parameters()}
    assert choose_for_budget(size.total, numels, n_steps=steps).size == size.total


def test_what_a_budget_chooses():
    """Whole tensors take 506,520 bytes a step here, and what is beside them about 53,000 for 60 steps."""

    def choose(budget, **options):
        choice = choose_for_budget(budget, NUMELS, n_steps=STEPS, **options)
        return choice.every, choice.selection

    assert choose(32_000_000) == (1, Selection())
    assert choose(16_000_000) == (2, Selection())
    every, selection = choose(565_000)  # rather a sample of every step than one whole step
    assert every == 1
    assert 0.01 < selection.subsample < 0.02
    every, selection = choose(16_000_000, every=1)
    assert every == 1
    assert 0.45 < selection.subsample < 0.55
    every, selection = choose(4_000_000, selection=Selection(projection=500))
    assert (selection.projection, every) == (500, 1)
    assert choose(4_000_000, selection=Selection(match="2"))[1].match == "2"
    with pytest.raises(BadArgument, match=r"every 2 steps take .* more than the budget of 700 kB; .*every=\d+"):
        choose(700_000, every=2, selection=Selection(projection=1000))
    many = choose_for_budget(parse_bytes("2GB"), {"w": 11_700_000}, n_steps=10_000)
    assert many.every == 1
    assert 0.001 < many.selection.subsample < 0.0015
    assert many.size <= 2e9


@given(
    st.dictionaries(st.text("ab", min_size=1), st.integers(1, 3_000_000), min_size=1, max_size=4),
    st.integers(1, 100_000),
    st.floats(1, 1e4),
)
@settings(max_examples=50, deadline=None)
def test_no_choice_is_larger_than_its_budget(numels, n_steps, factor):
    least = RunSize(numels, len(numels), n_steps, 1).total
    choice = choose_for_budget(int(least * factor), numels, n_steps=n_steps)
    assert choice.size <= least * factor
    with pytest.raises(BadArgument, match="too small for one step"):
        choose_for_budget(least - 1, numels, n_steps=n_steps)


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0", "1 XB", "2GB2"])
def test_no_number_of_bytes(text):
    with pytest.raises(BadArgument, match="give one such as 2GB"):
        parse_bytes(text)
