"""What a truncation keeps of the learned optimizer's steps, and back-propagation through them, by hand.

Against autograd over ``nn.LSTMCell`` this keeps less, works on chunks that fit into a core's cache, and gathers the
weights' gradients by matrix products over all coordinates of a chunk.
"""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from trajectory_tools.errors import BadArgument, UnknownName
from trajectory_tools.l2o import kernel
from trajectory_tools.l2o.kernel import KernelWeights, cell, chunks, network_inputs
from trajectory_tools.l2o.network import LSTMState
from trajectory_tools.l2o.workers import for_each

__all__ = ["Keep", "Tape"]

Keep = Literal["auto", "all", "inputs"]
MOST_KEPT = 2**30
"""Bytes that a tape keeps at most, unless it is told to keep all."""
RECOMPUTED_CHUNK = 1024
"""Coordinates of which all steps are recomputed at once: 23 kB each, so 23 MB with 20 steps in float32."""
ALIGNMENT = 16
"""Numbers that a row's memory is a multiple of: in float32, a cache line."""

sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
tanh_backward = torch.ops.aten.tanh_backward.grad_input


class Tape:
    """The steps of one truncation, and the gradient of the weights through all of them.

    ``begin`` with a state, ``advance`` once for each step, at most ``unroll`` times, then ``backward`` with the
    gradients of the updates; and again from ``begin`` on.

    Memory for n coordinates, T steps, H hidden units and b bytes a number, according to ``keep``:

    - ``all``: what both cells computed, about n · T · (14 H + 3) · b: 360 MB for 15,910 coordinates, 20 steps, 20
      units in float32;
    - ``inputs``: the network's inputs and two states, n · (2 T + 8 H) · b (13 MB), and for each thread the steps of
      1,024 coordinates (23 MB); ``backward`` computes the steps a second time;
    - ``auto``: ``all`` where that is at most 1 GiB (47,000 such coordinates), else ``inputs``.

    Args:
        weights: the network's weights, for their sizes, dtype and device.
        n_coordinates: how many coordinates there are.
        unroll: the greatest number of steps, T.
        keep: what is kept; the attribute ``keep`` says what ``auto`` came to.
        threads: how many threads to use; torch's number unless told.

    Raises ``BadArgument`` for an unroll below 1, ``UnknownName`` for another ``keep``.
    """

    def __init__(
        self,
        weights: KernelWeights,
        n_coordinates: int,
        unroll: int,
        *,
        keep: Keep = "auto",
        threads: int | None = None,
    ) -> None:
        if unroll < 1:
            raise BadArgument(f"the unroll is {unroll}; give at least 1 step")
        if keep not in get_args(Keep):
            raise UnknownName("choice of what to keep:", keep, get_args(Keep))
        self.unroll = unroll
        kept = n_coordinates * unroll * (14 * weights.hidden + 3) * weights.output.element_size()
        self.keep = keep if keep != "auto" else "all" if kept <= MOST_KEPT else "inputs"
        self.threads = threads
        self.steps = 0
        sized = weights.output[0, :1].expand(n_coordinates)
        kept_inputs = 1 if self.keep == "all" else unroll
        self._inputs = weights.output.new_empty(kept_inputs, weights.n_inputs, n_coordinates)
        if self.keep == "all":
            self._chunks = chunks(sized)
            self._records = [_Record(weights, _length(part), unroll) for part in self._chunks]
        else:
            self._chunks = chunks(sized, RECOMPUTED_CHUNK)
            self._of_thread = threading.local()

    def begin(self, weights: KernelWeights, state: LSTMState) -> None:
        """Start a truncation with these weights from this state, which stays as it is."""
        self.steps = 0
        self._weights = weights
        self._first = state
        if self.keep == "all":
            for part, record in zip(self._chunks, self._records, strict=True):
                record.begin(state.rows[:, part])
        else:
            self._last = state.clone()

    def advance(self, gradients: Tensor) -> Tensor:
        """The updates (n,) for these gradients (n,), as ``kernel.advance`` gives them."""
        step, self.steps = self.steps, self.steps + 1
        with torch.no_grad():
            if self.keep == "inputs":
                updates = kernel.advance(self._weights, gradients, self._last, threads=self.threads)
                self._inputs[step] = self._last.rows[4 * self._weights.hidden + 1 :]
                return updates
            updates = torch.empty_like(gradients)
            network_inputs(self._weights, gradients, out=self._inputs[0])

            def advance_chunk(index: int) -> None:
                part, record = self._chunks[index], self._records[index]
                record.inputs[step] = self._inputs[0, :, part]
                record.advance(self._weights, step)
                record.output(self._weights, step, out=updates[part])

            for_each(advance_chunk, range(len(self._chunks)), threads=self.threads)
        return updates

    def state(self) -> LSTMState:
        """The state after the steps so far."""
        if self.keep == "inputs":
            return self._last
        last = self._first.clone()
        for part, record in zip(self._chunks, self._records, strict=True):
            record.end(self.steps, last.rows[:, part])
        return last

    def backward(self, update_gradients: Tensor) -> KernelWeights:
        """The gradient of the weights, from that of the updates (steps, n) that ``advance`` gave; shaped as they are.

        Nothing flows into the state that the truncation began with, or into the gradients that it was given.
        """
        found: list[KernelWeights | None] = [None] * len(self._chunks)

        def backward_chunk(index: int) -> None:
            part = self._chunks[index]
            if self.keep == "all":
                record = self._records[index]
            else:
                record = self._record_of_thread(_length(part))
                record.begin(self._first.rows[:, part])
                for step in range(self.steps):
                    record.inputs[step].copy_(self._inputs[step, :, part])
                    record.advance(self._weights, step)
            found[index] = record.backward(self._weights, update_gradients[:, part])

        with torch.no_grad():
            for_each(backward_chunk, range(len(self._chunks)), threads=self.threads)
            total, *others = (gradient for gradient in found if gradient is not None)
            for other in others:  # in the order of the chunks, so that the sum does not depend on the threads
                for left, right in zip(total.tensors, other.tensors, strict=True):
                    left.add_(right)
        return total

    def _record_of_thread(self, n: int) -> _Record:
        records = self._of_thread.__dict__
        name = str(n)
        if name not in records:
            records[name] = _Record(self._weights, n, self.unroll)
        return records[name]


