"""The network: preprocessing, the formula against plain LSTM cells, and the fast kernel against the formula."""

from __future__ import annotations

import doctest
import math
from threading import Thread

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import Cells
from torch import Tensor, nn

from trajectory_tools.errors import BadArgument
from trajectory_tools.l2o import preprocessing
from trajectory_tools.l2o.kernel import KernelWeights, advance, chunks
from trajectory_tools.l2o.network import CoordinatewiseLSTM
from trajectory_tools.l2o.preprocessing import preprocess
from trajectory_tools.l2o.workers import for_each


def gradients(n: int, *, dtype: torch.dtype = torch.float64) -> Tensor:
    """From 1e-9 to 1e3 in size, some of them 0."""
    found = torch.randn(n, dtype=dtype) * 10 ** torch.empty(n, dtype=dtype).uniform_(-9, 3)
    found[::17] = 0
    return found


def network(*, with_preprocessing: bool = True, dtype: torch.dtype = torch.float64) -> CoordinatewiseLSTM:
    torch.manual_seed(5)
    made = CoordinatewiseLSTM(preprocess=with_preprocessing).to(dtype)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(3)
    return made


@given(st.floats(-1e6, 1e6))
@settings(deadline=None)
def test_preprocessing_is_appendix_a(g: float) -> None:
    expected = (math.log(abs(g)) / 10, math.copysign(1, g)) if abs(g) >= math.exp(-10) else (-1, math.exp(10) * g)
    found = preprocess(torch.tensor([g], dtype=torch.float64))[:, 0]
    assert found.tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_the_example_in_its_docstring_holds() -> None:
    assert doctest.testmod(preprocessing).attempted == 1
    assert doctest.testmod(preprocessing).failed == 0


def test_preprocessing_shows_what_is_not_finite() -> None:
    size, sign = preprocess(torch.tensor([math.nan, math.inf, -math.inf]))
    assert size[0].isnan()
    assert sign[0].isnan()
    assert size[1:].tolist() == [math.inf, math.inf]
    assert sign[1:].tolist() == [1, -1]


@pytest.mark.parametrize("with_preprocessing", [True, False])
def test_the_formula_is_two_lstm_cells_and_a_linear_output(with_preprocessing: bool) -> None:
    net = network(with_preprocessing=with_preprocessing)
    cells = Cells(net.n_inputs).double()
    cells.load_state_dict(net.state_dict())
    state = net.initial_state(50)
    naive = [(torch.zeros(50, 20).double(),) * 2 for _ in range(2)]
    for _ in range(4):
        g = gradients(50)
        updates, state = net(g, state)
        naive[0] = cells.recurs(cells.inputs(g), naive[0])
        naive[1] = cells.recurs2(naive[0][0], naive[1])
        torch.testing.assert_close(updates, 0.1 * cells.output(naive[1][0])[:, 0])
        torch.testing.assert_close((state.h1.T, state.c1.T), naive[0])
        torch.testing.assert_close((state.h2.T, state.c2.T), naive[1])


def test_its_state_dict_is_that_of_the_three_modules() -> None:
    modules = nn.ModuleDict({"recurs": nn.LSTMCell(2, 20), "recurs2": nn.LSTMCell(20, 20), "output": nn.Linear(20, 1)})
    net = CoordinatewiseLSTM()
    net.load_state_dict(modules.state_dict())
    modules.load_state_dict(net.state_dict())


@pytest.mark.parametrize("with_preprocessing", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-5)])
def test_the_kernel_is_the_formula(with_preprocessing: bool, dtype: torch.dtype, tolerance: float) -> None:
    net = network(with_preprocessing=with_preprocessing, dtype=dtype)
    weights = KernelWeights.of(net)
    state = net.initial_state(3001)
    fast = state.clone()
    for _ in range(6):
        g = gradients(3001, dtype=dtype)
        with torch.no_grad():
            expected, state = net(g, state)
        torch.testing.assert_close(advance(weights, g, fast, chunk=1000), expected, rtol=0, atol=tolerance)
    for name in ("h1", "c1", "h2", "c2"):
        torch.testing.assert_close(getattr(fast, name), getattr(state, name), rtol=0, atol=20 * tolerance)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_neither_chunks_nor_threads_change_a_coordinate(threads: int) -> None:
    """Each coordinate by itself, then all at once: the coordinates are independent."""
    net = network()
    weights = KernelWeights.of(net)
    g = gradients(7)
    alone = torch.cat([advance(weights, g[i : i + 1], net.initial_state(1)) for i in range(7)])
    together = advance(weights, g, net.initial_state(7), chunk=2, threads=threads)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-15)


@given(st.integers(1, 50), st.integers(1, 20))
def test_chunks_cover_everything_once_and_evenly(n: int, chunk: int) -> None:
    found = chunks(torch.empty(n), chunk)
    assert [i for part in found for i in range(n)[part]] == list(range(n))
    lengths = [part.stop - part.start for part in found]
    assert max(lengths) <= chunk
    assert max(lengths) - min(lengths) <= 1


def test_an_exception_in_a_thread_comes_out() -> None:
    def fails(item: int) -> None:
        if item == 3:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        for_each(fails, range(4), threads=2)


@pytest.mark.parametrize("threads", [2, 3, 5])
def test_threads_leave_torchs_number_of_threads_as_it_is(threads: int) -> None:
    before = torch.get_num_threads()
    inside: list[int] = []
    later: list[int] = []
    for_each(lambda _: inside.append(torch.get_num_threads()), range(2 * threads), threads=threads)
    assert inside == [1] * 2 * threads
    assert torch.get_num_threads() == before
    thread = Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [before]


def test_no_hidden_units_are_refused() -> None:
    with pytest.raises(BadArgument, match="hidden units is 0"):
        CoordinatewiseLSTM(hidden=0)
