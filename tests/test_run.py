"""The run reader: selecting, querying, and its sentences when there is nothing to select."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from trajectory_tools.errors import BadArgument, MissingData, TrajectoryError, UnknownName
from trajectory_tools.run import find_runs, open_run
from trajectory_tools.store.rows import RowLayout, StepRows
from trajectory_tools.store.session import Session


@pytest.fixture
def run(tmp_path):
    """Steps 0, 3, 6, ... 27 of a 2x2 weight whose values are the step's number; grad and update saved."""
    params = [{"name": "w", "shape": [2, 2], "dtype": "float32", "numel": 4, "aliases": []}]
    session = Session(tmp_path / "adam", {"params": params, "save": ["grad", "update"], "seed": 4})
    layout = RowLayout.of({"w": 4})
    for step in range(30):
        if step % 3 == 0:
            values = np.full(4, step, np.float32)
            session.writer.put_tensors(StepRows(step, layout, {"grad": values, "update": -values}))
        row = {"lr": 0.1, "wall_time": 0.0, "record_seconds": 0.0, "skipped": False, "n_evals": 1}
        session.writer.put_scalars({"step": step, "loss": 1.0 / (step + 1), **row})
    session.close("finished")
    return open_run(tmp_path / "adam")


def test_select_by_number_list_and_slice(run):
    assert run.steps.tolist() == list(range(0, 30, 3))
    assert run.logged_steps.tolist() == list(range(30))
    assert run.array("grad", "w", steps=6)[:, 0, 0].tolist() == [6]
    assert run.array("grad", "w", steps=[27, 3, 3])[:, 0, 0].tolist() == [3, 27]
    assert run.array("update", "w", steps=slice(3, 10))[:, 1, 1].tolist() == [-3, -6, -9]
    assert run.array("grad", "w", steps=slice(0, None, 9))[:, 0, 0].tolist() == [0, 9, 18, 27]
    assert run.array("grad", "w", steps=slice(100, None)).shape == (0, 2, 2)
    assert run.array("grad", "w", steps=np.array([9])).dtype == np.float32
    assert run.array("grad", "w").shape == (10, 2, 2)


def test_what_is_not_there_is_said_in_one_sentence(run):
    for asking, error, words in (
        (lambda: run.array("grad", "w", steps=4), MissingData, "step 4 .* 0 to 27"),
        (lambda: run.array("grad", "w", steps=[-1]), MissingData, "step -1"),
        (lambda: run.array("grad", "w", steps=slice(-3, None)), BadArgument, "step numbers, not positions"),
        (lambda: run.array("grad", "w", steps=slice(None, None, -1)), BadArgument, "step numbers"),
        (lambda: run.array("grad", "v"), UnknownName, "'v'"),
        (lambda: run.array("gard", "w"), UnknownName, "did you mean grad"),
        (lambda: run.array("param", "w"), MissingData, r"it has: grad, update.*--save"),
        (lambda: run.query("SELECT nothing FROM scalars"), BadArgument, "nothing"),
        (lambda: run.query("SELECT * FROM elsewhere"), BadArgument, "elsewhere"),
        (lambda: run.query("nonsense"), BadArgument, "query failed"),
        (lambda: find_runs([run.path / "none"]), TrajectoryError, "no such folder"),
    ):
        with pytest.raises(error, match=words):
            asking()


def test_query_and_pandas(run):
    frame = run.query("SELECT step, loss FROM scalars WHERE step < 3 ORDER BY step")
    assert frame["loss"].tolist() == [1.0, 0.5, 1 / 3]
    joined = run.query("SELECT s.step, list_sum(grad) AS g FROM tensors t JOIN scalars s USING (step) ORDER BY 1")
    assert joined["g"].tolist() == [4.0 * step for step in range(0, 30, 3)]
    assert len(pd.read_parquet(run.path / "tensors")) == 10
    assert len(pd.read_parquet(run.path / "scalars")) == 30
    assert [path.name for path in run.files("scalars")] == ["s000-r0000-000000.parquet"]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM '{there}'",
        "SELECT * FROM read_text('{there}')",
        "SELECT * FROM glob('{folder}/*')",
        "COPY (SELECT * FROM scalars) TO '{folder}/new.csv'",
        "COPY (SELECT * FROM scalars) TO '{there}'",
        "ATTACH '{folder}/new.db'",
        "INSTALL httpfs",
        "SET enable_external_access = true",
        "SELECT * FROM run",  # what Python calls so
    ],
)
def test_a_query_reads_and_writes_no_other_file(run, tmp_path, sql):
    there = tmp_path / "mine.csv"
    there.write_text("a\n1\n")
    before = sorted(tmp_path.iterdir())
    for ask in (run.query, run.query_arrow):
        with pytest.raises(BadArgument, match="the query failed"):
            ask(sql.format(there=there, folder=tmp_path))
    assert sorted(tmp_path.iterdir()) == before
    assert there.read_text() == "a\n1\n"


def test_what_a_run_says_of_itself(run):
    assert (run.label, run.seed, run.status, run.n_steps, run.n_values) == ("adam", 4, "finished", 30, 4)
    assert "30 steps" in repr(run)
    assert "grad+update" in repr(run)
    assert run.columns == ("grad", "update")
    assert run.span == "0 to 27 (10 of them)"


def test_runs_below_a_folder_come_in_the_order_in_which_they_were_recorded(tmp_path):
    for name, created in (("a", "2026-01-03"), ("b/1", "2026-01-01"), ("b/2", "2026-01-02"), ("c", "2026-01-02")):
        Session(tmp_path / name, {"params": []}).close("finished")
        description = json.loads((tmp_path / name / "run.json").read_text())
        (tmp_path / name / "run.json").write_text(json.dumps({**description, "created_at": created}))
    assert [run.label for run in find_runs(tmp_path)] == ["1", "2", "c", "a"]
    assert [run.label for run in find_runs([tmp_path / "a", tmp_path / "b"])] == ["a", "1", "2"], "of paths: as given"
    assert [run.label for run in find_runs([tmp_path / "b/2", tmp_path])] == ["2", "1", "c", "a"]


def test_columns_that_differ_only_in_case_can_be_queried(tmp_path):
    session = Session(tmp_path / "run", {"params": []})
    row = {"lr": 0.1, "wall_time": 0.0, "record_seconds": 0.0, "skipped": False, "n_evals": 1}
    session.writer.put_scalars({"step": 0, "loss": 1.0, "Loss": 2.0, **row})
    session.close("finished")
    assert 1.0 in open_run(tmp_path / "run").scalars().iloc[0].tolist()


def test_reading_never_imports_torch(run):
    code = (
        "import sys; from trajectory_tools.run import open_run; r = open_run(sys.argv[1]); r.array('grad', 'w');"
        "r.query('SELECT 1 FROM tensors'); list(r.chunks(['grad'])); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, run.path], check=False).returncode == 0
