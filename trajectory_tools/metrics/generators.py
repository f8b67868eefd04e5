"""Generators: the directions in parameter space along which a symmetry moves, and products with them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import reduce
from string import ascii_lowercase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajectory_tools.symmetry import SymmetryGroup

__all__ = ["conserved_change", "conserved_quantity", "count", "inner_products", "squared_norms", "squared_size"]

Floats = NDArray[np.floating[Any]]
Arrays = Mapping[str, Floats]


def count(group: SymmetryGroup, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """How many generators the group has: its units, or for translation its columns."""
    if group.kind == "translation":
        return sum(math.prod(shapes[name]) // shapes[name][axis] for name, axis in group.inputs)
    return shapes[group.inputs[0][0]][group.inputs[0][1]]


def inner_products(group: SymmetryGroup, vectors: Arrays, params: Arrays) -> Floats:
    """⟨v, ξ_j⟩ for each generator ξ_j of the group: (steps, generators).

    With w the parameters, ξ_j is (w_in[j], b[j], −w_out[:, j]) for rescale, (w[j], b[j]) for scale, both for each unit
    j; for translation it is ones in column c, one for each input column and one for the bias.
    ``vectors``, ``params``: parameter → (steps, *shape).
    """
    if group.kind == "translation":
        sums = [vectors[name].sum(axis=1 + axis) for name, axis in group.inputs]
        return np.concatenate([total.reshape(len(total), -1) for total in sums], axis=1)
    return _signed_unit_sums(group, vectors, params)


def squared_norms(group: SymmetryGroup, params: Arrays, n_steps: int) -> Floats:
    """‖ξ_j‖² for each generator of the group: (steps, generators)."""
    if group.kind == "translation":
        name, axis = group.inputs[0]
        n_units = params[name].shape[1 + axis]
        return np.full((n_steps, count(group, {name: params[name].shape[1:] for name in group.names})), float(n_units))
    return _total(_unit_sums(params[name], params[name], axis) for name, axis in group.axes)


def squared_size(group: SymmetryGroup, vectors: Arrays) -> Floats:
    """‖v‖² over the group's own parameters: (steps,)."""
    flat = (vectors[name].reshape(len(vectors[name]), -1) for name in group.names)
    return _total(np.einsum("sp,sp->s", one, one) for one in flat)


def conserved_quantity(group: SymmetryGroup, params: Arrays) -> Floats:
    """Q: ‖A‖² − ‖B‖² for rescale (A the inputs, B the outputs), ‖A‖² for scale, Σ A for translation: (steps,)."""
    if group.kind == "translation":
        return _total(params[name].reshape(len(params[name]), -1).sum(axis=1) for name in group.names)
    return _signed_unit_sums(group, params, params).sum(axis=1)


def conserved_change(group: SymmetryGroup, params: Arrays, updates: Arrays) -> Floats:
    """ΔQ = 2(⟨A, u_A⟩ − ⟨B, u_B⟩) + (‖u_A‖² − ‖u_B‖²), exact for any optimizer; Σ u_A for translation: (steps,)."""
    if group.kind == "translation":
        return conserved_quantity(group, updates)
    first_order = _signed_unit_sums(group, updates, params)
    return (2 * first_order + _signed_unit_sums(group, updates, updates)).sum(axis=1)


def _signed_unit_sums(group: SymmetryGroup, left: Arrays, right: Arrays) -> Floats:
    """Σ left · right over each unit's inputs, minus that over its outputs: (steps, units)."""
    inputs = (_unit_sums(left[name], right[name], axis) for name, axis in group.inputs)
    outputs = (-_unit_sums(left[name], right[name], axis) for name, axis in group.outputs)
    return _total((*inputs, *outputs))


def _unit_sums(left: Floats, right: Floats, axis: int) -> Floats:
    """Σ left · right over every axis but the steps' and the units': (steps, units)."""
    axes = ascii_lowercase[: left.ndim]
    return np.einsum(f"{axes},{axes}->{axes[0]}{axes[1 + axis]}", left, right)


def _total(arrays: Iterable[Floats]) -> Floats:
    return reduce(np.add, arrays)
