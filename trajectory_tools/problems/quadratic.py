"""Random quadratic functions, the smallest problem that learned optimizers are tried on."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import repeat
from typing import ClassVar

from trajectory_tools.errors import BadArgument
from trajectory_tools.options import POSITIVE, option
from trajectory_tools.problems.base import Optimizee, Problem, streams

__all__ = ["Quadratic"]


@dataclass(frozen=True, kw_only=True)
class Quadratic(Problem):
    """f(θ) = ‖Wθ − y‖², with W (size, size) and y (size,) IID standard Gaussian, new for every seed.

    θ, the parameter ``theta`` (size,), starts at N(0, 0.01²): Andrychowicz et al. 2016 (arXiv 1606.04474, section 3.1)
    give W and y but not the start, which is taken from the code they published. The loss is deterministic: each batch
    is empty. float32. No symmetries.
    """

    name: ClassVar[str] = "quadratic"
    size: int = option(10, "number of parameters", valid=POSITIVE)

    def start(self, seed: int) -> Optimizee:
        """The quadratic of this seed."""
        import torch
        from torch import Tensor, nn

        generator = torch.Generator().manual_seed(streams(seed, 1)[0])

        def gaussian(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float32)

        W, y = gaussian(self.size, self.size), gaussian(self.size)
        theta = nn.Parameter(0.01 * gaussian(self.size))

        def loss(_batch: tuple[()]) -> Tensor:
            return (W @ theta - y).square().sum()

        def draw(size: int | None) -> tuple[()]:
            if size is not None:
                raise BadArgument(
                    f"{self.name} has no samples: its loss is deterministic; leave the single samples out"
                )
            return ()

        return Optimizee(nn.ParameterDict({"theta": theta}), repeat(()), loss, (), "synthetic", draw)
