"""How many rows and bytes a run will have, before it is recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trajectory_tools.store.rows import RowLayout

__all__ = ["ProbePlan", "TableSize", "run_sizes"]

KEY_BYTES = 24
"""About what the keys of a row take, before compression."""
SCALAR_BYTES = 53
"""What a row of ``scalars`` takes without logged values."""


@dataclass(frozen=True)
class TableSize:
    """One table of a run: how many rows, and about how many bytes before compression."""

    table: str
    rows: int
    bytes: int


@dataclass(frozen=True)
class ProbePlan:
    """One set of noise samples: how many samples and surrogates, of how many values, or a sketch of how many."""

    n_samples: int
    n_surrogates: int
    n_values: int
    sketch: int | None = None

    @property
    def n_rows(self) -> int:
        """Gradients, with an update each: of the samples, the surrogates, and the mean."""
        return self.n_samples + self.n_surrogates + 1

    def bytes(self, itemsize: int) -> int:
        """Bytes of ``probes`` and ``probe_products`` before compression."""
        kept = self.n_values if self.sketch is None else self.sketch
        return self.n_rows * kept * 2 * itemsize + (8 * kept + self.product_bytes if self.sketch else 0)

    @property
    def product_bytes(self) -> int:
        """Bytes of a sketch's ``probe_products``."""
        return 3 * 8 * (self.n_samples + 1) ** 2

    def memory(self, itemsize: int) -> int:
        """Bytes in memory at a time, beside the training's and what waits in the queue."""
        surrogates = 2 * 8 * self.n_surrogates * self.n_values
        all_samples = 4 * (self.n_samples + 1) * self.n_values * itemsize + self.product_bytes
        return surrogates + (all_samples if self.sketch else 0)


def run_sizes(
    numels: Mapping[str, int],
    *,
    itemsize: int,
    n_steps: int,
    n_recorded: int,
    n_columns: int,
    n_probed: int = 0,
    probes: Sequence[ProbePlan] = (),
) -> list[TableSize]:
    """Each table of a run of ``n_steps`` steps; ``probes`` are the sets that are taken at ``n_probed`` of them."""
    n_rows = len(RowLayout.of(numels))
    values = sum(numels.values())
    sizes = [TableSize("scalars", n_steps, n_steps * SCALAR_BYTES)]
    if n_columns:
        rows = n_recorded * n_rows
        sizes.append(TableSize("tensors", rows, n_recorded * values * itemsize * n_columns + rows * KEY_BYTES))
    if probes and n_probed:
        products = sum(plan.product_bytes for plan in probes if plan.sketch)
        rows = n_probed * sum(plan.n_rows for plan in probes) * n_rows
        held = n_probed * (sum(plan.bytes(itemsize) for plan in probes) - products)
        sizes.append(TableSize("probes", rows, held + rows * KEY_BYTES))
        if products:
            rows = n_probed * sum(plan.n_samples + 1 for plan in probes if plan.sketch)
            sizes.append(TableSize("probe_products", rows, n_probed * products + rows * KEY_BYTES))
    return sizes
