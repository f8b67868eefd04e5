"""The tables of probes: written sample by sample, read back by the set, whole or not at all."""

import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from making import SHAPES, described, layout_of, record, rows_at, scalars_at, values_at

from trajectory_tools.errors import DamagedPart, MissingData
from trajectory_tools.run import open_run
from trajectory_tools.store.probe_rows import ProbeRows, ProductRows
from trajectory_tools.store.rows import RowLayout
from trajectory_tools.store.schema import MAX_ROW_VALUES, ROW_GROUP_VALUES
from trajectory_tools.store.session import Session
from trajectory_tools.store.size import ProbePlan, RunSize
from trajectory_tools.store.verify import verify

LAYOUT = layout_of()
WIDTH = int(LAYOUT.lengths.sum())


def put_set(session, step, n_samples, *, batch_size=8, n_surrogates=0, seed=0, layout=LAYOUT, mean=True, end=True):
    """Write one set; what a test expects to read back."""
    generator = np.random.default_rng([seed, step, batch_size or 0])
    width = int(layout.lengths.sum())
    written = {}
    for source, n in {"batch": n_samples, "surrogate": n_surrogates, "mean": int(mean)}.items():
        grad, update = generator.standard_normal((2, n, width)).astype(layout.dtype)
        written[source] = (grad, update)
        for first in range(0, n, 2):
            here = slice(first, first + 2)
            session.writer.put_probe(ProbeRows(step, layout, grad[here], update[here], source, batch_size, first))
    if end:
        session.writer.end_probes()
    return written


def opened(folder, **options):
    return Session(folder, {"params": described()}, run_id="r", **options)


def assert_set(found, written, batch_size=8):
    assert found.batch_size == batch_size
    np.testing.assert_array_equal(found.grad, written["batch"][0])
    np.testing.assert_array_equal(found.update, written["batch"][1])
    np.testing.assert_array_equal(found.mean_update, written["mean"][1][0])
    if len(written["surrogate"][0]):
        np.testing.assert_array_equal(found.surrogate_grad, written["surrogate"][0])
        np.testing.assert_array_equal(found.surrogate_update, written["surrogate"][1])
    else:
        assert found.surrogate_grad is None


def test_sets_come_back_as_they_were_written(tmp_path):
    session = opened(tmp_path / "run")
    written = {}
    for step in (0, 20, 40):
        written[step, 8] = put_set(session, step, 3, n_surrogates=2, end=False)
        written[step, None] = put_set(session, step, 5, batch_size=None)
    session.close("finished")
    run = open_run(tmp_path / "run")
    assert run.probed_steps.tolist() == [0, 20, 40]
    assert run.steps.size == 0
    sets = list(run.probe_sets())
    assert [(s.step, s.batch_size) for s in sets] == list(written)
    for found, size in zip(sets, [8, None] * 3, strict=True):
        assert_set(found, written[found.step, size], size)
        assert found.n_values == WIDTH
        assert found.spans == {
            "0.weight": slice(0, 12),
            "0.bias": slice(12, 16),
            "scale": slice(16, 17),
            "nothing": slice(17, 17),
        }
    assert [s.step for s in run.probe_sets(20)] == [20, 20]
    assert [s.step for s in run.probe_sets(slice(10, None))] == [20, 20, 40, 40]
    with pytest.raises(MissingData, match="step 21 is not among the probed steps"):
        run.probe_sets([20, 21])
    rows = run.query("SELECT * FROM probes WHERE step = 20 AND name = '0.bias' AND batch_size = 8 AND source = 'batch'")
    assert rows["sample"].tolist() == [0, 1, 2]
    np.testing.assert_array_equal(np.stack(rows["grad"]), written[20, 8]["batch"][0][:, 12:16])
    assert not any(finding.damaged for finding in verify(tmp_path / "run", "r"))


