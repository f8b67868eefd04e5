"""Runs to measure: trained ones, ones written by hand, and the design's formulas as plain loops."""

import numpy as np
import torch

from trajectory_tools.optimizers import make_optimizer
from trajectory_tools.problems import make_problem
from trajectory_tools.recorder import Recorder
from trajectory_tools.run import open_run
from trajectory_tools.store.chunks import Chunk
from trajectory_tools.store.rows import RowLayout, StepRows
from trajectory_tools.store.session import Session

GROUPS = [
    {"kind": "rescale", "in": [["conv.weight", 0], ["conv.bias", 0], ["skip", 1]], "out": [["next", 1], ["far", 2]]},
    {"kind": "scale", "in": [["next", 0], ["skip", 0]]},
    {"kind": "scale", "in": [["conv.weight", 1]]},
    {"kind": "translation", "in": [["far", 0], ["flat", 0]]},
    {"kind": "translation", "in": [["skip", 1], ["conv.weight", 0]]},
]
SHAPES = {
    "conv.weight": (4, 3, 2, 2),
    "conv.bias": (4,),
    "skip": (3, 4),
    "next": (3, 4, 1, 2),
    "far": (5, 2, 4),
    "flat": (5,),
}


CLOSE = {"rtol": 1e-9, "atol": 1e-12}

NAMES = ["loss", "symmetry", "histogram", "dynamics"]
"""The metrics of tensors and scalars."""


