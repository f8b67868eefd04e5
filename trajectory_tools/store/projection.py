"""A seeded random projection: k signed sums of a parameter's coordinates, cheap enough for every step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from trajectory_tools.store.hashing import place_hashes, place_key

__all__ = ["BLOCK", "Projection", "Table"]

BLOCK = 2**16
"""A parameter is projected in blocks of at most so many coordinates, which fit a core's cache; k is at most this."""

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Table:
    """What all blocks of one length share: ``order`` puts the coordinates bucket by bucket, ``starts`` is where each
    begins, ``signs`` are ±1."""

    order: NDArray[np.int64]
    starts: NDArray[np.int64]
    signs: NDArray[np.float32]


@dataclass(frozen=True)
class Projection:
    """P of one parameter: y_j = Σ_i s(i) x_i over the coordinates i that fall into bucket j.

    A parameter of at most k elements is not projected. Otherwise its coordinates (flat, C order) are cut into blocks of
    L = min(2¹⁶, the smallest power of 2 that is at least numel); with b = i div L and c = i mod L,

    - ``rank(c)`` is the place of c when 0 ... L−1 are sorted by ``place_hashes(place_key(seed, "order L"), ...)``;
    - bucket j = (r + shift_b) mod k, where r is the greatest with r·L div k ≤ rank(c);
    - ``s(i)`` = sign(c) · σ_b, where sign is −1 where the lowest bit of the hash of "sign L" is 1;
    - the hash of block b, of the stream of the parameter's name, gives shift_b (its bits above the lowest 32, mod k)
      and σ_b (−1 where its lowest bit is 1).

    Two coordinates share a bucket with probability at most 1/k (+ 2⁻³², from mod), and signs are pairwise independent:
    E⟨Px, Py⟩ = ⟨x, y⟩ exactly, and the standard deviation is about √((‖x‖²‖y‖² + ⟨x,y⟩²) / k), for ‖x‖² √(2/k) ‖x‖²:
    9 % for k = 256 (as count sketches and feature hashing: Charikar et al. 2002, Weinberger et al. 2009, appendix A).
    """

    seed: int
    name: str
    numel: int
    dims: int

    @cached_property
    def block(self) -> int:
        """L."""
        return min(BLOCK, 1 << (self.numel - 1).bit_length())

    @cached_property
    def table(self) -> Table:
        """What its blocks share."""
        return _table(self.seed, self.block, self.dims)

    @cached_property
    def _blocks(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        hashes = place_hashes(place_key(self.seed, self.name), 0, -(-self.numel // self.block))
        shifts = (hashes >> np.uint64(32)) % np.uint64(self.dims)
        return shifts.astype(np.int64), np.where(hashes & np.uint64(1), -1.0, 1.0)

    @property
    def shifts(self) -> NDArray[np.int64]:
        """shift_b of each block."""
        return self._blocks[0]

    @property
    def block_signs(self) -> NDArray[np.float64]:
        """σ_b of each block."""
        return self._blocks[1]

    @property
    def projects(self) -> bool:
        """Whether the parameter is larger than its projection would be."""
        return self.numel > self.dims

    @property
    def count(self) -> int:
        """Number of values that stand for the parameter."""
        return min(self.numel, self.dims)

    def sums(self, values: Floats, block: int) -> NDArray[np.float64]:
        """What block ``block``, with these values, contributes to y: (k,)."""
        table = self.table
        signed = np.zeros(self.block, values.dtype)
        np.multiply(values, table.signs[: len(values)], out=signed[: len(values)])
        sums = np.add.reduceat(signed.take(table.order), table.starts) * self.block_signs[block]
        return np.roll(sums, self.shifts[block])

    def apply(self, vector: Floats) -> NDArray[np.float64]:
        """P x of a whole parameter, given flat or in its shape: (min(k, numel),) float64."""
        flat = np.asarray(vector, np.float64).ravel()
        if not self.projects:
            return flat.copy()
        blocks = range(len(self.shifts))
        return np.sum([self.sums(flat[b * self.block : (b + 1) * self.block], b) for b in blocks], axis=0)


@lru_cache(maxsize=64)
def _table(seed: int, length: int, dims: int) -> Table:
    order = np.argsort(place_hashes(place_key(seed, f"order {length}"), 0, length), kind="stable")
    negative = place_hashes(place_key(seed, f"sign {length}"), 0, length) & np.uint64(1)
    signs = np.where(negative, -1, 1).astype(np.float32)
    return Table(order, np.arange(dims, dtype=np.int64) * length // dims, signs)
