"""Ratios of two timings taken alternately in one process: the machine's mood hits both."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch


@dataclass(frozen=True)
class Ratio:
    """Median of the pairs' ratios, with the range that half of them lie in."""

    median: float
    low: float
    high: float
    pairs: int

    def __str__(self) -> str:
        return f"{self.median:.2f}x (quartiles {self.low:.2f}-{self.high:.2f}, {self.pairs} pairs)"


def ratio(numerator: Callable[[], float], denominator: Callable[[], float], *, pairs: int = 9) -> Ratio:
    """How many times as long the first takes as the second; each returns seconds. The first pair is a warm-up."""
    found = []
    for i in range(pairs + 1):
        # Which of the two goes first alternates as well.
        if i % 2:
            above, below = numerator(), denominator()
        else:
            below, above = denominator(), numerator()
        if i:
            found.append(above / below)
    found.sort()
    return Ratio(median(found), found[len(found) // 4], found[-1 - len(found) // 4], pairs)


def machine() -> str:
    """What the numbers were measured on."""
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {versions}"


def report(what: str, found: object, target: str) -> None:
    """One line of the result."""
    print(f"{what:<64} {found!s:<50} target: {target}", flush=True)
