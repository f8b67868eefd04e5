"""The report as a file: complete, self-contained, escaped, and refusing to replace anything."""

import re
import subprocess
import sys
import warnings
from datetime import UTC, datetime
from types import ModuleType
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import torch

import trajectory_tools as tt
from trajectory_tools.errors import BadArgument, MissingData, OutputExists, TrajectoryError
from trajectory_tools.metrics import registry
from trajectory_tools.metrics.base import Metric
from trajectory_tools.metrics.frames import Series, tidy
from trajectory_tools.metrics.labels import compared_under, told_apart
from trajectory_tools.recorder import Recorder
from trajectory_tools.reports import sections

HOSTILE = "<script>alert('1')</script> \"a\"/b & $x_1^{2 \n😀 \x07%"
NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)

NOT_PROBED = "skipped: its noise was not probed"


def test_what_it_holds(report, runs, read):
    page = read(report)
    assert "Three optimizers" in page.text
    assert "Made 2026-01-02 03:04 UTC by trajectory-tools" in page.text
    assert "traj report runs" in page.text
    for run in runs:
        assert run.label in page.text
        assert run.name in page.text
        assert run.metadata["command"] in page.text
    for shown in (runs[0].problem, "lr 0.5", "lr 0.1, momentum 0.9", "torch.optim.adam.Adam", torch.__version__):
        assert shown in page.text
    assert "seeds 0, 1" in page.text
    assert page.text.count("skipped") == page.text.count(NOT_PROBED) == 2
    assert report.stat().st_size < 1_500_000
    assert not list(report.parent.glob(".*"))


def test_it_stands_alone(report, read):
    text = report.read_text(encoding="utf-8")
    page = read(report)
    assert not page.all("script")
    assert not page.all("link")
    assert not page.all("img")
    addresses = [attrs.get("href") or "" for _, attrs in page.tags if "href" in attrs]
    assert all(address.startswith(("#", "data:")) for address in addresses)
    beyond = re.sub(r"(href=\")data:[^\"]*", r"\1", text).replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert "//" not in beyond.replace("<!--", "")
    assert not re.search(r"url\((?!#)|@import", beyond)


def test_ids_are_unique_and_links_lead_somewhere(report, read):
    page = read(report)
    assert len(page.ids) == len(set(page.ids))
    targets = {(a["href"] or "")[1:] for a in page.all("a") if (a["href"] or "").startswith("#")}
    assert targets <= set(page.ids)
    assert {figure["id"] for figure in page.all("figure")} <= targets
    for attrs in [*page.all("section"), *page.all("nav")]:
        assert attrs["aria-labelledby"] in page.ids
    uses = {name for _, attrs in page.tags for name in re.findall(r"url\(#([^)]+)\)", attrs.get("clip-path") or "")}
    assert uses <= set(page.ids)
    assert all("scope" in head for head in page.all("th"))


def test_every_figure_is_described_and_has_its_data_and_drawing(report, runs, read):
    page = read(report)
    figures = [figure["id"] for figure in page.all("figure")]
    assert len(figures) == 12
    assert list(page.downloads(".csv")) == list(page.downloads(".svg")) == figures
    drawings = [svg for svg in page.all("svg") if svg.get("role") == "img"]
    assert len(drawings) == len(figures)
    assert all(len(svg["aria-label"] or "") > 20 for svg in drawings)
    for words in ("Shows.", "How to read it.", "Formula."):
        assert page.text.count(words) == len(figures)
    analyses = tt.analyze(runs)
    for name, analysis in analyses.items():
        if analysis.frame.empty:
            assert set(analysis.skipped) == {run.name for run in runs}
            continue
        for make in sections.FAMILIES[name].FIGURES.values():
            expected = make(analysis.frame).data
            found = page.frame(f"problem-1-{name.replace(chr(95), chr(45))}-{make.__name__.replace(chr(95), chr(45))}")
            pd.testing.assert_frame_equal(found, expected, check_dtype=False, rtol=1e-12, atol=0)
    for svg in page.downloads(".svg").values():
        assert ElementTree.fromstring(svg).tag.endswith("svg")
        assert "var(" not in svg


