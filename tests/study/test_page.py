"""The command, its tables, and the page with its files."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
from typer.testing import CliRunner

from trajectory_tools.cli.main import app
from trajectory_tools.experiments.study import FIGURES
from trajectory_tools.experiments.study.claims import Number, larger, meet
from trajectory_tools.experiments.study.design import Column, Curve, MetaTrained, Setting
from trajectory_tools.experiments.study.reading import Reading
from trajectory_tools.l2o.network import CoordinatewiseLSTM
from trajectory_tools.l2o.weights import save_weights


def run(*words: object, code: int = 0):
    """The command in this process: what importing torch takes is paid once."""
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == code, f"{done.output}\n{done.exception!r}"
    return done


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory) -> tuple[Path, str, str]:
    """Figure 7 on digits, as it is, but with one seed: the folder, stdout, stderr."""
    folder = tmp_path_factory.mktemp("reproduced")
    done = run("reproduce", "fig7", "--seeds", 1, "-o", folder)
    return folder, done.stdout, done.stderr


def test_the_tables_on_stdout(reproduced):
    _, stdout, stderr = reproduced
    claims, numbers = stdout.strip().split("\n\n")
    header, *rows = claims.splitlines()
    assert header.split() == ["setting", "claim", "of", "paper", "ours", "holds", "seeds"]
    assert len(rows) == 9
    assert re.search(r"SGD ≤ 0\.0001 × Lion +deviation at 200 +0; 0\.40 +\S+; \S+ +yes +1 of 1", claims)
    assert re.search(r"λ = 0\.5 > Lion +mean loss over 200 +a larger λ trains faster", claims)
    assert re.search(r"^λ = 0\.1 +\S+ \(0\.07\)", numbers, flags=re.MULTILINE)
    assert "translation deviation of the update, mean of iterations 101-200" in stderr
    assert "1 of the 3 seeds or more" in stderr
    assert "compare orders and factors" in stderr
    held = sum(" yes " in row for row in rows)
    assert f"{held} of 9 claims hold" in stderr
    assert stderr.splitlines()[-1].startswith("next: traj report ")


def test_the_files(reproduced):
    folder, *_ = reproduced
    stem = folder / "fig7-digits"
    found = json.loads(stem.with_suffix(".json").read_text())
    assert found["seeds"] == [0]
    assert len(found["settings"][0]["claims"]) == 9
    plotted = pd.read_csv(stem.with_suffix(".csv"))
    assert set(plotted["panel"]) == {"translation deviation", "translation share", "training loss"}
    assert (plotted["iteration"].min(), plotted["iteration"].max() >= 199) == (1, True)
    deviations = plotted[(plotted["panel"] == "translation deviation") & (plotted["label"] == "Lion")]
    assert deviations["iteration"].tolist() == [1, *range(10, 201, 10)]
    svg = ElementTree.fromstring(stem.with_suffix(".svg").read_text())
    texts = {text.text for text in svg.iter("{http://www.w3.org/2000/svg}text")}
    assert {"Lion", "λ = 0.1", "iteration", "training loss"} <= texts
    assert "step" not in texts
    page = stem.with_suffix(".html").read_text()
    assert page.startswith("<!doctype html>")
    for said in ("of 9 claims hold", "arXiv 2312.07174", "lion_lr 0.005", "compare orders", "seed 0", "0.40"):
        assert said in page, said
    assert not re.search(r'(src|href)="(?!#|data:)', page), "it works offline and alone"


def test_nothing_is_replaced_unasked_and_runs_are_taken(reproduced):
    folder, stdout, _ = reproduced
    files = {path: path.read_bytes() for path in folder.glob("fig7-digits.*")}
    done = run("reproduce", "fig7", "--seeds", 1, "-o", folder, code=2)
    assert "fig7-digits.html is there already" in done.stderr
    assert {path: path.read_bytes() for path in files} == files
    assert sorted(path.name for path in folder.iterdir()) == ["fig7-digits", *sorted(path.name for path in files)]
    again = run("reproduce", "fig7", "--seeds", 1, "-o", folder, "--force", "--json")
    found = json.loads(again.stdout)
    assert [Path(path).suffix for path in found["files"]] == [".html", ".svg", ".csv", ".json"]
    assert stdout.count(" yes ") == sum(claim["holds"] for claim in found["settings"][0]["claims"])


@pytest.fixture
def small(monkeypatch) -> None:
    """Figure 9, but short, with given learning rates, and a claim that does not hold."""
    columns = tuple(Column(f"at {i}", Reading("histogram", "max", i, i, "update"), {"L2O": ".3"}) for i in (1, 5))
    claims = (
        meet([Number("Lion", "at 1"), Number("Lion", "at 5")], within=1e-3),
        larger(Number("Lion", "at 1"), Number("Lion", "at 5"), factor=2),
    )
    curves = (Curve("L2O", "l2o", weights=MetaTrained()), Curve("Lion", "lion", {"lr": 0.01}))
    setting = Setting("sigmoid", "sigmoid", {}, curves, columns, claims)
    figure = replace(FIGURES["fig9"], name="small", settings=(setting,), iterations=5, at=(1, 5))
    monkeypatch.setitem(FIGURES, "small", figure)


@pytest.mark.usefixtures("small")
def test_check_exits_with_1_where_a_claim_does_not_hold(tmp_path, weights):
    words = ("reproduce", "small", "-o", tmp_path, "--weights", weights / "digits-mlp-sigmoid.safetensors")
    done = run(*words, "--check", code=1)
    assert re.search(r"at 1, at 5 agree within 0\.1 % +Lion +– +0\.01 \S+ \S+; 0\.01 \S+ \S+ +yes +3 of 3", done.stdout)
    assert re.search(r"at 1 > 2 × at 5 +Lion +– +0\.01 .* NO +0 of 3", done.stdout)
    assert "1 of 2 claims hold" in done.stderr
    panels = pd.read_csv(tmp_path / "small-digits.csv")["panel"]
    assert set(panels) == {"iteration 1", "iteration 5"}
    run(*words, "--force")


@pytest.mark.usefixtures("small")
def test_learned_optimizers_that_were_not_trained_equally_long_are_named(tmp_path, monkeypatch):
    small = FIGURES["small"]
    both = tuple(Curve(f"β = {beta}", "l2o", weights=MetaTrained("sigmoid", False, "scale", beta)) for beta in (1, 2))
    setting = replace(small.settings[0], curves=both, claims=())
    monkeypatch.setitem(FIGURES, "small", replace(small, settings=(setting,)))
    for curve, meta_steps in zip(both, (682, 2299), strict=True):
        name = f"{curve.weights.name('digits')}.safetensors"
        save_weights(tmp_path / name, CoordinatewiseLSTM(), {"meta_steps": meta_steps})
    done = run("reproduce", "small", "--seeds", 1, "--weights", tmp_path, "-o", tmp_path / "out")
    said = "sigmoid: the learned optimizers took 682 to 2,299 steps of meta-training"
    assert said in " ".join(done.stderr.split())
    assert said in (tmp_path / "out/small-digits.html").read_text()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("fig77", "unknown figure 'fig77'; did you mean fig7"),
        ("fig7 --data minst", "unknown data 'minst'; did you mean mnist"),
        ("fig7 --data-dir x", "leave --data-dir out"),
        ("fig7 --data mnist --data-dir x", "no MNIST in x"),
        ("fig7 --seeds 0", "the number of seeds is 0"),
        ("fig7 --weights .", "fig7 has no learned optimizer"),
        ("fig9 --weights nowhere", "there are no weights at nowhere"),
    ],
)
def test_refused_with_one_sentence(tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    done = run("reproduce", *words.split(), code=2)
    [sentence] = done.stderr.splitlines()
    assert says in sentence
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())
