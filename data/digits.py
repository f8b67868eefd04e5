"""Scikit-learn's handwritten digits: real data that needs no download."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from trajectory_tools.data.images import ImageData

__all__ = ["N_TRAIN", "load_digits"]

N_TRAIN = 1437
"""Images to train on: the first four fifths of 1,797.

The split is fixed and in the data's own order, in which writers follow one another, so that the 360 test images are
mostly by other hands than the training images. Everything that trains (recording and tuning alike) uses the first part.
"""


def load_digits() -> ImageData:
    """The 1,797 digits of 8×8 pixels (UCI's optdigits test set): 1,437 to train on, 360 to test on.

    Inputs: (images, 64) float32, pixels 0-16 divided by 16. Labels: (images,) int64, 0-9.
    """
    pixels, labels = _table()
    inputs = (pixels / 16).astype(np.float32)
    return ImageData(
        train_inputs=inputs[:N_TRAIN],
        train_labels=labels[:N_TRAIN],
        test_inputs=inputs[N_TRAIN:],
        test_labels=labels[N_TRAIN:],
        description="digits (scikit-learn), 1,437/360",
    )


def _table() -> tuple[np.ndarray, np.ndarray]:
    """Pixels and labels, from scikit-learn's file where it lies as always: importing scikit-learn takes 3 s."""
    package = find_spec("sklearn")
    path = Path(package.origin or "").parent / "datasets/data/digits.csv.gz" if package else Path()
    if path.is_file():
        rows = np.loadtxt(path, delimiter=",")
        return rows[:, :-1], rows[:, -1].astype(np.int64)
    from sklearn.datasets import load_digits as load

    pixels, labels = load(return_X_y=True)
    return pixels, labels.astype(np.int64)