def test_the_same_runs_give_the_same_bytes(folder, report, tmp_path):
    again = tt.write_report(folder, tmp_path / "r.html", title="Three optimizers", now=NOW, command="traj report runs")
    assert again.read_bytes() == report.read_bytes()


def test_an_existing_file_is_kept(folder, tmp_path, record):
    out = tmp_path / "report.html"
    out.write_text("mine")
    with pytest.raises(OutputExists, match=r"report\.html is there already.*--force"):
        tt.write_report(folder, out)
    assert out.read_text() == "mine"
    with pytest.raises(MissingData):
        tt.write_report(record(tmp_path / "empty", 0), out, force=True)
    assert out.read_text() == "mine"
    tt.write_report(folder, out, force=True, metrics=["loss"])
    assert "mine" not in out.read_text(encoding="utf-8")[:100]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "report.html"]


def test_bad_outputs_and_no_runs(folder, tmp_path, record):
    (tmp_path / "file").write_text("")
    with pytest.raises(TrajectoryError, match="is a folder"):
        tt.write_report(folder, tmp_path, force=True)
    with pytest.raises(TrajectoryError, match="cannot be written"):
        tt.write_report(folder, tmp_path / "file" / "report.html")
    with pytest.raises(BadArgument, match="no runs were given"):
        tt.write_report([], tmp_path / "report.html")
    with pytest.raises(MissingData, match="no step was recorded in"):
        tt.write_report(record(tmp_path / "empty", 0), tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_a_hostile_name_is_only_text(tmp_path, read, record):
    symmetries = [{"kind": "translation", "in": [["weight", 0], ["bias", 0]]}]
    run = record(tmp_path / "run", label=HOSTILE, symmetries=symmetries, info={"problem": {"title": HOSTILE}})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        page = read(tt.write_report([run, run], tmp_path / "r.html", title=HOSTILE, command=HOSTILE))
    assert not page.all("script")
    assert "<script>alert('1')</script>" in page.text
    assert "$x_1^{2 😀" in page.text
    assert "failed" not in page.text
    data = page.frame("problem-1-symmetry-share")
    assert set(data["label"]) == {HOSTILE, "gradients (middle half of all runs)"}
    for svg in page.downloads(".svg").values():
        words = [text.text or "" for text in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
        assert any(word.startswith("<script>") for word in words)


def test_a_run_of_one_step(tmp_path, read, record):
    page = read(tt.write_report(record(tmp_path / "run", 1), tmp_path / "r.html"))
    assert len(page.all("figure")) == 7
    assert "skipped: no symmetry groups were declared" in page.text
    assert page.frame("problem-1-loss-training-loss")["step"].tolist() == [0]


def test_missing_data_is_said_and_the_rest_goes_on(tmp_path, read, record):
    no_grads = record(tmp_path / "no-grads", save=["update"], stats=False)
    scalars = record(tmp_path / "scalars", save=[], stats=False)
    page = read(tt.write_report([no_grads, scalars], tmp_path / "r.html"))
    assert "skipped: the grad was not recorded; record with --save grad" in page.text
    assert "skipped for 1 run: no tensors and no stats were recorded" in page.text
    assert "gradient norm: skipped" in page.text
    assert "skipped: the path length needs" in page.text
    assert "problem-1-loss-training-loss" in page.ids


def test_an_empty_run_among_others_is_named(tmp_path, read, record):
    empty, full = record(tmp_path / "empty", 0), record(tmp_path / "full")
    page = read(tt.write_report([empty, full], tmp_path / "r.html", metrics=["loss"]))
    assert "empty: it has no recorded steps" in page.text


def test_values_that_are_not_finite_are_counted(tmp_path, read, record):
    runs = [record(tmp_path / "nan", 4, loss=np.nan, grad=np.inf, seed=7), record(tmp_path / "good", 4)]
    page = read(tt.write_report(runs, tmp_path / "r.html", metrics=["loss", "dynamics"]))
    for kind in ("gradients", "updates"):
        assert re.search(rf"nan: [\d,]+ values of the {kind} NaN or infinite, at 4 steps, first at step 0", page.text)
    assert "nan: the loss is NaN or infinite at 4 steps, first at step 0" in page.text
    alone = read(tt.write_report(runs[:1], tmp_path / "alone.html", metrics=["loss"]))
    assert "skipped: loss: skipped: none of its 4 values is finite" in alone.text


def test_a_figure_that_fails_does_not_take_the_others(folder, tmp_path, monkeypatch, read):
    def broken(frame: pd.DataFrame) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setitem(sections.loss.FIGURES, "Training loss", broken)
    page = read(tt.write_report(folder, tmp_path / "r.html", metrics=["loss", "histogram"]))
    assert "skipped: drawing it failed (ZeroDivisionError: oops)" in page.text
    assert len(page.all("figure")) == 3


def test_another_packages_metric_gets_a_figure(folder, tmp_path, monkeypatch, read):
    class Answer(Metric[None, list[np.ndarray]]):
        name = "answer"

        def prepare(self, run):
            return None

        def update(self, context, chunk):
            return [chunk.steps]

        def combine(self, left, right):
            return left + right

        def finish(self, context, state):
            return tidy([Series({"quantity": "answer"}, np.concatenate(state), 42.0)], ["quantity"])

    monkeypatch.setattr(registry, "metrics", lambda: {"answer": Answer})
    page = read(tt.write_report(folder, tmp_path / "r.html", metrics=[Answer()], saved=False))
    assert set(page.frame("problem-1-answer-quantities")["value"]) == {42}


def test_runs_that_should_not_be_averaged_are_pointed_out(tmp_path, read, record):
    short, long = record(tmp_path / "a", 2, label="x", seed=0), record(tmp_path / "b", 4, label="x", seed=1)
    long.metadata["optimizer"]["groups"][0]["lr"] = 0.2
    short.metadata["sessions"].append({"session": 1, "optimizer": {"class": "another"}})
    page = read(tt.write_report([short, long], tmp_path / "r.html", metrics=["loss"]))
    assert "differ in length (2 to 4 steps)" in page.text
    assert "different hyperparameters carry this label and are averaged: lr 0.1 | lr 0.2" in page.text
    assert "seed 0: it was resumed with another optimizer or other hyperparameters" in page.text


def test_runs_of_different_experiments_are_told_apart(tmp_path, read):
    def record(folder, width, kind, seed):
        torch.manual_seed(seed)
        model = torch.nn.Linear(3, width)
        optimizer = kind(model.parameters())
        info = {"problem": {"title": "train.py"}}
        with Recorder(tmp_path / folder, model, optimizer, label="run", seed=seed, info=info) as recorder:
            for _ in range(3):
                optimizer.zero_grad()
                loss = model(torch.ones(4, 3)).square().mean()
                loss.backward()
                optimizer.step()
                recorder.log(loss=loss)
        return tt.open_run(tmp_path / folder)

    adam, sgd = torch.optim.Adam, torch.optim.SGD
    runs = [record(f"a{seed}", 2, adam, seed) for seed in range(2)]
    runs += [record("b", 5, adam, 0), record("c", 2, sgd, 0)]
    page = read(tt.write_report(runs, tmp_path / "r.html", metrics=["loss"]))
    curves = page.frame(next(iter(page.downloads(".csv")))).groupby("label")["runs"].max().to_dict()
    assert curves == {"run (Adam, 8 values)": 2, "run (Adam, 20 values)": 1, "run (SGD, 8 values)": 1}
    said = "the label 'run' is also that of runs with other parameters or another optimizer, which are told apart"
    assert page.text.count(said) == 3
    assert set(tt.compute(runs, "loss")["label"]) == set(curves)
    assert set(tt.compute(runs[:2], "loss")["label"]) == {"run"}
    runs[2].metadata["params"] = [{**param, "name": "other"} for param in runs[0].metadata["params"][:1]]
    runs[0].metadata["params"] = runs[1].metadata["params"] = runs[0].metadata["params"][:1]
    labels = list(told_apart(runs).values())
    assert labels[0] == labels[1] == f"run (Adam, 6 values, {runs[0].name})"
    assert labels[2] == f"run (Adam, 6 values, {runs[2].name})"


def test_optimizers_that_train_different_parts_of_one_program_are_no_rivals(tmp_path):
    def record(folder, sizes, title="gan.py", rank=""):
        for i, size in enumerate(sizes):
            model = torch.nn.Linear(size, 1)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            path, info = folder / f"optimizer-{i}" / rank, {"problem": {"title": title}}
            with Recorder(path, model, optimizer, info=info) as recorder:
                loss = model(torch.ones(2, size)).square().mean()
                loss.backward()
                optimizer.step()
                recorder.log(loss=loss)

    record(tmp_path / "gan", [2, 3])
    record(tmp_path / "again", [2, 3])
    record(tmp_path / "sweep", [4, 4], "sweep.py")
    record(tmp_path / "sharded", [4, 5], "fsdp.py", "rank-0")
    one, other, whole = "gan.py, optimizer-0", "gan.py, optimizer-1", "sweep.py"
    runs = tt.find_runs([tmp_path / "gan", tmp_path / "again", tmp_path / "sweep"])
    assert list(compared_under(runs).values()) == [one, other, one, other, whole, whole]
    assert list(compared_under(runs[:3]).values()) == [one, other, one]
    assert list(compared_under(runs[:1]).values()) == ["gan.py"]
    sharded = tt.find_runs(tmp_path / "sharded")
    assert list(compared_under(sharded).values()) == ["fsdp.py, optimizer-0", "fsdp.py, optimizer-1"]
    html = tt.write_report(runs, tmp_path / "r.html", metrics=["loss"]).read_text(encoding="utf-8")
    headings = re.findall(r'<h2 id="problem-\d+">([^<]*)</h2>', html)
    assert headings == [one, other, whole]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"subsample": 0.1}, "its tensors hold a random 10 % of the coordinates, and metrics"),
        ({"projection": 4}, "its tensors hold 4 random projections of each parameter, and metrics"),
        ({"match": "weight"}, "its tensors hold all coordinates of the parameters that match 'weight', and metrics"),
        ({"every": 3}, "its tensors are of 2 of 4 steps (every 3 steps)"),
    ],
    ids=str,
)
def test_a_run_that_holds_only_a_part_says_so(tmp_path, read, record, options, says):
    record(tmp_path / "whole", 4, label="whole")
    record(tmp_path / "part", 4, label="part", **options)
    page = read(tt.write_report([tmp_path / "whole", tmp_path / "part"], tmp_path / "r.html", metrics=["loss"]))
    assert page.text.count("its tensors") == 1
    assert says in " ".join(page.text.split())


