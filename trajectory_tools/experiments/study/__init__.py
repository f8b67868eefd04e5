"""The study of Sobotka et al. 2023 again, figure by figure: settings, claims, and the numbers to hold against them."""

from trajectory_tools.experiments.study.design import StudyFigure
from trajectory_tools.experiments.study.figures import FIGURES
from trajectory_tools.experiments.study.reproduction import Plan, Reproduction

__all__ = ["FIGURES", "Plan", "Reproduction", "StudyFigure"]
