"""The learned optimizer's network: one small LSTM that every coordinate shares, with a state for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from trajectory_tools.errors import BadArgument
from trajectory_tools.l2o.preprocessing import preprocess

__all__ = ["HIDDEN", "OUTPUT_SCALE", "CoordinatewiseLSTM", "LSTMState"]

HIDDEN = 20
OUTPUT_SCALE = 0.1


@dataclass(frozen=True)
class LSTMState:
    """The state of both LSTM cells for each of n coordinates, in one tensor with the coordinates last.

    ``rows``: (4 · hidden + 1 + n_inputs, n): c1, c2, h2, h1, a row of ones, and room for the network's inputs. In this
    order the inputs of either cell, with the one that its bias multiplies, are neighbouring rows, and a cell's step is
    one matrix product (see ``kernel``). ``h1``, ``c1``, ``h2``, ``c2`` are views: (hidden, n).
    """

    rows: Tensor
    hidden: int = HIDDEN

    @classmethod
    def zeros(
        cls,
        n_coordinates: int,
        *,
        n_inputs: int = 2,
        hidden: int = HIDDEN,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Self:
        """The state that a run starts with."""
        rows = torch.zeros(4 * hidden + 1 + n_inputs, n_coordinates, dtype=dtype, device=device)
        rows[4 * hidden] = 1
        return cls(rows, hidden)

    @classmethod
    def of(cls, h1: Tensor, c1: Tensor, h2: Tensor, c2: Tensor, *, n_inputs: int) -> Self:
        """The state of these (hidden, n) tensors; differentiable."""
        return cls(torch.cat([c1, c2, h2, h1, torch.ones_like(h1[:1]), torch.zeros_like(h1[:n_inputs])]), len(h1))

    @property
    def c1(self) -> Tensor:
        """The first cell's memory."""
        return self.rows[: self.hidden]

    @property
    def c2(self) -> Tensor:
        """The second cell's memory."""
        return self.rows[self.hidden : 2 * self.hidden]

    @property
    def h2(self) -> Tensor:
        """The second cell's output."""
        return self.rows[2 * self.hidden : 3 * self.hidden]

    @property
    def h1(self) -> Tensor:
        """The first cell's output."""
        return self.rows[3 * self.hidden : 4 * self.hidden]

    @property
    def n_coordinates(self) -> int:
        """How many coordinates it is the state of."""
        return self.rows.shape[1]

    def clone(self) -> LSTMState:
        """A copy that shares no memory."""
        return LSTMState(self.rows.clone(), self.hidden)


class CoordinatewiseLSTM(nn.Module):
    """Two LSTM cells and a linear output: from a coordinate's gradient to its update.

    With g the gradient of one coordinate, and h, c its own states::

        x = (log|g| / 10, sign g) where |g| ≥ e^−10, else (−1, e^10 g);  x = g without preprocessing
        (h1, c1) ← recurs(x, (h1, c1))
        (h2, c2) ← recurs2(h1, (h2, c2))
        update = output_scale · (w · h2 + b);  θ ← θ + update

    Source: Andrychowicz et al. 2016, arXiv 1606.04474, section 2.1 and appendix A. The state dict has the keys of two
    ``nn.LSTMCell`` and one ``nn.Linear``: ``recurs.*``, ``recurs2.*``, ``output.*``.

    ``forward`` is the formula, differentiable, as it reads; ``kernel`` does the same fast. Raises ``BadArgument`` for
    fewer than one hidden unit.
    """

    def __init__(self, *, preprocess: bool = True, hidden: int = HIDDEN, output_scale: float = OUTPUT_SCALE) -> None:
        super().__init__()
        if hidden < 1:
            raise BadArgument(f"the number of hidden units is {hidden}; give at least 1")
        self.preprocess = preprocess
        self.hidden = hidden
        self.output_scale = output_scale
        self.recurs = nn.LSTMCell(self.n_inputs, hidden)
        self.recurs2 = nn.LSTMCell(hidden, hidden)
        self.output = nn.Linear(hidden, 1)

    @property
    def n_inputs(self) -> int:
        """What the first cell is given for each coordinate: 2 numbers with preprocessing, 1 without."""
        return 2 if self.preprocess else 1

    def initial_state(self, n_coordinates: int) -> LSTMState:
        """The state that a run starts with, in the dtype and on the device of the weights."""
        like = self.output.weight
        return LSTMState.zeros(
            n_coordinates, n_inputs=self.n_inputs, hidden=self.hidden, dtype=like.dtype, device=like.device
        )

    def forward(self, gradients: Tensor, state: LSTMState) -> tuple[Tensor, LSTMState]:
        """The updates (n,) and the next state, from gradients (n,); ``state`` stays as it is."""
        inputs = preprocess(gradients) if self.preprocess else gradients[None]
        h1, c1 = self.recurs(inputs.T, (state.h1.T, state.c1.T))
        h2, c2 = self.recurs2(h1, (state.h2.T, state.c2.T))
        updates = self.output_scale * self.output(h2).squeeze(1)
        return updates, LSTMState.of(h1.T, c1.T, h2.T, c2.T, n_inputs=self.n_inputs)
