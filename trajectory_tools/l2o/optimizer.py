"""The learned optimizer as a torch optimizer."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trajectory_tools.errors import BadArgument
from trajectory_tools.l2o.choice import choose_weights
from trajectory_tools.l2o.kernel import KernelWeights, advance
from trajectory_tools.l2o.network import CoordinatewiseLSTM, LSTMState
from trajectory_tools.l2o.stepper import Stepper
from trajectory_tools.optimizers.base import Active, Dense, Params
from trajectory_tools.optimizers.specs import L2OSpec

__all__ = ["LearnedOptimizer"]

PARTS = ("h1", "c1", "h2", "c2")
Place = tuple[torch.device, torch.dtype]
"""Where parameters are updated: their device, and the dtype of the computation."""


class LearnedOptimizer(Dense):
    """Each coordinate moves by what a small LSTM, shared by all, makes of its gradients so far; see CoordinatewiseLSTM.

    It has no learning rate: the sizes of its steps are learned, and a learning rate scheduler finds nothing to change.
    Nothing here is random. The weights are fixed; ``weights`` (name, network, card) says which they are, and every
    parameter group names them with their sha256.

    Args:
        params: parameters, or parameter groups; a group has no options of its own.
        weights: a file, the name of weights that are shipped, or a network (as it is now; later changes do not matter).
            Unless told, those that ``fitting_weights()`` chooses for an unknown problem.

    The state of a parameter, ``state[p]``: h1, c1, h2, c2, each (values of p, hidden), zero at first; 320 bytes for
    each value in float32. It is made when the parameter has its first gradient, and stays as it is in steps where it
    has none. These are views of one tensor for all parameters of a device, so that all are advanced at once;
    ``state_dict`` holds copies. float64 parameters are computed in float64, all others in float32: a bfloat16 or
    float16 one is rounded once, after its update was added.

    A gradient of ±Inf counts as very large, and its update is finite. From a NaN on, the updates and the state of its
    coordinate are NaN; the others never notice.

    Raises ``BadArgument`` for weights that cannot be used (see ``load_weights``), options of a group, complex
    parameters, a sparse gradient (before anything has changed), and a state dict made with other weights.
    """

    spec = L2OSpec

    def __init__(self, params: Params, *, weights: str | Path | CoordinatewiseLSTM | None = None) -> None:
        self.weights = choose_weights(weights)
        self._blocks: dict[Place, Block] = {}
        super().__init__(params, {"weights": self.weights.name, "sha256": self.weights.sha256})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters; raises ``BadArgument`` for options, of which a learned optimizer has none."""
        for name, value in param_group.items():
            if name not in ("params", "param_names") and (name not in self.defaults or value != self.defaults[name]):
                raise BadArgument(
                    f"{self.spec.name}: a parameter group has {name} = {value!r}; leave it out: all groups share the"
                    " weights, and what they do is learned"
                )
        super().add_param_group(param_group)
        if any(param.is_complex() for param in self.param_groups[-1]["params"]):
            del self.param_groups[-1]
            raise BadArgument(f"{self.spec.name}: a parameter is complex; give real ones (torch.view_as_real)")

    def update_all(self, active: Sequence[Active]) -> None:
        """Advance all coordinates that have a gradient, and add their updates."""
        places: dict[Place, list[Active]] = {}
        for entry in active:
            places.setdefault(place_of(entry[0]), []).append(entry)
        for place, entries in places.items():
            block = self._block(place, [param for param, _, _ in entries])
            for columns, stretch in block.stretches(entries):
                updates = block.advance(columns, [grad.reshape(-1) for _, grad, _ in stretch])
                for param, _, _ in stretch:
                    update, updates = updates[: param.numel()], updates[param.numel() :]
                    param.add_(update.view_as(param))

    def state_dict(self) -> dict[str, Any]:
        """As torch has it; the tensors are copies."""
        packed = super().state_dict()
        return {**packed, "state": {key: copies(state) for key, state in packed["state"].items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from this state, to the bit; raises ``BadArgument`` where it was made with other weights."""
        params = [param for group in self.param_groups for param in group["params"]]
        ids = [number for group in state_dict["param_groups"] for number in group["params"]]
        given = {
            param: state_dict["state"][i] for i, param in zip(ids, params, strict=False) if i in state_dict["state"]
        }
        for group in state_dict["param_groups"]:
            if group.get("sha256") != self.weights.sha256:
                raise BadArgument(
                    f"the state is of an optimizer with the weights {group.get('weights', 'of another kind')}"
                    f" (sha256 {group.get('sha256', 'unknown')}), this one has {self.weights.name}"
                    f" ({self.weights.sha256}); give it the same weights"
                )
        for param, state in given.items():
            if state:
                self._check(param, state)
        super().load_state_dict(state_dict)
        # Torch has rounded the state to the dtype of the parameter; where that is shorter, it is taken as it was.
        self.state.update({p: copies(state) for p, state in given.items() if place_of(p)[1] != p.dtype})

    def __getstate__(self) -> dict[str, Any]:
        state = defaultdict(dict, {param: copies(state) for param, state in self.state.items()})
        return {**super().__getstate__(), "state": state, "weights": self.weights}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._blocks = {}  # made again from the state of each parameter

    def _check(self, param: Tensor, state: Mapping[str, Any]) -> None:
        needed = (param.numel(), self.weights.network.hidden)
        for name in PARTS:
            found = tuple(state[name].shape) if name in state else None
            if found != needed:
                raise BadArgument(f"the state is of other parameters: {name} is {found or 'missing'}, needed {needed}")

    def _block(self, place: Place, params: Sequence[Tensor]) -> Block:
        """The block of this place, once it holds all these parameters."""
        block = self._blocks.get(place)
        if block is None or any(self.state.get(p) is not block.views.get(p) or p not in block.views for p in params):
            # In the order of the groups, which does not depend on when each of them had its first gradient.
            held = dict.fromkeys(param for group in self.param_groups for param in group["params"])
            added = set(params)
            members = [p for p in held if p in added or (p in self.state and place_of(p) == place)]
            network = copy.deepcopy(self.weights.network).to(*place)
            block = self._blocks[place] = Block.of(network, {p: self.state.get(p) for p in members})
            self.state.update(block.views)
        return block


@dataclass(frozen=True)
class Block:
    """Parameters of one place, one after the other in one state."""

    weights: KernelWeights
    state: LSTMState
    stepper: Stepper
    columns: dict[Tensor, slice]
    views: dict[Tensor, dict[str, Tensor]]
    """Each parameter's part of the state, as ``LearnedOptimizer.state`` holds it."""

    @classmethod
    def of(cls, network: CoordinatewiseLSTM, states: Mapping[Tensor, Mapping[str, Tensor] | None]) -> Block:
        """The block of parameters with their states so far, ``None`` where they have none."""
        rows, columns, start = [], {}, 0
        for param, found in states.items():
            state = network.initial_state(param.numel())
            if found:
                state = LSTMState.of(*(found[name].to(state.rows).T for name in PARTS), n_inputs=network.n_inputs)
            rows.append(state.rows)
            columns[param] = slice(start, start + param.numel())
            start += param.numel()
        state = LSTMState(torch.cat(rows, 1), network.hidden)
        views = {p: {name: getattr(state, name)[:, part].T for name in PARTS} for p, part in columns.items()}
        weights = KernelWeights.of(network)
        return cls(weights, state, Stepper(weights, state), columns, views)

    def advance(self, columns: slice, gradients: Sequence[Tensor]) -> Tensor:
        """The updates of these columns, one after the other; their state moves on."""
        if columns == slice(0, self.state.n_coordinates):
            return self.stepper.step(gradients)
        part = LSTMState(self.state.rows[:, columns], self.state.hidden)
        return advance(self.weights, torch.cat(list(gradients)).to(part.rows.dtype), part)

    def stretches(self, entries: Iterable[Active]) -> Iterator[tuple[slice, list[Active]]]:
        """The parameters that are to be updated, those together that lie side by side; empty ones are left out."""
        stretch: list[Active] = []
        start = end = 0
        for entry in entries:
            columns = self.columns[entry[0]]
            if columns.start != end or not stretch:
                if start < end:
                    yield slice(start, end), stretch
                stretch, start = [], columns.start
            stretch.append(entry)
            end = columns.stop
        if start < end:
            yield slice(start, end), stretch


def place_of(param: Tensor) -> Place:
    """Where the parameter is updated."""
    return param.device, torch.float64 if param.dtype == torch.float64 else torch.float32


def copies(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state of one parameter, sharing no memory."""
    return {name: value.clone(memory_format=torch.contiguous_format) for name, value in state.items()}
