"""Regularizers against symmetry breaking: how far an update leaves what the symmetries prescribe, differentiable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from trajectory_tools.errors import MissingData, UnknownName
from trajectory_tools.l2o.options import FORMS, REGULARIZERS
from trajectory_tools.l2o.parameters import FlatParameters
from trajectory_tools.symmetry.groups import Kind, SymmetryGroup

__all__ = ["Form", "Regularizer"]

Form = Literal["signed", "unit"]


@dataclass(frozen=True)
class _Generators:
    """The generators of the groups of one kind: ⟨v, ξ_j⟩ = Σ over the e with unit[e] = j of sign[e] · v[at[e]] · ξ[e].

    ``at``, ``unit``, ``sign``: (m,); ξ[e] is the parameter itself, or 1 for translation.
    """

    kind: Kind
    at: Tensor
    unit: Tensor
    sign: Tensor
    count: int

    def inner_products(self, values: Tensor, vectors: Tensor) -> Tensor:
        """⟨v, ξ_j⟩ for each generator: (generators,)."""
        terms = vectors[self.at]
        if self.kind != "translation":
            terms = terms * self.sign * values[self.at]
        return terms.new_zeros(self.count).index_add(0, self.unit, terms)


class Regularizer:
    """What is added to the meta-loss at each step, before its factor β: a number from θ_t and u_t, differentiable.

    With v = −u and ξ_j the generators of the symmetries of one kind (see ``trajectory_tools.metrics.generators``):

    - ``form="signed"``: |Σ_j ⟨v, ξ_j⟩|, as Sobotka et al. 2023 (arXiv 2312.07174) do it: units can cancel;
    - ``form="unit"``: Σ_j |⟨v, ξ_j⟩|: they cannot.

    ``kind`` is ``rescale``, ``scale`` or ``translation``; ``mean``, the mean of those that there are; or ``norm``, ‖u‖,
    which has no form. For one group the signed form is the ``symmetry`` metric's ``deviation`` of the update, and the
    unit form the sum of the absolute values of its ``unit``.

    Args:
        kind: what is regularized.
        groups: the symmetry groups of the model.
        parameters: where its parameters are.
        form: ``signed`` or ``unit``.

    Raises ``UnknownName`` for a kind or form that does not exist, ``MissingData`` where the model has no such symmetry.
    """

    def __init__(
        self, kind: str, groups: Sequence[SymmetryGroup], parameters: FlatParameters, *, form: str = "signed"
    ) -> None:
        if kind not in REGULARIZERS[1:]:
            raise UnknownName("regularizer", kind, REGULARIZERS[1:])
        if form not in FORMS:
            raise UnknownName("form of a regularizer:", form, FORMS)
        self.kind = kind
        self.form = form
        self._kinds: list[_Generators] = []
        if kind == "norm":
            return
        present = [one for one in get_args(Kind) if any(group.kind == one for group in groups)]
        if kind not in (*present, "mean") or not present:
            raise MissingData(
                f"the regularizer {kind!r} needs a problem with that symmetry, and this one has"
                f" {', '.join(present) or 'none'}; choose another regularizer, or another activation or batch_norm"
            )
        for one in present if kind == "mean" else [one for one in present if one == kind]:
            self._kinds.append(_generators(one, [group for group in groups if group.kind == one], parameters))

    def __call__(self, values: Tensor, updates: Tensor) -> Tensor:
        """The deviation (or norm), 0-d, of the update u_t (n,) at the parameters θ_t (n,)."""
        if self.kind == "norm":
            return torch.linalg.vector_norm(updates)
        found = []
        for generators in self._kinds:
            inner = generators.inner_products(values, -updates)
            found.append(inner.sum().abs() if self.form == "signed" else inner.abs().sum())
        return torch.stack(found).mean()

    def with_gradients(self, values: Tensor, updates: Tensor) -> tuple[float, Tensor, Tensor]:
        """The number, and its gradients with respect to θ_t and u_t: each (n,)."""
        with torch.enable_grad():
            values, updates = values.detach().requires_grad_(), updates.detach().requires_grad_()
            found = self(values, updates)
            of_values, of_updates = torch.autograd.grad(
                found, (values, updates), allow_unused=True, materialize_grads=True
            )
        return found.item(), of_values, of_updates


def _generators(kind: Kind, groups: Sequence[SymmetryGroup], parameters: FlatParameters) -> _Generators:
    positions = parameters.positions()
    at, unit, sign = [], [], []
    count = 0
    for group in groups:
        for axes, factor in ((group.inputs, 1.0), (group.outputs, -1.0)):
            for name, axis in axes:
                where = (
                    positions[name].movedim(axis, 0).flatten(1)
                    if positions[name].dim() > 1
                    else positions[name][:, None]
                )
                units, columns = where.shape
                if kind == "translation":  # a generator for each column
                    numbers = count + torch.arange(columns).expand(units, columns)
                    count += columns
                else:
                    numbers = count + torch.arange(units)[:, None].expand(units, columns)
                at.append(where.flatten())
                unit.append(numbers.flatten().to(where.device))
                sign.append(torch.full((where.numel(),), factor, dtype=parameters.values.dtype, device=where.device))
        if kind != "translation":
            count += parameters.shapes[group.inputs[0][0]][group.inputs[0][1]]
    return _Generators(kind, torch.cat(at), torch.cat(unit), torch.cat(sign), count)
