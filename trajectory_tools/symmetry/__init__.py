"""Symmetries of a network as data: which parameters move together without changing the loss."""

from trajectory_tools.symmetry.groups import SymmetryGroup, rescale, scale, translation

__all__ = ["SymmetryGroup", "rescale", "scale", "translation"]
