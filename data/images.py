"""MNIST and Fashion-MNIST from the folders in which people have them."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from trajectory_tools.errors import BadArgument, MissingData, UnknownName

__all__ = ["DataSet", "ImageData", "load_images", "read_idx"]

DataSet = Literal["MNIST", "FashionMNIST"]

TITLES = {"MNIST": "MNIST", "FashionMNIST": "Fashion-MNIST"}

FIRST_TEST_LABELS = {"MNIST": [7, 2, 1, 0, 4, 1, 4, 9, 5, 9], "FashionMNIST": [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]}
"""Both sets come in files of the same names; these labels tell them apart."""


@dataclass(frozen=True)
class ImageData:
    """Images and labels, split once and for all; ``description`` says which data, how many to train/test on.

    Inputs: (images, pixels) float32 in [0, 1]. Labels: (images,) int64, 0-9.
    """

    train_inputs: np.ndarray
    train_labels: np.ndarray
    test_inputs: np.ndarray
    test_labels: np.ndarray
    description: str


def load_images(name: DataSet, data_dir: str | Path, *, download: bool = False) -> ImageData:
    """MNIST or FashionMNIST: 60,000 to train on and 10,000 to test on, or 8,000/2,000 where only t10k is there.

    ``data_dir`` is torchvision's root (``data_dir/MNIST/raw``), the folder above ``raw``, or the one with the files
    themselves, each plain or with ``.gz``. Where it holds only the t10k split, its first four fifths are the training
    images and the description says "MNIST-10k, 8,000/2,000". ``download`` fetches what is missing with torchvision
    into ``data_dir``. Pixels are divided by 255.

    Raises ``MissingData`` where the files are not found (or not to be downloaded), ``BadArgument`` where one is
    damaged, does not fit the others, or belongs to the other data set.
    """
    if name not in get_args(DataSet):
        raise UnknownName("data set", name, get_args(DataSet))
    root = Path(data_dir).expanduser()
    folder = _folder(name, root)
    if folder is None and download:
        _download(name, root)
        folder = _folder(name, root)
    if folder is None:
        raise MissingData(
            f"no {name} in {root}: looked for t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, plain or .gz, there,"
            f" in raw and in {name}/raw; give the folder that has them with --data-dir DIR, or fetch them with"
            " --download"
        )
    inputs, labels = _pair(folder, "t10k")
    for other, first in FIRST_TEST_LABELS.items():
        if other != name and labels[: len(first)].tolist() == first:
            raise BadArgument(f"{folder} holds {other}, not {name}; give {name}'s folder with --data-dir DIR")
    if _file(folder, "train-images-idx3-ubyte") or _file(folder, "train-labels-idx1-ubyte"):
        train_inputs, train_labels = _pair(folder, "train")
        what = TITLES[name]
        if train_inputs.shape[1] != inputs.shape[1]:
            raise BadArgument(
                f"{folder} has training images of {train_inputs.shape[1]} pixels and test images of {inputs.shape[1]};"
                " the files belong to different data sets"
            )
    else:
        cut = len(inputs) * 4 // 5
        what = f"{TITLES[name]}-10k"
        train_inputs, train_labels = inputs[:cut], labels[:cut]
        inputs, labels = inputs[cut:], labels[cut:]
    description = f"{what}, {len(train_inputs):,}/{len(inputs):,}"
    return ImageData(train_inputs, train_labels, inputs, labels, description)


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array that an IDX file holds (LeCun's format: 0, 0, type 8, rank, sizes as big-endian uint32, bytes).

    Gzip-compressed where the name ends in ``.gz``. Raises ``BadArgument`` for anything else or less.
    """
    advice = f"{path} is no whole IDX file of bytes; fetch it again, or give another folder with --data-dir DIR"
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise BadArgument(f"{advice} ({error})") from error
    rank = raw[3] if raw[:3] == b"\0\0\x08" and len(raw) > 3 else 0
    start = 4 + 4 * rank
    if not rank or len(raw) < start:
        raise BadArgument(f"{advice} (it begins with {raw[:4].hex(' ') or 'nothing'})")
    shape = tuple(int(size) for size in np.frombuffer(raw, ">u4", rank, offset=4))
    if len(raw) != start + int(np.prod(shape, dtype=object)):
        raise BadArgument(f"{advice} (its header promises {shape} bytes, {len(raw) - start:,} follow)")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def _file(folder: Path, stem: str) -> Path | None:
    return next((path for path in (folder / stem, folder / f"{stem}.gz") if path.is_file()), None)


def _folder(name: str, root: Path) -> Path | None:
    """Where the t10k images lie, torchvision's layout first."""
    folders = (root / name / "raw", root / "raw", root)
    return next((folder for folder in folders if _file(folder, "t10k-images-idx3-ubyte")), None)


def _pair(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images as (images, pixels) float32 and their labels as int64."""
    arrays = []
    for stem in (f"{split}-images-idx3-ubyte", f"{split}-labels-idx1-ubyte"):
        path = _file(folder, stem)
        if path is None:
            raise MissingData(f"{folder} has no {stem}, plain or .gz, beside its other half; fetch it as well")
        arrays.append(read_idx(path))
    images, labels = arrays
    if images.ndim != 3 or labels.shape != images.shape[:1] or labels.max(initial=0) > 9:
        raise BadArgument(
            f"{folder} has {split} images of shape {images.shape} and labels of shape {labels.shape} up to"
            f" {labels.max(initial=0)}; they must be (images, rows, columns) and one label from 0 to 9 for each image"
        )
    return images.reshape(len(images), -1).astype(np.float32) / 255, labels.astype(np.int64)


def _download(name: str, root: Path) -> None:
    import torchvision

    try:
        getattr(torchvision.datasets, name)(root, download=True)
    except (OSError, RuntimeError) as error:
        raise MissingData(
            f"cannot download {name} into {root} ({error}); fetch its four .gz files yourself and give their folder"
            " with --data-dir DIR"
        ) from error
