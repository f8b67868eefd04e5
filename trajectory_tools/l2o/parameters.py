"""All of a model's parameters as one vector, which a coordinate-wise optimizer works on."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trajectory_tools.errors import BadArgument

__all__ = ["FlatParameters"]


class FlatParameters:
    """A model's parameters and their gradients, moved into two vectors that the model then uses.

    ``values``, ``gradients``: (n,), in the order of ``model.named_parameters()``; ``views(vector)`` shows any such
    vector by name and shape. Raises ``BadArgument`` where the parameters differ in dtype or device, or there are none.
    """

    def __init__(self, model: nn.Module) -> None:
        named = dict(model.named_parameters())
        kinds = {(parameter.dtype, parameter.device) for parameter in named.values()}
        if len(kinds) != 1:
            found = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds)) or "no parameters"
            raise BadArgument(f"the learned optimizer needs parameters of one dtype on one device, found {found}")
        self.parameters: Mapping[str, nn.Parameter] = named
        self.shapes: Mapping[str, torch.Size] = {name: parameter.shape for name, parameter in named.items()}
        self.values = torch.cat([parameter.detach().flatten() for parameter in named.values()])
        self.gradients = torch.zeros_like(self.values)
        for parameter, value, gradient in zip(
            named.values(), self.views(self.values).values(), self.views(self.gradients).values(), strict=True
        ):
            parameter.data = value
            parameter.grad = gradient

    def __len__(self) -> int:
        return len(self.values)

    def views(self, vector: Tensor) -> dict[str, Tensor]:
        """``vector`` (n,) by name and shape, without a copy."""
        sizes = [shape.numel() for shape in self.shapes.values()]
        pieces = torch.split(vector, sizes)
        return {name: piece.view(shape) for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)}

    def positions(self) -> dict[str, Tensor]:
        """Where each parameter's elements are in the vector, in its shape."""
        return self.views(torch.arange(len(self.values), device=self.values.device))