def write_run(path, param, grad, update, *, steps, symmetries=GROUPS, parts=1, seed=0, scalars=None, **session):
    """A run of these arrays, parameter → (n, *shape); one that is NaN throughout a step is None there."""
    columns = {"param": param, "grad": grad, "update": update}
    columns = {column: arrays for column, arrays in columns.items() if arrays is not None}
    first = next(iter(columns.values()))
    dtype = str(next(iter(first.values())).dtype)
    params = [
        {"name": n, "shape": list(a.shape[1:]), "dtype": dtype, "numel": int(np.prod(a.shape[1:])), "aliases": []}
        for n, a in first.items()
    ]
    layout = RowLayout.of({p["name"]: p["numel"] for p in params}, dtype)
    step_bytes = sum(p["numel"] for p in params) * len(columns) * np.dtype(dtype).itemsize + 2048
    per_part = -(-len(steps) // parts)
    session = Session(
        path,
        {"label": path.name, "seed": seed, "params": params, "save": list(columns), "symmetries": symmetries},
        queue_bytes=8 * max(per_part, 1) * step_bytes,  # a batch takes an eighth of it
        part_bytes=1,
        **session,
    )
    for row, step in enumerate(steps):
        values, present = {}, {}
        for column, arrays in columns.items():
            there = np.array([not (a[row].size and np.isnan(a[row]).all()) for a in arrays.values()])
            flat = [a[row].ravel() for a, ok in zip(arrays.values(), there, strict=True) if ok]
            values[column] = np.concatenate(flat) if flat else np.empty(0, dtype)
            if not there.all():
                present[column] = there
        session.writer.put_tensors(StepRows(int(step), layout, values, present))
        timing = {"lr": 0.1, "wall_time": float(step), "record_seconds": 0.0, "skipped": False, "n_evals": 1}
        session.writer.put_scalars({"step": int(step), **timing, **(scalars(int(step)) if scalars else {"loss": 1.0})})
    session.close("finished")
    return open_run(path)


def random_arrays(n, *, shapes=SHAPES, seed=0, dtype=np.float64, size=1.0):
    """Parameter → (n, *shape) of independent Gaussians."""
    rng = np.random.default_rng(seed)
    return {name: (size * rng.standard_normal((n, *shape))).astype(dtype) for name, shape in shapes.items()}


def walk(n, *, shapes=SHAPES, seed=0, dtype=np.float64):
    """(param, grad, update) of a random walk, such that the parameters of the next step are those of this one moved."""
    update = random_arrays(n, shapes=shapes, seed=seed, size=0.1)
    start = random_arrays(1, shapes=shapes, seed=seed + 1)
    param = {k: start[k] + np.cumsum(u, axis=0) - u for k, u in update.items()}
    grad = random_arrays(n, shapes=shapes, seed=seed + 2)
    return tuple({k: v.astype(dtype) for k, v in arrays.items()} for arrays in (param, grad, update))


RECORDING = ("save", "match", "subsample", "projection", "selection_seed")


def train(path, optimizer, *, dtype=torch.float32, steps=12, every=1, bn_eps=None, options=None, log=True, **others):
    """Train the digits perceptron and record it; returns the run and each batch normalization's input variances."""
    recording = {name: others[name] for name in RECORDING if name in others}
    problem = {name: value for name, value in others.items() if name not in RECORDING}
    optimizee = make_problem("digits-mlp", batch_size=64, **problem).start(0)
    model = optimizee.model.to(dtype)
    variances = {}
    for name, layer in model.named_children():
        if isinstance(layer, torch.nn.BatchNorm1d):
            layer.eps = layer.eps if bn_eps is None else bn_eps
            seen = variances.setdefault(name, [])
            layer.register_forward_pre_hook(lambda _, x, seen=seen: seen.append(x[0].detach().var(0, correction=0)))
    made = make_optimizer(optimizer, model.parameters(), **(options or {"lr": 0.1}))
    with Recorder(path, model, made, every=every, symmetries=optimizee.symmetries, seed=0, **recording) as recorder:
        for _ in range(steps):
            x, y = next(optimizee.batches)
            loss = optimizee.loss((x.to(dtype), y))
            made.zero_grad()
            loss.backward()
            made.step()
            if log:
                recorder.log(loss=loss)
    return open_run(path), {name: torch.stack(seen).numpy() for name, seen in variances.items()}


def whole_chunk(run):
    """The run as one chunk, from ``run.array``."""
    columns = ({n: run.array(c, n).astype(np.float64) for n in run.shapes} for c in ("param", "grad", "update"))
    return Chunk(run.steps, *columns)


def cut(chunk, low, high):
    """The chunk's rows ``low:high``."""
    columns = ({n: a[low:high] for n, a in chunk.values(c).items()} for c in ("param", "grad", "update"))
    return Chunk(chunk.steps[low:high], *columns)


def series(frame, index="step", **keys):
    """One quantity of the frame, by step."""
    for key, value in keys.items():
        frame = frame[frame[key] == value]
    return frame.set_index(index)["value"]


def same(left, right, **tolerance):
    """Whether two frames hold the same rows, in any order, numbers within the tolerance."""
    numbers = ["value", "low", "high"]
    keys = [c for c in left if c not in numbers]
    assert list(left) == list(right)
    left, right = (
        f.astype({k: str for k in keys if f[k].dtype == "category"}).sort_values(keys, kind="stable")
        for f in (left, right)
    )
    for key in keys:
        assert left[key].tolist() == right[key].tolist()
    for name in numbers:
        np.testing.assert_allclose(left[name].to_numpy(), right[name].to_numpy(), equal_nan=True, **tolerance)
    return True


def same_values(left, right):
    """Whether two frames have the same columns and values."""
    assert list(left) == list(right)
    return left["value"].tolist() == right["value"].tolist()


# What the design says, in loops over units: v and w are parameter → array at one step.


def unit_entries(array, axis, unit):
    """The entries of one unit, as a list."""
    return [array[index] for index in np.ndindex(array.shape) if index[axis] == unit]


def generators(group, w):
    """Each generator of the group as parameter → array that is 0 outside of its support."""
    found = []
    if group["kind"] == "translation":
        for name, axis in group["in"]:
            others = [range(n) for d, n in enumerate(w[name].shape) if d != axis]
            for column in np.ndindex(*map(len, others)):
                xi = {n: np.zeros(a.shape) for n, a in w.items()}
                for unit in range(w[name].shape[axis]):
                    index = list(column)
                    index.insert(axis, unit)
                    xi[name][tuple(index)] = 1.0
                found.append(xi)
        return found
    for unit in range(w[group["in"][0][0]].shape[group["in"][0][1]]):
        xi = {n: np.zeros(a.shape) for n, a in w.items()}
        for side, sign in (("in", 1.0), ("out", -1.0)):
            for name, axis in group.get(side, []):
                for index in np.ndindex(w[name].shape):
                    if index[axis] == unit:
                        xi[name][index] = sign * w[name][index]
        found.append(xi)
    return found


def group_names(group):
    """The group's parameters."""
    return [name for side in ("in", "out") for name, _ in group.get(side, [])]


def naive_symmetry(group, v, w):
    """(⟨v, ξ_j⟩ of each generator, share)."""
    inner, along = [], 0.0
    names = group_names(group)
    for xi in generators(group, {n: w[n] for n in names}):
        product = sum(float((v[n] * xi[n]).sum()) for n in names)
        norm = sum(float((xi[n] ** 2).sum()) for n in names)
        inner.append(product)
        along += product**2 / norm if norm else 0.0
    size = sum(float((v[n] ** 2).sum()) for n in names)
    return inner, along / size if size else np.nan


def naive_conserved(group, w):
    """Q of the design: ‖A‖² − ‖B‖², ‖A‖², or Σ A."""
    if group["kind"] == "translation":
        return sum(float(w[name].sum()) for name, _ in group["in"])
    plus = sum(float((w[name] ** 2).sum()) for name, _ in group["in"])
    return plus - sum(float((w[name] ** 2).sum()) for name, _ in group.get("out", []))


def odd_arrays(n=12):
    """A walk with gradients that are None, NaN and infinite, and updates that overflow."""
    param, grad, update = walk(n, seed=4)
    grad["next"][3:5] = np.nan
    grad["skip"][6, 0, 0] = np.inf
    update["far"][7, 0, 0, 0] = np.inf
    update["far"][8, 0, 0, 0] = 0  # 0 · ∞, across the end of a part
    return param, grad, update
