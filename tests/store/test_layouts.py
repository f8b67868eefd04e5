"""Whatever the parameters' shapes and wherever gradients are missing: what is read is what was written."""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from making import COLUMNS, described, layout_of, values_at

from trajectory_tools.run import open_run
from trajectory_tools.store.chunks import CHUNK_VALUES
from trajectory_tools.store.rows import StepRows
from trajectory_tools.store.session import Session

SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)
SPECIAL = [np.nan, np.inf, -np.inf, -0.0, 1e-45, 3.4028235e38]


@st.composite
def trajectories(draw):
    """(dtype, saved columns, [(shapes, step, parameters without a gradient)]); parameters are added on the way."""
    shapes = draw(st.dictionaries(st.text(min_size=1, max_size=5), SHAPES, min_size=1, max_size=5))
    names = list(shapes)
    saved = draw(st.lists(st.sampled_from(COLUMNS), unique=True, min_size=1))
    steps, held, step = [], draw(st.integers(1, len(names))), 0
    for _ in range(draw(st.integers(1, 8))):
        held = draw(st.integers(held, len(names)))
        missing = draw(st.sets(st.sampled_from(names[:held])))
        steps.append(({name: shapes[name] for name in names[:held]}, step, missing))
        step += draw(st.integers(1, 3))
    return draw(st.sampled_from(["float32", "float64"])), saved, steps


def write(folder, trajectory, **options):
    """Record it; what is to be read back: step → column → parameter → array, or None."""
    dtype, saved, steps = trajectory
    session = Session(folder, {"params": [], "save": saved}, run_id="r", **options)
    layouts = {}
    expected = {}
    for shapes, step, missing in steps:
        if tuple(shapes) not in layouts:
            layouts[tuple(shapes)] = layout_of(shapes, dtype)
            session.update(params=described(shapes, dtype))
        values = values_at(step, shapes, dtype=dtype)
        for i, array in enumerate(values["grad"].values()):
            array.reshape(-1)[:1] = SPECIAL[(i + step) % len(SPECIAL)]
        expected[step] = {
            c: {n: None if c not in saved or (c == "grad" and n in missing) else a for n, a in values[c].items()}
            for c in COLUMNS
        }
        flat = {
            c: np.concatenate([np.empty(0, dtype), *(a.ravel() for a in expected[step][c].values() if a is not None)])
            for c in saved
        }
        present = {"grad": np.array([name not in missing for name in shapes])} if "grad" in saved and missing else {}
        session.writer.put_tensors(StepRows(step, layouts[tuple(shapes)], flat, present))
    session.close("finished")
    return expected


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(trajectories(), st.sampled_from([1, 5000, 10**8]))
def test_what_is_read_is_what_was_written(trajectory, queue_bytes):
    with tempfile.TemporaryDirectory() as folder:
        expected = write(Path(folder) / "run", trajectory, queue_bytes=queue_bytes, part_bytes=queue_bytes)
        run = open_run(Path(folder) / "run")
        check(run, expected)


def check(run, expected):
    assert run.steps.tolist() == sorted(expected)
    check_chunks(run, expected)
    check_arrays(run, expected)
    check_table(run.query("SELECT * FROM tensors"), expected)
    check_table(pd.read_parquet(run.path / "tensors"), expected)


def check_chunks(run, expected):
    seen = {}
    for chunk in run.chunks(run.columns):
        for i, step in enumerate(chunk.steps.tolist()):
            seen[step] = {c: {name: array[i] for name, array in chunk.values(c).items()} for c in COLUMNS}
    for step, columns in expected.items():
        for column, arrays in columns.items():
            there = {name: a for name, a in arrays.items() if a is not None}
            assert set(seen[step][column]) == set(there)
            for name, a in there.items():
                assert seen[step][column][name].dtype == a.dtype
                np.testing.assert_array_equal(seen[step][column][name], a)


def check_arrays(run, expected):
    for name, shape in run.shapes.items():
        for column in run.columns:
            array = run.array(column, name)
            assert array.shape == (len(expected), *shape)
            for i, step in enumerate(sorted(expected)):
                a = expected[step][column].get(name)
                np.testing.assert_array_equal(array[i], np.full(shape, np.nan) if a is None else a)


def check_table(frame, expected):
    assert len(frame) == sum(len(columns["param"]) for columns in expected.values())
    for row in frame.itertuples():
        for column in COLUMNS:
            a, found = expected[row.step][column][row.name], getattr(row, column)
            if a is None:
                assert np.ndim(found) == 0  # None, NaN or NA: no list
            else:
                np.testing.assert_array_equal(np.asarray(found), a.ravel())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_parameter_above_two_to_the_twenty_is_split_by_offset(tmp_path, dtype):
    shapes = {"small": (3,), "large": (2, 2**20 // 2 + 5, 2), "last": (4,)}
    steps = [(shapes, 0, set()), (shapes, 1, {"large"}), (shapes, 2, set())]
    expected = write(tmp_path / "run", (dtype, ["grad", "update"], steps))
    run = open_run(tmp_path / "run")
    for chunk in run.chunks(["grad", "update"]):
        assert len(chunk) == 1
        for name, a in chunk.grad.items():
            np.testing.assert_array_equal(a[0], expected[int(chunk.steps[0])]["grad"][name])
    large = run.array("update", "large")
    np.testing.assert_array_equal(large, np.stack([expected[step]["update"]["large"] for step in range(3)]))
    assert np.isnan(run.array("grad", "large")[1]).all()
    rows = run.query('SELECT name, "offset", len(update) AS n FROM tensors WHERE step = 0').values.tolist()
    pieces = [["large", 0, 2**20], ["large", 2**20, 2**20], ["large", 2**21, 20]]
    assert rows == [["small", 0, 3], *pieces, ["last", 0, 4]]


def test_row_groups_hold_about_a_million_values_and_chunks_are_bounded(tmp_path):
    shapes = {"a": (300, 300), "b": (10,)}
    write(tmp_path / "run", ("float32", ["grad"], [(shapes, step, set()) for step in range(40)]))
    run = open_run(tmp_path / "run")
    sizes = [len(chunk) * 90_010 for chunk in run.chunks(["grad"])]
    assert max(sizes) <= CHUNK_VALUES
    assert len(sizes) < 6
    for path in run.files("tensors"):
        metadata = pq.read_metadata(path)
        for i in range(metadata.num_row_groups):
            assert metadata.row_group(i).column(4).num_values <= 2**20
        column = metadata.row_group(0).column(4)
        assert column.compression == "ZSTD"
        assert "BYTE_STREAM_SPLIT" in column.encodings
        assert column.statistics is None
        assert metadata.row_group(0).column(0).statistics.has_min_max


def test_reading_some_steps_skips_parts_and_row_groups_without_them(tmp_path, monkeypatch):
    shapes = {"w": (1000,)}
    write(
        tmp_path / "run",
        ("float32", ["grad"], [(shapes, s, set()) for s in range(60)]),
        part_bytes=1,
        queue_bytes=60_000,
    )
    run = open_run(tmp_path / "run")
    run.steps
    opened = []
    from trajectory_tools.store.parts import Part

    real = Part.open
    monkeypatch.setattr(Part, "open", lambda self, *a: (opened.append(self.file), real(self, *a))[1])
    assert run.array("grad", "w", steps=[31]).shape == (1, 1000)
    assert len(opened) == 1
    assert len(run.parts("tensors")) > 10