def test_a_run_without_probes_says_so(tmp_path):
    record(tmp_path / "run", range(2))
    run = open_run(tmp_path / "run")
    assert run.probed_steps.size == 0
    assert run.query("SELECT * FROM probes").empty
    assert run.query("SELECT grad_grad FROM probe_products").empty
    with pytest.raises(MissingData, match=r"no probes in .*rec.probe"):
        run.probe_sets()


@pytest.mark.parametrize("numel", [MAX_ROW_VALUES + 5, ROW_GROUP_VALUES // 3])
def test_large_parameters_are_split_and_put_together(tmp_path, numel):
    shapes = {"big": (numel,), "small": (3,)}
    layout = RowLayout.of({"big": numel, "small": 3})
    session = Session(tmp_path / "run", {"params": described(shapes)}, run_id="r", queue_bytes=3 * numel)
    written = put_set(session, 4, 4, layout=layout)
    session.close("finished")
    (found,) = open_run(tmp_path / "run").probe_sets()
    assert_set(found, written)
    (part,) = open_run(tmp_path / "run").parts("probes")
    assert part.rows == 5 * (3 if numel > MAX_ROW_VALUES else 2)


def test_a_part_holds_whole_steps_whatever_it_takes(tmp_path):
    """Parts roll at one byte, and by age at once; neither may cut a step."""
    for name, options in {"bytes": {"part_bytes": 1}, "age": {"part_seconds": 0.0}}.items():
        session = opened(tmp_path / name, queue_bytes=2000, **options)
        written = {}
        for step in range(4):
            written[step, 8] = put_set(session, step, 9, end=False)
            written[step, 2] = put_set(session, step, 9, batch_size=2)
            session.writer.put_scalars(scalars_at(step))
        session.close("finished")
        run = open_run(tmp_path / name)
        spans = [(part.first_step, part.last_step) for part in run.parts("probes")]
        assert [a for a, _ in spans] == sorted({a for a, _ in spans})
        assert all(before[1] < after[0] for before, after in pairwise(spans))
        if name == "bytes":
            assert spans == [(step, step) for step in range(4)]
        for found in run.probe_sets():
            assert_set(found, written[found.step, found.batch_size], found.batch_size)


def test_a_set_that_was_cut_short_is_passed_over(tmp_path):
    session = opened(tmp_path / "run")
    put_set(session, 0, 3, mean=False, end=False)
    whole = put_set(session, 0, 3, batch_size=2)
    put_set(session, 1, 3, mean=False)
    later = put_set(session, 2, 2)
    session.close("finished")
    first, last = open_run(tmp_path / "run").probe_sets()
    assert_set(first, whole, 2)
    assert_set(last, later)


def test_a_later_session_supersedes_from_its_first_step_on(tmp_path):
    session = opened(tmp_path / "run")
    for step in range(4):
        put_set(session, step, 2)
        session.writer.put_tensors(rows_at(step, LAYOUT, values_at(step)))
    put_set(session, 4, 2)  # in front of a step that was not made
    session.close("finished")
    session = opened(tmp_path / "run", if_exists="resume")
    assert session.next_step == 4
    session.close("finished")
    session = opened(tmp_path / "run", if_exists="resume")
    again = put_set(session, 3, 5, seed=1)
    session.close("interrupted")  # killed in front of its first step
    run = open_run(tmp_path / "run")
    assert [(s.step, len(s.grad)) for s in run.probe_sets()] == [(0, 2), (1, 2), (2, 2), (3, 5)]
    assert_set(next(iter(run.probe_sets(3))), again)
    assert run.steps.tolist() == [0, 1, 2]
    session = opened(tmp_path / "run", if_exists="resume")
    assert session.next_step == 3
    session.close("finished")


def test_products_are_found_by_step_and_batch_size(tmp_path):
    session = opened(tmp_path / "run")
    generator = np.random.default_rng(0)
    wanted = {}
    layout = RowLayout.of({"0.weight": 2, "0.bias": 1, "scale": 0, "nothing": 0})
    chosen = [np.array([1, 7]), np.array([3]), np.array([], np.int64), np.array([], np.int64)]
    for step in (0, 5):
        for size in (1, 8):
            for source, n in {"batch": 3, "mean": 1}.items():
                grad, update = generator.standard_normal((2, n, 3)).astype("float32")
                coordinates = chosen if source == "mean" else None
                session.writer.put_probe(ProbeRows(step, layout, grad, update, source, size, coordinates=coordinates))
            wanted[step, size] = generator.standard_normal((3, 4, 4))
            session.writer.put_products(ProductRows(step, size, *wanted[step, size]))
        session.writer.end_probes()
    session.close("finished")
    run = open_run(tmp_path / "run")
    for found in run.probe_sets():
        gg, uu, ug = wanted[found.step, found.batch_size]
        assert (found.n_values, found.grad.shape) == (WIDTH, (3, 3))
        expected = [gg[:3, :3], uu[:3, :3], ug[:3, :3], uu[3, :3], ug[3, :3], uu[3, 3]]
        for values, product in zip(expected, found.products.values(), strict=True):
            np.testing.assert_array_equal(product, values)
    listed = run.query("SELECT coordinates FROM probes WHERE source = 'mean' AND step = 5 AND batch_size = 1")
    assert [list(c) for c in listed["coordinates"]] == [[1, 7], [3], [], []]


def test_a_damaged_part_is_told(tmp_path):
    session = opened(tmp_path / "run", compression="none")
    put_set(session, 0, 50)
    session.close("finished")
    (part,) = open_run(tmp_path / "run").parts("probes")
    path = tmp_path / "run" / part.file
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedPart, match="traj verify"):
        list(open_run(tmp_path / "run").probe_sets())
    run = open_run(tmp_path / "run", damaged="skip")
    assert run.probed_steps.size == 0


def test_a_set_says_in_a_line_what_it_is(tmp_path):
    session = opened(tmp_path / "run")
    put_set(session, 20, 6, n_surrogates=3)
    session.close("finished")
    (found,) = open_run(tmp_path / "run").probe_sets()
    assert repr(found) == f"<ProbeSet of step 20: batch size 8, 6 samples of {WIDTH} values, 3 surrogates>"
    sketch = replace(found, n_values=5000, products={"grad·grad": np.eye(6)})
    assert f"of 5,000 values, a sketch of {WIDTH} of them, 3" in repr(sketch)


def test_the_sizes_that_are_said_are_those_that_are_written(tmp_path):
    session = opened(tmp_path / "run", compression="none")
    for step in range(0, 40, 2):
        put_set(session, step, 6, n_surrogates=3)
    for step in range(40):
        session.writer.put_tensors(rows_at(step, LAYOUT, values_at(step)))
        session.writer.put_scalars(scalars_at(step))
    session.close("finished")
    numels = {name: int(np.prod(shape)) for name, shape in SHAPES.items()}
    plan = ProbePlan(6, 3, WIDTH)
    said = RunSize(numels, len(numels), 40, 40, stats=False, n_probed=20, probes=(plan,)).tables
    run = open_run(tmp_path / "run")
    assert {size.table: size.rows for size in said} == {
        table: sum(part.rows for part in run.parts(table)) for table in ("scalars", "tensors", "probes")
    }
    assert ProbePlan(6, 3, 10**6, sketch=100).bytes(4) == 10 * 100 * 2 * 4 + 100 * 8 + 3 * 7 * 7 * 8


def test_a_set_that_fails_before_its_first_sample_keeps_no_part_open(tmp_path):
    """What was probed before it is committed when it is old."""
    session = opened(tmp_path / "run", part_seconds=0.05)
    written = put_set(session, 0, 3)
    session.writer.put_probe()
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob("run/probes/*.parquet")):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    session.close("finished")
    (found,) = open_run(tmp_path / "run").probe_sets()
    assert_set(found, written)
