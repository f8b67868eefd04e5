"""One colour and one line style for each label, the same in every figure of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trajectory_tools.metrics.labels import told_apart
from trajectory_tools.run import Run

__all__ = ["GRID", "INK", "MUTED", "SURFACE", "THEME", "RunStyle"]

# Figures are drawn in stand-in colours, which are exchanged in the finished SVG: for CSS variables in the page, which
# follow its light and dark mode, and for the light ones in the file to download, which must stand alone.
INK, MUTED, GRID, SURFACE = "#010101", "#020202", "#030303", "#040404"

# Okabe and Ito's colours for the colour-blind, darkened or lightened until each has a contrast of 3 to its background.
_SERIES = (
    ("#0072b2", "#4fa8e8"),  # blue
    ("#d55e00", "#ff8a4c"),  # vermilion
    ("#00875f", "#2fc79b"),  # green
    ("#b0518f", "#e59cc6"),  # purple
    ("#a87400", "#f0b429"),  # orange
    ("#3b434c", "#cdd3da"),  # black or white
    ("#2b8cc4", "#8ad0f5"),  # sky
    ("#7a7700", "#c9c34a"),  # yellow
)
_DASHES = ((), (5, 1.2), (3, 1, 1, 1), (1.4, 0.9))

THEME: dict[str, tuple[str, str, str]] = {
    INK: ("--ink", "#1b1f24", "#e6e9ed"),
    MUTED: ("--muted", "#56606b", "#a3adb8"),
    GRID: ("--grid", "#dde2e7", "#333a43"),
    SURFACE: ("--surface", "#ffffff", "#181b20"),
    **{f"#0500{i:02x}": (f"--series-{i}", light, dark) for i, (light, dark) in enumerate(_SERIES)},
}
"""Stand-in colour → CSS variable, its light value, its dark value."""


@dataclass(frozen=True)
class RunStyle:
    """The labels of a report in their order; the first 8 differ in colour, the first 32 in colour or dashes."""

    labels: tuple[str, ...]

    @classmethod
    def of(cls, runs: Sequence[Run]) -> RunStyle:
        """The labels in the order in which the runs were given."""
        labels = told_apart(runs)
        return cls(tuple(dict.fromkeys(labels[run.name] for run in runs)))

    def color(self, label: str) -> str:
        """The stand-in colour of the label's curves."""
        return f"#0500{self.labels.index(label) % len(_SERIES):02x}"

    def variable(self, label: str) -> str:
        """The CSS variable that holds the colour."""
        return THEME[self.color(label)][0]

    def dashes(self, label: str) -> tuple[float, ...]:
        """Lengths of dashes and gaps in line widths; empty for a solid line."""
        position = self.labels.index(label)
        return _DASHES[(position + position // len(_SERIES)) % len(_DASHES)]