def test_a_killed_run_says_so(tmp_path, read, record):
    description = record(tmp_path / "run").path / "run.json"
    description.write_text(description.read_text().replace('"status": "finished"', '"status": "recording"'))
    page = read(tt.write_report(tmp_path / "run", tmp_path / "r.html", metrics=["loss"]))
    assert "run: it was killed: what was recorded shortly before is missing" in page.text
    assert "interrupted (was killed)" in page.text


def test_neither_torch_nor_pyplots_state_is_touched(folder, tmp_path):
    code = (
        "import sys, trajectory_tools as tt; from trajectory_tools.reports import Figure;"
        "assert 'matplotlib' not in sys.modules;"
        f"tt.write_report({str(folder)!r}, {str(tmp_path / 'r.html')!r}, metrics=['loss']);"
        "import matplotlib as mpl, matplotlib.pyplot as plt;"
        "assert 'torch' not in sys.modules; assert not plt.get_fignums();"
        "assert mpl.rcParams['svg.fonttype'] == 'path' and mpl.rcParams['text.parse_math']"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=120)


def test_each_metric_has_a_family_of_figures():
    assert set(sections.FAMILIES) == {
        "loss",
        "symmetry",
        "histogram",
        "dynamics",
        "tail_index",
        "covariance",
        "temporal_covariance",
    }
    for family in [*sections.FAMILIES.values(), sections.generic]:
        assert isinstance(family, ModuleType)
        assert family.ABOUT
        assert family.FIGURES
