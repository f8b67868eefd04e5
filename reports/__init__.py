"""The report: one HTML file of figures, their data and where they come from. Never imports torch."""

from trajectory_tools.reports.figure import Figure
from trajectory_tools.reports.report import write_report

__all__ = ["Figure", "write_report"]
