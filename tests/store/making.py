"""Runs made by hand, for the tests of the store."""

from pathlib import Path

import numpy as np

from trajectory_tools.run import Run, open_run
from trajectory_tools.store.part_file import PartFile
from trajectory_tools.store.parts import PartId
from trajectory_tools.store.rows import RowLayout, StepRows, row_groups
from trajectory_tools.store.schema import tensors_schema
from trajectory_tools.store.session import Session

SHAPES = {"0.weight": (4, 3), "0.bias": (4,), "scale": (), "nothing": (0, 2)}
COLUMNS = ("param", "grad", "update")


def described(shapes=SHAPES, dtype="float32"):
    return [
        {"name": name, "shape": list(shape), "dtype": dtype, "numel": int(np.prod(shape)), "aliases": []}
        for name, shape in shapes.items()
    ]


def layout_of(shapes=SHAPES, dtype="float32"):
    return RowLayout.of({name: int(np.prod(shape)) for name, shape in shapes.items()}, dtype)


def values_at(step, shapes=SHAPES, *, dtype="float32", seed=0):
    """Column → parameter → the array that a test expects to read back."""
    generator = np.random.default_rng([seed, step])
    return {
        c: {name: generator.standard_normal(shape).astype(dtype) for name, shape in shapes.items()} for c in COLUMNS
    }


def rows_at(step, layout, values):
    flat = {c: np.concatenate([np.ravel(a) for a in arrays.values()]) for c, arrays in values.items()}
    return StepRows(step, layout, flat)


def scalars_at(step, **logged):
    known = {"lr": 0.1, "wall_time": float(step), "record_seconds": 0.0, "skipped": False, "n_evals": 1}
    return {"step": step, **known, **logged}


def record(folder, steps, *, shapes=SHAPES, seed=0, close=True, run_id="r", **options):
    """Write these steps in a session of their own; the values at a step depend on the seed and the step alone."""
    session = Session(Path(folder), {"params": described(shapes)}, run_id=run_id, **options)
    layout = layout_of(shapes)
    for step in steps:
        session.writer.put_tensors(rows_at(step, layout, values_at(step, shapes, seed=seed)))
        session.writer.put_scalars(scalars_at(step, loss=float(seed)))
    if close:
        session.close("finished")
    return session


def part_of(folder, sequence):
    """A part of one step, not finished yet."""
    (make,) = row_groups([rows_at(sequence, layout_of(), values_at(sequence))])
    part_id = PartId(0, 0, sequence)
    part = PartFile(
        Path(folder), "tensors", part_id, tensors_schema("float32"), run_id="r", compression="zstd", born=0.0
    )
    part.write(part.encoded(make()))
    return part


def assert_holds(run: Run | Path, seed_of_step, shapes=SHAPES):
    """The run holds exactly these steps (step → seed), by every way of reading it."""
    run = run if isinstance(run, Run) else open_run(run)
    steps = sorted(seed_of_step)
    assert run.steps.tolist() == steps
    assert run.logged_steps.tolist() == steps
    expected = [values_at(step, shapes, seed=seed_of_step[step]) for step in steps]
    chunks = list(run.chunks())
    assert [step for chunk in chunks for step in chunk.steps.tolist()] == steps
    for column in COLUMNS:
        for name in shapes:
            wanted = np.stack([values[column][name] for values in expected])
            np.testing.assert_array_equal(run.array(column, name), wanted)
            np.testing.assert_array_equal(np.concatenate([chunk.values(column)[name] for chunk in chunks]), wanted)
    rows = run.query("SELECT * FROM tensors").set_index(["step", "name"])
    assert len(rows) == len(steps) * len(shapes)
    for step, values in zip(steps, expected, strict=True):
        for column in COLUMNS:
            for name in shapes:
                np.testing.assert_array_equal(rows.loc[(step, name), column], values[column][name].ravel())
    scalars = run.scalars()
    assert scalars["step"].tolist() == steps
    assert scalars["loss"].tolist() == [float(seed_of_step[step]) for step in steps]
