"""The pass over a network's values: compiled, and in NumPy, against plain float64."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode

from trajectory_tools.errors import RecordingFailed
from trajectory_tools.recorder import Recorder, one_pass
from trajectory_tools.recorder.host_capture import PLANS_KEPT, HostCapture
from trajectory_tools.recorder.names import Named
from trajectory_tools.recorder.one_pass import PIECE_VALUES, ROW_VALUES, Pieces, take
from trajectory_tools.run import open_run
from trajectory_tools.store.stats_rows import MAX, MIN, NONFINITE, SQUARES, ZEROS

LANES = 16
"""As in one_pass.c."""

HEADERS = Path(sysconfig.get_paths()["include"]) / "Python.h"
compiled = pytest.param("compiled", marks=pytest.mark.skipif(one_pass._compiled is None, reason="not compiled"))


@pytest.fixture(params=[compiled, "NumPy"])
def way(request, monkeypatch):
    if request.param == "NumPy":
        monkeypatch.setattr(one_pass, "_compiled", None)


def naive(values):
    """One tensor's numbers, in NumPy's plain words."""
    wide = values.astype(np.float64)
    finite = wide[np.isfinite(wide)]
    found = np.empty(5)
    found[MIN], found[MAX] = (finite.min(), finite.max()) if finite.size else (np.nan, np.nan)
    found[ZEROS], found[NONFINITE] = (wide == 0).sum(), wide.size - finite.size
    with np.errstate(all="ignore"):
        found[SQUARES] = np.square(wide).sum()
    return found


def taken(arrays, picked=None, **given):
    pieces = Pieces([array.size for array in arrays], picked)
    numbers = np.full((len(pieces.table), 5), -7.0)
    tensors = [torch.from_numpy(array) for array in arrays]
    take(pieces, tensors, tensors[0].dtype, numbers, **given)
    return pieces, numbers


any_size = st.integers(0, 40) | st.sampled_from([ROW_VALUES - 1, ROW_VALUES, ROW_VALUES + 1, 3 * ROW_VALUES + 17])
odd_values = st.sampled_from([np.nan, np.inf, -np.inf, 1e-30, 1e-42, 1e19, -0.0, 3e38])


@given(
    sizes=st.lists(any_size, min_size=1, max_size=6),
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from([np.float32, np.float64]),
    odd=st.lists(odd_values, max_size=2),
    how=st.sampled_from(["as they are", "minus", "divided"]),
    store=st.booleans(),
    choose=st.sampled_from([0, 0.02, 1]),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_numbers_are_those_of_plain_float64(way, *, sizes, seed, dtype, odd, how, store, choose):
    rng = np.random.default_rng(seed)
    arrays = [(rng.standard_normal(n) * (rng.random(n) < 0.8)).astype(dtype) for n in sizes]
    for array in arrays:
        for value in odd:
            array[rng.random(array.size) < 0.1] = value
    before = [array.copy() for array in arrays]
    flat = np.concatenate([np.empty(0, dtype), *arrays])
    with np.errstate(all="ignore"):
        minus = (flat * rng.choice([0, 0.5, 1], flat.size)).astype(dtype) if how == "minus" else None
        expected = flat - minus if how == "minus" else flat / dtype(3) if how == "divided" else flat
    into = np.full_like(flat, 5) if store else None
    picked = {i: np.flatnonzero(rng.random(n) < choose) for i, n in enumerate(sizes) if rng.random() < 0.7}
    picked |= {i: None for i in picked if rng.random() < 0.2}
    chosen = np.full(sum(sizes[i] if places is None else len(places) for i, places in picked.items()), 5, dtype)
    options = {"minus": minus, "divisor": 3.0 if how == "divided" else 1.0, "into": into, "chosen": chosen}
    pieces, numbers = taken(arrays, picked, **options)
    assert pieces.owner.tolist() == [i for i, n in enumerate(sizes) if n]
    if store:
        np.testing.assert_array_equal(into, expected)
    for array, old in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, old)
    ends = np.cumsum([0, *sizes])
    values = {i: expected[ends[i] : ends[i + 1]] for i in sorted(picked)}
    right = [v if picked[i] is None else v[picked[i]] for i, v in values.items()]
    np.testing.assert_array_equal(chosen, np.concatenate([np.empty(0, dtype), *right]))
    for i, found in zip(pieces.owner, numbers, strict=True):
        right = naive(expected[ends[i] : ends[i + 1]])
        np.testing.assert_allclose(found[SQUARES], right[SQUARES], rtol=4e-6)
        np.testing.assert_array_equal(found[SQUARES + 1 :], right[SQUARES + 1 :])


@pytest.mark.parametrize("threads", [1, 3])
def test_large_tensors_are_shared_by_threads(way, threads):
    rng = np.random.default_rng(0)
    sizes = [3 * PIECE_VALUES + 5, 10, PIECE_VALUES, 2 * PIECE_VALUES + 1]
    arrays = [rng.standard_normal(n).astype(np.float32) for n in sizes]
    minus, into = np.ones(sum(sizes), np.float32), np.empty(sum(sizes), np.float32)
    places = np.flatnonzero(rng.random(sizes[0]) < 0.001)
    chosen = np.empty(len(places) + sizes[3], np.float32)
    used = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        pieces, numbers = taken(arrays, {0: places, 3: None}, minus=minus, into=into, chosen=chosen)
    finally:
        torch.set_num_threads(used)
    expected = np.concatenate(arrays) - 1
    np.testing.assert_array_equal(into, expected)
    np.testing.assert_array_equal(chosen, np.concatenate([expected[places], expected[-sizes[3] :]]))
    assert pieces.owner.tolist() == [0] * 4 + [1, 2] + [3] * 3
    for (_, _, length, place, *_), found in zip(pieces.table.tolist(), numbers, strict=True):
        np.testing.assert_allclose(found, naive(expected[place : place + length]), rtol=4e-6)


def test_many_small_errors_do_not_add_up(way):
    """A float32 sum of a million equal squares: adding them one after the other would be wrong in the third digit."""
    values = np.full(PIECE_VALUES, 0.1, np.float32)
    _, numbers = taken([values])
    np.testing.assert_allclose(numbers[0, SQUARES], PIECE_VALUES * float(values[0]) ** 2, rtol=4e-6)


@pytest.mark.skipif(one_pass._compiled is None, reason="not compiled")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_whichever_vectors_the_processor_has_the_sums_are_the_same_to_the_last_bit(dtype):
    values = np.random.default_rng(0).standard_normal(5 * ROW_VALUES).astype(dtype)
    _, numbers = taken([values])
    total = 0.0
    for row in values.reshape(5, -1, LANES):
        lanes = np.zeros(LANES, dtype)
        for some in row:
            lanes += some * some  # each product is rounded before it is added
        for lane in lanes:
            total += float(lane)
    assert numbers[0, SQUARES] == total


def test_a_tensor_of_another_size_is_refused(way):
    with pytest.raises(ValueError, match="another size than"):
        take(Pieces([3]), [torch.zeros(4)], torch.float32, np.empty((1, 5)))


@pytest.mark.skipif(one_pass._compiled is None, reason="not compiled")
@pytest.mark.parametrize(
    "wrong",
    [
        {"minus": np.zeros(4, np.float32)},
        {"minus": np.zeros(5)},
        {"into": np.zeros(4, np.float32)},
        {"into": np.zeros(5)},
        {"picks": np.array([0, 3], np.int32)},
        {"picks": np.array([0, -1], np.int32)},
        {"picks": np.array([0], np.int32)},
        {"picks": np.array([0, 2])},
        {"chosen": np.zeros(3, np.float32)},
        {"chosen": np.zeros(4)},
        {"numbers": np.zeros((1, 5))},
        {"numbers": None},
        {"pieces": np.array([[1, 0, 2, 0, 0, 0, 0], [2, 0, 3, 2, 0, 0, 0]])},
        {"pieces": np.array([[0, -1, 2, 0, 0, 0, 0], [1, 0, 3, 2, 0, 0, 0]])},
        {"pieces": np.array([[0, 0, -2, 0, 0, 0, 0], [1, 0, 3, 2, 0, 0, 0]])},
        {"pieces": np.array([[0, 0, 2, 2**62, 0, 0, 0], [1, 0, 3, 2, 0, 0, 0]]), "into": np.zeros(5, np.float32)},
        {"pieces": np.array([[0, 0, 2, 0, 0, 1, -1], [1, 0, 3, 2, 0, 0, 0]])},
        {"pieces": np.array([[0, 0, 2, 0, -1, 1, 0], [1, 0, 3, 2, 0, 0, 0]])},
        {"pieces": np.array([[0, 0, 2, 0, 0, -1, 0], [1, 0, 3, 2, 0, 0, 0]])},
        {"addresses": [0, 0]},
        {"width": 2},
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_before_memory_is_touched(wrong):
    tensors = [torch.zeros(2), torch.zeros(3)]
    pieces = Pieces([2, 3], {0: None, 1: np.array([0, 2])})
    given = {
        "addresses": [tensor.data_ptr() for tensor in tensors],
        "pieces": pieces.table,
        "width": 4,
        "minus": None,
        "divisor": 1.0,
        "into": None,
        "picks": pieces.picks,
        "chosen": np.zeros(4, np.float32),
        "numbers": np.zeros((2, 5)),
        "n_threads": 1,
    }
    one_pass._compiled(*given.values())
    with pytest.raises(ValueError, match=r"do not fit|cannot be measured"):
        one_pass._compiled(*(given | wrong).values())
    readonly = np.zeros((2, 5))
    readonly.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        one_pass._compiled(*(given | {"numbers": readonly}).values())


@pytest.mark.skipif(not (shutil.which("cc") and HEADERS.exists()), reason="there is no compiler")
def test_it_is_compiled_where_there_is_a_compiler():
    assert one_pass.is_compiled()


class TwoHalves(torch.Tensor):
    """A tensor with no memory of its own, as quantized ones are: its values are those of two others, added up."""

    @staticmethod
    def __new__(cls, one, other):
        return torch.Tensor._make_wrapper_subclass(cls, one.shape, dtype=one.dtype)

    def __init__(self, one, other):
        self.one, self.other = one, other

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        def plain(x):
            return x.one + x.other if isinstance(x, TwoHalves) else x

        return function(*map(plain, args), **(kwargs or {}))


def emptied(values):
    values.untyped_storage().resize_(0)  # as FSDP does between steps
    return values


ODD = {
    "zeros without memory": lambda: (torch._efficientzerotensor((2, 3)), 0.0),
    "negative bit": lambda: (torch.ones(2, 3, dtype=torch.complex64).conj().imag + torch.ones(2, 3), 6.0),
    "transposed": lambda: (torch.arange(6.0).view(3, 2).t(), 55.0),
    "float64": lambda: (torch.arange(6.0, dtype=torch.float64).view(2, 3), 55.0),
    "sparse rows": lambda: (torch.arange(6.0).view(2, 3).to_sparse_csr(), 55.0),
    "mkldnn": lambda: (torch.arange(6.0).view(2, 3).to_mkldnn(), 55.0),
    "a class of its own": lambda: (TwoHalves(torch.ones(2, 3), torch.ones(2, 3)), 24.0),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize("odd", ODD)
def test_a_gradient_whose_memory_does_not_hold_its_values(tmp_path, way, odd):
    gradient, squares = ODD[odd]()
    weight = torch.nn.Parameter(torch.zeros(2, 3))
    with Recorder(tmp_path / "run", [("w", weight)], None) as recorder, recorder.step(grads={"w": gradient}):
        weight.data.add_(1)
    run = open_run(tmp_path / "run")
    assert run.stats()["grad_norm"].tolist() == pytest.approx([squares**0.5])
    assert np.square(run.array("grad", "w")).sum() == pytest.approx(squares)


@pytest.mark.parametrize("stats", [True, False])
@pytest.mark.parametrize(
    "broken",
    [
        lambda: torch.zeros(2, 3, device="meta"),
        lambda: FakeTensorMode().from_tensor(torch.zeros(2, 3)),
        lambda: torch.zeros(2, 2),
        lambda: torch.zeros(9, 3),
    ],
    ids=["meta", "fake", "too small", "too large"],
)
def test_a_gradient_that_cannot_be_read_ends_the_recording_and_not_the_training(tmp_path, way, broken, stats):
    weight = torch.nn.Parameter(torch.zeros(2, 3))
    recorder = Recorder(tmp_path / "run", [("w", weight)], None, stats=stats).attach()
    with pytest.warns(RuntimeWarning, match="the training goes on unrecorded"), recorder.step(grads={"w": broken()}):
        weight.data.add_(1)
    with pytest.raises(RecordingFailed):
        recorder.close()
    assert weight.detach().sum() == 6


@pytest.mark.parametrize("stats", [True, False])
def test_a_parameter_that_shrinks_ends_the_recording(tmp_path, way, stats):
    weight = torch.nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    recorder = Recorder(tmp_path / "run", [("w", weight)], optimizer, stats=stats).attach()
    weight.grad = torch.ones(4)
    optimizer.register_step_pre_hook(lambda *_: setattr(weight, "data", torch.ones(2)) or setattr(weight, "grad", None))
    with pytest.warns(RuntimeWarning, match="another size"):
        optimizer.step()
    with pytest.raises(RecordingFailed):
        recorder.close()


def test_memory_that_was_given_back_is_not_read(way):
    numbers = np.empty((1, 5))
    with pytest.raises((ValueError, RuntimeError)):
        take(Pieces([6]), [emptied(torch.zeros(6))], torch.float32, numbers)


def test_gradients_that_come_and_go_at_every_step(way):
    weights = [torch.nn.Parameter(torch.zeros(50)) for _ in range(12)]
    capture = HostCapture([Named(str(i), weight) for i, weight in enumerate(weights)], [], stats=True)
    rng = np.random.default_rng(0)
    for step in range(3 * PLANS_KEPT):
        there = rng.random(12) < 0.5
        capture.before(record=False)
        for weight, has in zip(weights, there, strict=True):
            weight.grad = torch.full((50,), float(step)) if has else None
        capture.gradients()
        stats = capture.after(step).stats
        assert stats.layout.grads.tolist() == there.tolist()
        np.testing.assert_array_equal(stats.pieces[2, 24:], step)
    assert len(capture._plans) == PLANS_KEPT


def test_without_a_compiler_a_run_has_the_same_numbers(tmp_path):
    code = (
        "import sys; sys.modules['trajectory_tools.recorder._one_pass'] = None\n"
        "import torch; from trajectory_tools.recorder import Recorder, one_pass\n"
        "assert one_pass._compiled is None\n"
        "w = torch.nn.Parameter(torch.arange(6.0)); opt = torch.optim.SGD([w], lr=1.0)\n"
        "with Recorder(sys.argv[1], [('w', w)], opt, save=[]) as rec:\n"
        "    w.grad = torch.ones(6); opt.step()\n"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "run"], check=True)
    run = open_run(tmp_path / "run")
    assert run.metadata["environment"]["compiled"] is False
    (row,) = run.stats().to_dict("records")
    assert row["param_norm"] == pytest.approx(55**0.5, rel=1e-6)
    assert (row["param_min"], row["param_max"], row["param_zeros"]) == (0.0, 5.0, 1)
    assert (row["update_min"], row["grad_max"], row["update_nonfinite"]) == (-1.0, 1.0, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_records_a_training_of_its_own(tmp_path):
    """OpenMP waits forever for threads that only the parent has; torch itself does not use it for small tensors."""
    code = (
        "import os, sys, torch; from trajectory_tools.recorder import Recorder\n"
        "torch.set_num_threads(2); torch.ones(2_000_000).add_(1)\n"
        "if (child := os.fork()) == 0:\n"
        "    weights = [torch.nn.Parameter(torch.ones(10_000)) for _ in range(40)]\n"
        "    optimizer = torch.optim.SGD(weights, lr=1.0)\n"
        "    with Recorder(sys.argv[1], [(str(i), w) for i, w in enumerate(weights)], optimizer, save=[]):\n"
        "        for weight in weights: weight.grad = torch.ones_like(weight)\n"
        "        optimizer.step()\n"
        "    os._exit(0)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    with subprocess.Popen([sys.executable, "-W", "ignore", "-c", code, tmp_path / "run"], process_group=0) as parent:
        try:
            assert parent.wait(timeout=60) == 0
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(parent.pid, signal.SIGKILL)
    assert set(open_run(tmp_path / "run").stats()["grad_norm"]) == {100.0}


def test_pieces_of_some_tensors_are_those_that_they_alone_would_have():
    rng = np.random.default_rng(0)
    sizes = [PIECE_VALUES + 3, 0, 5, 2 * PIECE_VALUES, 7]
    picked = {0: np.flatnonzero(rng.random(sizes[0]) < 0.01), 2: None, 3: np.array([0, 2 * PIECE_VALUES - 1])}
    everything = Pieces(sizes, picked)
    for there in ([], [0], [1], [2, 3], [0, 1, 4], [0, 1, 2, 3, 4]):
        alone = Pieces([sizes[i] for i in there], {k: picked[i] for k, i in enumerate(there) if i in picked})
        some = everything.only(there)
        assert (some.numels, some.n_values, some.n_chosen) == (alone.numels, alone.n_values, alone.n_chosen)
        np.testing.assert_array_equal(some.table[:, :6], alone.table[:, :6])
        np.testing.assert_array_equal(some.owner, alone.owner)
        for (*_, count, start), (*_, same) in zip(some.table.tolist(), alone.table.tolist(), strict=True):
            assert (start < 0) == (same < 0)
            if start >= 0:
                mine, its = some.picks[start : start + count], alone.picks[same : same + count]
                np.testing.assert_array_equal(mine, its)
