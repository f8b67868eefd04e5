"""The data sets that the built-in problems train on, as NumPy arrays; importing this loads no torch."""

from trajectory_tools.data.digits import load_digits
from trajectory_tools.data.images import ImageData, load_images

__all__ = ["ImageData", "load_digits", "load_images"]
