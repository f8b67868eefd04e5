"""The learned optimizer's step without autograd: all coordinates at once, in chunks, in place.

The coordinates are the last axis of every tensor here, so that each gate of a cell is a block of contiguous rows. What
a cell reads, [h_prev; 1; x] or [h2_prev; h1; 1], is a block of rows as well, and its weights are packed to match: one
matrix product gives all four gates, biases included.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from trajectory_tools.l2o.network import CoordinatewiseLSTM, LSTMState
from trajectory_tools.l2o.preprocessing import preprocess
from trajectory_tools.l2o.workers import for_each

__all__ = ["KernelWeights", "advance", "cell", "chunks", "network_inputs", "output"]

CHUNK = 4096
"""Coordinates in a chunk: few enough for a core's cache, and enough that torch's overhead per operation is little."""

MINUS_ONE = torch.scalar_tensor(-1.0)


@dataclass(frozen=True)
class KernelWeights:
    """A network's weights as the kernel multiplies by them; rows in the order of the gates i, f, o, g.

    ``first``: (4 · hidden, hidden + 1 + n_inputs), for [h1; 1; x]; those of gate g doubled, for tanh z = 2 σ(2z) − 1.
    ``second``: (4 · hidden, 2 · hidden + 1), for [h2; h1; 1]; likewise.
    ``output``: (1, hidden), ``output_bias``: (1, 1), both times the output scale.
    """

    first: Tensor
    second: Tensor
    output: Tensor
    output_bias: Tensor
    preprocess: bool
    output_scale: float

    @classmethod
    def of(cls, network: CoordinatewiseLSTM) -> KernelWeights:
        """The weights that the network has now (a copy)."""
        with torch.no_grad():
            one, two, out, scale = network.recurs, network.recurs2, network.output, network.output_scale
            first = torch.cat([one.weight_hh, (one.bias_ih + one.bias_hh)[:, None], one.weight_ih], 1)
            second = torch.cat([two.weight_hh, two.weight_ih, (two.bias_ih + two.bias_hh)[:, None]], 1)
            return cls(
                _scaled_g(_reordered(first), 2),
                _scaled_g(_reordered(second), 2),
                out.weight * scale,
                out.bias[:, None] * scale,
                network.preprocess,
                scale,
            )

    def backward_factors(self) -> tuple[Tensor, Tensor]:
        """What takes the gradient before the gates' activations to that of h1, and to that of [h2; h1]."""
        first, second = _scaled_g(self.first, 0.5), _scaled_g(self.second, 0.5)
        return first[:, : self.hidden].T, second[:, : 2 * self.hidden].T

    @property
    def hidden(self) -> int:
        """Hidden units of a cell."""
        return self.output.shape[1]

    @property
    def n_inputs(self) -> int:
        """Inputs of the first cell."""
        return self.first.shape[1] - self.hidden - 1

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All of them."""
        return self.first, self.second, self.output, self.output_bias

    def unpacked(self) -> dict[str, Tensor]:
        """These numbers, read as a gradient, under the names that the network's parameters have.

        Both biases of a cell have the gradient of their sum; the output's is multiplied by the scale.
        """
        hidden = self.hidden
        first, second = _reordered(self.first), _reordered(self.second)  # its own inverse
        return {
            "recurs.weight_hh": first[:, :hidden],
            "recurs.bias_hh": first[:, hidden],
            "recurs.bias_ih": first[:, hidden].clone(),
            "recurs.weight_ih": first[:, hidden + 1 :],
            "recurs2.weight_hh": second[:, :hidden],
            "recurs2.weight_ih": second[:, hidden : 2 * hidden],
            "recurs2.bias_hh": second[:, 2 * hidden],
            "recurs2.bias_ih": second[:, 2 * hidden].clone(),
            "output.weight": self.output * self.output_scale,
            "output.bias": self.output_bias[:, 0] * self.output_scale,
        }


def advance(
    weights: KernelWeights, gradients: Tensor, state: LSTMState, *, chunk: int = CHUNK, threads: int | None = None
) -> Tensor:
    """The updates (n,) for these gradients (n,); ``state`` moves on in place.

    The same numbers as ``CoordinatewiseLSTM.forward`` up to rounding. Memory beside the state: 5 · hidden numbers
    for each coordinate of the chunks that are under way.
    """
    updates = torch.empty_like(gradients)
    hidden = weights.hidden

    def advance_chunk(columns: slice) -> None:
        rows = state.rows[:, columns]
        c1, c2, h2, h1 = rows[: 4 * hidden].chunk(4)
        gates, tanh_c = rows.new_empty(4 * hidden, rows.shape[1]), rows.new_empty(hidden, rows.shape[1])
        cell(weights.first, rows[3 * hidden :], gates=gates, c_prev=c1, c=c1, tanh_c=tanh_c, h=h1)
        second = rows[2 * hidden : 4 * hidden + 1]
        cell(weights.second, second, gates=gates, c_prev=c2, c=c2, tanh_c=tanh_c, h=h2)
        output(weights, h2, out=updates[columns])

    with torch.no_grad():
        network_inputs(weights, gradients, out=state.rows[4 * hidden + 1 :])
        for_each(advance_chunk, chunks(gradients, chunk), threads=threads)
    return updates


def network_inputs(weights: KernelWeights, gradients: Tensor, *, out: Tensor) -> None:
    """Fill ``out`` (n_inputs, n) with what the network is given for these gradients (n,)."""
    if weights.preprocess:
        preprocess(gradients, out=out)
    else:
        out.copy_(gradients)


def output(weights: KernelWeights, h2: Tensor, *, out: Tensor) -> None:
    """Fill ``out`` (n,) with the updates, from what the second cell gives (hidden, n)."""
    torch.addmm(weights.output_bias, weights.output, h2, out=out.unsqueeze(0))


def cell(
    weights: Tensor, inputs: Tensor, *, gates: Tensor, c_prev: Tensor, c: Tensor, tanh_c: Tensor, h: Tensor
) -> None:
    """One LSTM cell: fills ``gates`` (4 · hidden, n; i, f, o, g), ``c``, ``tanh_c`` and ``h`` (hidden, n).

    ``c`` may be ``c_prev``, and ``h`` a part of ``inputs``.
    """
    torch.mm(weights, inputs, out=gates)
    i, f, o, g = gates.sigmoid_().chunk(4)
    _tanh_of_sigmoid(g)
    torch.mul(f, c_prev, out=c)
    c.addcmul_(i, g)
    _tanh_of_sigmoid(torch.mul(c, 2, out=tanh_c).sigmoid_())
    torch.mul(o, tanh_c, out=h)


def _tanh_of_sigmoid(x: Tensor) -> None:
    """From σ(2z), tanh z = 2 σ(2z) − 1, in place: in float32 on a CPU twice as fast as torch's tanh, to about 1e-7."""
    torch.add(MINUS_ONE, x, alpha=2, out=x)


def chunks(vector: Tensor, chunk: int = CHUNK) -> list[slice]:
    """Slices of nearly equal length, at most ``chunk``, that cover the last axis; on a GPU one; of none, none."""
    n = vector.shape[-1]
    count = max(math.ceil(n / chunk), 1) if vector.device.type == "cpu" else 1
    ends = [n * k // count for k in range(count + 1)]
    return [slice(start, end) for start, end in pairwise(ends) if start < end]


def _scaled_g(rows: Tensor, factor: float) -> Tensor:
    """The rows with those of gate g, the last of the four, multiplied."""
    *others, g = rows.chunk(4)
    return torch.cat([*others, g * factor])


def _reordered(rows: Tensor) -> Tensor:
    """Torch's gates i, f, g, o as i, f, o, g, and back."""
    i, f, g, o = rows.chunk(4)
    return torch.cat([i, f, o, g])