class _Record:
    """All that both cells computed for the coordinates of one chunk, step by step, in the kernel's layout.

    ``rows[t]`` is [h2_{t−2}; h1_{t−1}; 1; x_t]: in step t the first cell reads all of ``rows[t]`` but h2, and the
    second all of ``rows[t + 1]`` but x. What a cell computes stands where it is next read from.
    """

    def __init__(self, weights: KernelWeights, n: int, unroll: int) -> None:
        hidden = weights.hidden

        def new(*shape: int) -> Tensor:  # rows begin at cache lines, which makes products up to a fifth faster
            return weights.output.new_empty(*shape, math.ceil(n / ALIGNMENT) * ALIGNMENT)[..., :n]

        self.rows = new(unroll + 2, 2 * hidden + 1 + weights.n_inputs)
        self.rows[:, 2 * hidden] = 1
        self.inputs = self.rows[:unroll, 2 * hidden + 1 :]
        self.gates = new(unroll, 2, 4 * hidden)
        self.c = new(unroll + 1, 2, hidden)
        self.tanh_c = new(unroll, 2, hidden)
        self._gradients = new(4 * hidden)
        self._dc = new(2, hidden)
        self._dh = new(3 * hidden)

    def begin(self, rows: Tensor) -> None:
        """Start from a chunk of a state's rows."""
        c1, c2, h2, h1 = rows[: 4 * self.c.shape[2]].chunk(4)
        self.c[0, 0], self.c[0, 1] = c1, c2
        self._h2(0).copy_(h2)
        self._h1(0).copy_(h1)

    def end(self, step: int, rows: Tensor) -> None:
        """Fill a chunk of a state's rows with the state after this number of steps."""
        hidden = self.c.shape[2]
        torch.cat([*self.c[step], self._h2(step), self._h1(step)], out=rows[: 4 * hidden])

    def advance(self, weights: KernelWeights, step: int) -> None:
        """One step, for the inputs that are in place."""
        gates, c_prev, c, tanh_c = self.gates[step], self.c[step], self.c[step + 1], self.tanh_c[step]
        first, second = self._read_in(step)
        h1, h2 = self._h1(step + 1), self._h2(step + 1)
        cell(weights.first, first, gates=gates[0], c_prev=c_prev[0], c=c[0], tanh_c=tanh_c[0], h=h1)
        cell(weights.second, second, gates=gates[1], c_prev=c_prev[1], c=c[1], tanh_c=tanh_c[1], h=h2)

    def output(self, weights: KernelWeights, step: int, *, out: Tensor) -> None:
        """Fill ``out`` (n,) with the updates of a step."""
        kernel.output(weights, self._h2(step + 1), out=out)

    def backward(self, weights: KernelWeights, update_gradients: Tensor) -> KernelWeights:
        """The gradient of the weights through these steps, from that of the updates: (steps, n)."""
        hidden = weights.hidden
        # Transposed, (inputs, 4 · hidden): with the fewer rows on the left these products take 0.6 of the time.
        of_first, of_second = torch.zeros_like(weights.first.T), torch.zeros_like(weights.second.T)
        of_output = torch.zeros_like(weights.output)
        to_h1, to_both = weights.backward_factors()
        d_gates, d_c, d_h = self._gradients, self._dc.zero_(), self._dh.zero_()
        d_h1, d_both = d_h[:hidden], d_h[hidden:]  # both: of h2_prev and h1, through the second cell
        d_h2, d_h1_above = d_both.chunk(2)
        for step in reversed(range(len(update_gradients))):
            d_update = update_gradients[step : step + 1]
            gates, c_prev, tanh_c = self.gates[step], self.c[step], self.tanh_c[step]
            first, second = self._read_in(step)
            d_h2.addmm_(weights.output.T, d_update)
            of_output.addmm_(d_update, self._h2(step + 1).T)
            _cell_backward(gates[1], c_prev[1], tanh_c[1], d_h=d_h2, d_c=d_c[1], d_gates=d_gates)
            of_second.addmm_(second, d_gates.T)
            torch.mm(to_both, d_gates, out=d_both)
            d_h1.add_(d_h1_above)
            _cell_backward(gates[0], c_prev[0], tanh_c[0], d_h=d_h1, d_c=d_c[0], d_gates=d_gates)
            of_first.addmm_(first, d_gates.T)
            torch.mm(to_h1, d_gates, out=d_h1)
        return replace(
            weights,
            first=of_first.T,
            second=of_second.T,
            output=of_output,
            output_bias=update_gradients.sum().expand_as(weights.output_bias).clone(),
        )

    def _read_in(self, step: int) -> tuple[Tensor, Tensor]:
        """What the two cells read in a step: [h1_prev; 1; x] and [h2_prev; h1; 1]."""
        hidden = self.c.shape[2]
        return self.rows[step, hidden:], self.rows[step + 1, : 2 * hidden + 1]

    def _h1(self, step: int) -> Tensor:
        """The first cell's output after this number of steps."""
        hidden = self.c.shape[2]
        return self.rows[step, hidden : 2 * hidden]

    def _h2(self, step: int) -> Tensor:
        """The second cell's output after this number of steps."""
        return self.rows[step + 1, : self.c.shape[2]]


def _cell_backward(gates: Tensor, c_prev: Tensor, tanh_c: Tensor, *, d_h: Tensor, d_c: Tensor, d_gates: Tensor) -> None:
    """Back through ``kernel.cell``: fills ``d_gates``, the gradient before the gates' activations.

    ``d_c`` is the gradient of c from the step after this one, and becomes that of c_prev; ``d_h`` is used up.
    """
    hidden = len(d_h)
    i, f, o, g = gates.chunk(4)
    d_i, d_f, d_o, d_g = d_gates.chunk(4)
    torch.mul(d_h, tanh_c, out=d_o)
    d_h.mul_(o)
    d_c.add_(tanh_backward(d_h, tanh_c, grad_input=d_h))
    torch.mul(d_c, g, out=d_i)
    torch.mul(d_c, c_prev, out=d_f)
    torch.mul(d_c, i, out=d_g)
    sigmoids = slice(3 * hidden)
    sigmoid_backward(d_gates[sigmoids], gates[sigmoids], grad_input=d_gates[sigmoids])
    tanh_backward(d_g, g, grad_input=d_g)
    d_c.mul_(f)


def _length(part: slice) -> int:
    length: int = part.stop - part.start
    return length
