"""One sentence, exit code 2, nothing lost: the list of the issue, through the real command line."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from commands import refused, traj


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("record no-such", "unknown problem 'no-such'; there are: digits-mlp"),
        ("record digit-mlp", "did you mean digits-mlp"),
        ("record digits-mlp --optimizer adm", "unknown optimizer 'adm'; did you mean adam"),
        ("record digits-mlp --activation relux", "did you mean relu"),
        ("record digits-mlp --activaton relu", "did you mean --activation"),
        ("record digits-mlp --momentum 0.9", "no option of digits-mlp with adam; sgd, rmsprop, lion-sgd have it"),
        ("record quadratic --hidden 3", "--hidden is no option of quadratic with adam; digits-mlp, mnist-mlp, "),
        ("record --momentum 0.9 digits-mlp", "; type: traj record digits-mlp --momentum 0.9 ..."),
        ("record --steps 3 --batch-norm --hidden=8 digits-mlp", "type: traj record digits-mlp --batch-norm --hidden=8"),
        ("record --momentum 0.9", "--momentum stands before the problem; type: traj record PROBLEM --momentum 0.9"),
        ("record digits-mlp --steps 0", "--steps is 0"),
        ("record digits-mlp --steps -3", "--steps is -3"),
        ("record digits-mlp --seeds 0", "--seeds is 0"),
        ("record digits-mlp --seed -1", "seed is -1"),
        ("record digits-mlp --every 0", "--every is 0; give 1 or more"),
        ("record digits-mlp --per-decade 0", "--per-decade is 0; give 1 or more"),
        ("record digits-mlp --every 2 --at 0,3", "give one of --every, --at and --per-decade, found --every and --at"),
        ("record digits-mlp --every 2 --per-decade 3", "found --every and --per-decade"),
        ("record digits-mlp --at 0,200", "--at is '0,200', and the 200 steps are numbered 0 to 199"),
        ("record digits-mlp --at 1,x", "--at is '1,x'"),
        ("record digits-mlp --at -1", "--at is '-1', and the 200 steps are numbered 0 to 199"),
        ("record digits-mlp --lr -1", "lr is '-1'"),
        ("record digits-mlp --lr fast", "lr is 'fast'"),
        ("record digits-mlp --save grads", "did you mean grad"),
        ("record digits-mlp --compression gzip", "'gzip'"),
        ("record digits-mlp --batch-size 100000", "batch_size is 100000"),
        ("record mnist-mlp --data-dir empty", "--data-dir"),
        ("record digits-mlp -o /proc/nowhere", "cannot record into /proc/nowhere"),
        ("record digits-mlp --probe-samples 4", "--probe-samples is given without --probe-every"),
        ("record digits-mlp --probe-batches 4", "--probe-batches is given without --probe-every"),
        ("record digits-mlp --probe-every 0", "every is 0"),
        ("record digits-mlp --probe-every 5 --probe-batches 1", "batches is 1"),
        ("record quadratic --probe-every 5 --probe-samples 4", "its loss is deterministic"),
        ("record quadratic --probe-every 5 --probe-sketch 11", "a sketch of 11 coordinates is more than the 10 that"),
        ("record quadratic --probe-every 5 --probe-sketch 11 --dry-run", "a sketch of 11 coordinates is more than"),
        ("record quadratic --probe-every 5 --probe-surrogates 1000000000000", "GB of disk, and"),
        (
            "record digits-mlp --batch-size 1 --probe-every 5 --probe-batches 2 --probe-samples 2",
            "the mini-batches are single samples already",
        ),
        ("record", "nothing to record; type `traj record train.py`, or `traj record digits-mlp`"),
        ("record nowhere.py", "there is no script nowhere.py; give the path of a .py file, or a module with -m"),
        ("record empty/", "empty/ is a folder without a __main__.py"),
        ("record -m no_such_module", "there is no module no_such_module to run"),
        (
            "record script.py --epochs 1",
            "the script's own arguments stand after --: traj record script.py ... -- --epochs 1",
        ),
        ("record script.py --seeds 2", "--seeds cannot be given here: it is for built-in problems; a script says"),
        ("record script.py --match (", "match is a regular expression, and '(' is none"),
        ("record script.py --subsample 0", "subsample is 0; give a fraction above 0 and up to 1"),
        ("record script.py --subsample 200%", "subsample is 2.0; give a fraction above 0 and up to 1"),
        ("record script.py --subsample nan", "subsample is nan; give a fraction above 0 and up to 1"),
        ("record script.py --projection 0", "projection is 0; give the number of dimensions"),
        ("record script.py --subsample 0.5 --projection 4", "give one of subsample and projection, found both"),
        ("record script.py --selection-seed -1", "the seed of a selection is -1; give a whole number from 0"),
        ("record script.py --save grads", "did you mean grad"),
        ("record script.py --every 0", "--every is 0; give 1 or more"),
        ("record script.py --json", "--json is for built-in problems"),
        ("record script.py -o empty/../script.py", "script.py is a file; choose a folder to record into"),
        (
            "record script.py -o foreign",
            "foreign is not empty and holds no run, so it is not touched; choose a new folder",
        ),
        (
            "record script.py -f -o foreign",
            "foreign is not empty and holds no run, so it is not touched; choose a new folder",
        ),
        ("record script.py -f -o other", "other/run.json cannot be read as a run's description"),
        ("record script.py -o /proc/nowhere/run", r"/proc cannot be written; choose another folder"),
        ("record nothere", "; a script is given with its ending, such as train.py"),
        ("record script.py --budget 2GB", "--budget cannot be given here: it is for built-in problems; a script says"),
        ("record script.py --probe-every 5", "--probe-every cannot be given here"),
        ("record digits-mlp --match nothing -o new", "'nothing' is found in no parameter's name; there are: 0.weight"),
        ("record digits-mlp --budget 1kB -o new", "too small for one step"),
        ("record digits-mlp -- --steps 3", "whose options stand before --"),
        ("analyze nowhere", "no run at nowhere"),
        ("analyze empty", "empty is no run"),
        ("analyze script.py", "script.py is no run: it is a file"),
        ("report nowhere", "no run at nowhere"),
        ("query empty SELECT", "empty is no run"),
        ("show empty", "empty is no run"),
        ("list nowhere", "there is no folder nowhere"),
    ],
)
def test_refused_with_one_sentence(tmp_path, words, says):
    (tmp_path / "empty").mkdir()
    (tmp_path / "script.py").write_text("print(1)")
    for name in ("foreign/notes.txt", "other/run.json"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    assert says in refused(*words.split(), cwd=tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("record digits-mlp -o runs/sgd", "holds a run already"),
        ("record script.py -o runs/sgd", "runs/sgd holds a run already; choose another folder with -o"),
        ("record digits-mlp --seeds 2 -o runs/adam", "holds a run already"),
        ("record digits-mlp -o script.py/run", "cannot record into script.py/run: "),
        ("record script.py -o script.py/some/run", "/script.py is a file; choose another folder"),
        ("analyze runs --metric symetry", "unknown metric 'symetry'; did you mean symmetry?"),
        ("query runs/adam SELECT", "holds 2, such as runs/adam/seed-0"),
        ("report runs -o runs", "runs"),
    ],
)
def test_refused_beside_runs(runs, words, says):
    (runs / "script.py").touch()
    assert says in refused(*words.split(), cwd=runs)


def test_a_wrong_query_says_where(runs):
    for sql, says in (
        ("SELECT step, los FROM scalars", r'column "los" not found in FROM clause; candidate bindings: "loss"'),
        ("SELECT label", r'"label" was not found because the FROM clause is missing; the tables are scalars, tensors'),
        ("SELECT * FROM scalar", r"Table with name scalar does not exist; the tables are scalars, tensors, stats"),
        ("SELECT step FRM scalars x y", r'syntax error at or near "\w+"$'),
    ):
        assert re.search(says, refused("query", "runs/sgd", sql, cwd=runs))


@pytest.fixture
def sgd(runs, tmp_path) -> Path:
    """A copy of a run, to be damaged."""
    return Path(shutil.copytree(runs / "runs/sgd", tmp_path / "sgd", ignore=shutil.ignore_patterns("analysis")))


@pytest.mark.parametrize(
    "command",
    [
        ["analyze", "sgd"],
        ["report", "sgd"],
        ["query", "sgd", "SELECT sum(list_sum(param) + list_sum(grad) + list_sum(update)) FROM tensors"],
    ],
)
@pytest.mark.parametrize("damage", ["truncated", "bit-flipped", "missing"])
def test_a_damaged_part(sgd, tmp_path, command, damage):
    part = sgd / "tensors/s000-r0000-000000.parquet"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 8
    if damage == "missing":
        part.unlink()
    else:
        part.write_bytes(content[:-100] if damage == "truncated" else content)
    sentence = refused(*command, cwd=tmp_path)
    assert "tensors" in sentence or "checksum" in sentence
    assert "--skip-damaged" in sentence
    assert not (tmp_path / "report.html").exists()


def test_a_newer_format(sgd, tmp_path):
    description = json.loads((sgd / "run.json").read_text())
    description["format"]["version"] = 99
    (sgd / "run.json").write_text(json.dumps(description))
    assert "format version 99" in refused("analyze", "sgd", cwd=tmp_path)


def test_a_broken_description(sgd, tmp_path):
    (sgd / "run.json").write_text("{")
    assert "run.json" in refused("show", "sgd", cwd=tmp_path)


def test_a_run_of_one_step_and_a_run_of_none(tmp_path):
    traj("record", "digits-mlp", "--steps", 1, "-o", "one", cwd=tmp_path)
    traj("analyze", "one", cwd=tmp_path)
    traj("report", "one", cwd=tmp_path)
    shutil.copytree(tmp_path / "one", tmp_path / "none")
    for left in ("tensors", "scalars", "stats", "manifest.jsonl", "analysis"):
        path = tmp_path / "none" / left
        path.unlink() if path.is_file() else shutil.rmtree(path)
    assert "next: traj report" in traj("show", "one", cwd=tmp_path).stderr
    for words in (["analyze", "none"], ["report", "none", "-o", "none.html"]):
        assert "traj: no step was recorded in none; record at least one" in refused(*words, cwd=tmp_path)
    done = traj("show", "none", cwd=tmp_path)
    assert re.search(r"^stats +on, and no step was recorded$", done.stdout, flags=re.MULTILINE)
    assert "next:" not in done.stderr
    done = traj("analyze", "none", "one", cwd=tmp_path)
    assert done.stderr.splitlines()[0] == "left out none: no step was recorded"
    assert done.stderr.count("none") == 2  # and in the command to type next


def test_a_hostile_label_is_only_text(tmp_path):
    label = '../../x/"quoted" <script>alert(1)</script>\n🙂 $\\frac$'
    traj(
        "record",
        "quadratic",
        "--optimizer",
        "sgd",
        "--lr",
        0.001,
        "--steps",
        3,
        "--label",
        label,
        "-o",
        "q",
        cwd=tmp_path,
    )
    assert {path.name for path in tmp_path.iterdir()} == {"q"}
    assert "<script>alert" not in (tmp_path / traj("report", "q", cwd=tmp_path).stdout.strip()).read_text()
    assert "\\n" in traj("list", ".", cwd=tmp_path).stdout
