"""The noise samples of one probed step, as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["ProbeSet"]

Floats = NDArray[np.floating]


@dataclass(frozen=True, repr=False)
class ProbeSet:
    """What K mini-batches (or single samples) say at one step, at the same θ_t and the same optimizer state.

    Arrays are float32 or float64, with the coordinates of all probed parameters in recorded order along the last axis:
    all ``n_values`` of them, or, in a sketch, a seeded uniform choice (d of them). What was not recorded is None.

    Attributes:
        step: the step at which it was probed, before its update.
        batch_size: how many training samples each gradient is the mean of; 1 for single samples; None where it is
            not known. Quantities of different batch sizes are never mixed.
        n_values: number of elements of all probed parameters.
        spans: parameter → its slice of the d coordinates.
        grad: (K, d), the gradient of each mini-batch.
        update: (K, d), the update that the optimizer would make from it.
        mean_update: (d,), the update that it would make from the mean of the K gradients.
        surrogate_grad: (S, d), Gaussian gradients of the same mean and sample covariance.
        surrogate_update: (S, d), the updates that it would make from these.
        products: of a sketch alone, the exact inner products over all ``n_values`` coordinates, not centred, float64:
            ``grad·grad``, ``update·update``, ``update·grad`` (K, K), ``mean_update·update``, ``mean_update·grad`` (K,),
            ``mean_update·mean_update`` ().
    """

    step: int
    batch_size: int | None
    n_values: int
    spans: Mapping[str, slice]
    grad: Floats
    update: Floats
    mean_update: Floats | None = None
    surrogate_grad: Floats | None = None
    surrogate_update: Floats | None = None
    products: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def __repr__(self) -> str:
        size = "unknown" if self.batch_size is None else f"{self.batch_size:,}"
        sketch = f", a sketch of {self.grad.shape[1]:,} of them" if self.products else ""
        surrogates = 0 if self.surrogate_grad is None else len(self.surrogate_grad)
        return (
            f"<ProbeSet of step {self.step:,}: batch size {size}, {len(self.grad):,} samples"
            f" of {self.n_values:,} values{sketch}, {surrogates:,} surrogates>"
        )
