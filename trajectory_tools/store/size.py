"""How many rows and bytes a run will have, before it is recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trajectory_tools.store.rows import RowLayout

__all__ = ["ProbePlan", "RunSize", "TableSize"]

KEY_BYTES = 32
"""What the keys and the list bounds of a row of ``tensors`` take at most, before compression."""
STATS_ROW_BYTES = 15 * 8 + 24
SCALAR_ROW_BYTES = 6 * 8 + 8
LOGGED_BYTES = 9
"""What a logged name adds to a row of ``scalars``."""
RUN_BYTES = 15_000
PARAMETER_BYTES = 200
"""What stands beside the tables, and more of it for each parameter: run.json, the manifest, the parts' footers."""
GROUP_BYTES = 2_500
"""What Parquet writes beside the values of a row group, about a million of them a column."""


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
        return self.held_bytes(itemsize) + (self.product_bytes if self.sketch else 0)

    def held_bytes(self, itemsize: int) -> int:
        """Bytes of ``probes`` alone."""
        kept = self.n_values if self.sketch is None else self.sketch
        return self.n_rows * kept * 2 * itemsize + (8 * kept if self.sketch else 0)

    @property
    def product_bytes(self) -> int:
        """Bytes of a sketch's ``probe_products``."""
        return 3 * 8 * (self.n_samples + 1) ** 2

    def memory(self, itemsize: int) -> int:
        """Bytes in memory at a time, beside the training's and what waits in the queue."""
        surrogates = 2 * 8 * self.n_surrogates * self.n_values
        all_samples = 4 * (self.n_samples + 1) * self.n_values * itemsize + self.product_bytes
        return surrogates + (all_samples if self.sketch else 0)


@dataclass(frozen=True)
class RunSize:
    """How large a run is before compression, of ``n_steps`` steps, the tensors of ``n_recorded`` of them recorded.

    ``counts``: parameter → how many of its values are recorded (``Selection.counts``); ``n_parameters``: how many there
    are, for ``stats``; ``probes``: the sets of noise samples that are taken at each of ``n_probed`` steps. What is
    written with ``compression="none"`` is at most this and, for a run of more than a megabyte, at least 0.85 of it;
    zstd takes about a fifth off, and more where many values are zero.
    """

    counts: Mapping[str, int]
    n_parameters: int
    n_steps: int
    n_recorded: int
    n_columns: int = 3
    itemsize: int = 4
    stats: bool = True
    n_logged: int = 0
    n_probed: int = 0
    probes: tuple[ProbePlan, ...] = ()

    @property
    def rows(self) -> dict[str, int]:
        """Table → rows."""
        tensors = self.n_recorded * len(RowLayout.of(self.counts)) if self.n_columns else 0
        return {
            "scalars": self.n_steps,
            "stats": self.n_steps * self.n_parameters if self.stats else 0,
            "tensors": tensors,
            "probes": self.n_probed * sum(plan.n_rows for plan in self.probes) * self.n_parameters,
            "probe_products": self.n_probed * sum(plan.n_samples + 1 for plan in self.probes if plan.sketch),
        }

    @property
    def bytes(self) -> dict[str, int]:
        """Table → bytes."""
        rows = self.rows
        values = sum(self.counts.values()) * self.n_recorded * self.itemsize * self.n_columns
        return {
            "scalars": rows["scalars"] * (SCALAR_ROW_BYTES + LOGGED_BYTES * self.n_logged),
            "stats": rows["stats"] * STATS_ROW_BYTES,
            "tensors": values + values // 2**20 * GROUP_BYTES // self.itemsize + rows["tensors"] * KEY_BYTES,
            "probes": self.n_probed * sum(plan.held_bytes(self.itemsize) for plan in self.probes)
            + rows["probes"] * KEY_BYTES,
            "probe_products": self.n_probed * sum(plan.product_bytes for plan in self.probes if plan.sketch)
            + rows["probe_products"] * KEY_BYTES,
        }

    @property
    def beside(self) -> int:
        """Bytes of run.json, the manifest and the parts' footers."""
        return RUN_BYTES + PARAMETER_BYTES * self.n_parameters

    @property
    def total(self) -> int:
        """Bytes of the whole folder."""
        return self.beside + sum(self.bytes.values())

    @property
    def tables(self) -> list[TableSize]:
        """The tables that the run will have."""
        return [TableSize(table, rows, self.bytes[table]) for table, rows in self.rows.items() if rows]
