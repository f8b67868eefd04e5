"""The data sets, from every folder layout that people have."""

import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trajectory_tools.data import load_digits, load_images
from trajectory_tools.data.images import FIRST_TEST_LABELS, read_idx
from trajectory_tools.errors import BadArgument, MissingData, UnknownName

MNIST_10K = Path(__file__).parents[3] / "shared" / "data" / "mnist"


def idx_bytes(array):
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def write_split(folder, split, n_images, *, gz=False, first_labels=()):
    """Images whose pixels and labels can be told from their index: pixel (r, c) of image i is 10 i + 2 r + c."""
    images = np.arange(n_images)[:, None, None] * 10 + np.arange(6).reshape(3, 2)
    labels = np.arange(n_images) % 10
    labels[: len(first_labels)] = first_labels
    folder.mkdir(parents=True, exist_ok=True)
    for stem, array in ((f"{split}-images-idx3-ubyte", images), (f"{split}-labels-idx1-ubyte", labels)):
        raw = idx_bytes(array)
        (folder / (stem + ".gz" * gz)).write_bytes(gzip.compress(raw) if gz else raw)


def test_digits_are_scikit_learns_split_in_order():
    from sklearn.datasets import load_digits as reference

    pixels, labels = reference(return_X_y=True)
    data = load_digits()
    assert (data.train_inputs.shape, data.test_inputs.shape) == ((1437, 64), (360, 64))
    assert data.train_inputs.dtype == np.float32
    assert data.train_labels.dtype == np.int64
    np.testing.assert_array_equal(np.concatenate([data.train_inputs, data.test_inputs]) * 16, pixels)
    np.testing.assert_array_equal(np.concatenate([data.train_labels, data.test_labels]), labels)
    assert data.description == "digits (scikit-learn), 1,437/360"


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("layout", ["MNIST/raw", "raw", "."])
def test_both_splits_from_each_layout(tmp_path, layout, gz):
    write_split(tmp_path / layout, "train", 12, gz=gz)
    write_split(tmp_path / layout, "t10k", 5, gz=gz)
    data = load_images("MNIST", tmp_path)
    assert data.description == "MNIST, 12/5"
    expected = (np.arange(12)[:, None] * 10 + np.arange(6)).astype(np.float32) / 255
    np.testing.assert_array_equal(data.train_inputs, expected)
    np.testing.assert_array_equal(data.test_inputs, expected[:5])
    np.testing.assert_array_equal(data.train_labels, np.arange(12) % 10)
    assert (data.train_inputs.dtype, data.train_labels.dtype) == (np.float32, np.int64)


def test_t10k_alone_is_split_four_to_one(tmp_path):
    write_split(tmp_path, "t10k", 10)
    data = load_images("FashionMNIST", tmp_path)
    assert data.description == "Fashion-MNIST-10k, 8/2"
    np.testing.assert_array_equal(data.train_labels, np.arange(8))
    np.testing.assert_array_equal(data.test_labels, [8, 9])
    assert data.test_inputs[0, 0] == np.float32(80) / 255


def test_torchvisions_layout_goes_first_and_data_sets_stay_apart(tmp_path):
    write_split(tmp_path / "MNIST/raw", "t10k", 10)
    write_split(tmp_path / "FashionMNIST/raw", "t10k", 20)
    assert load_images("MNIST", tmp_path).description == "MNIST-10k, 8/2"
    assert load_images("FashionMNIST", tmp_path).description == "Fashion-MNIST-10k, 16/4"


@pytest.mark.parametrize(("asked", "there"), [("MNIST", "FashionMNIST"), ("FashionMNIST", "MNIST")])
def test_the_other_data_set_is_refused(tmp_path, asked, there):
    write_split(tmp_path, "t10k", 20, first_labels=FIRST_TEST_LABELS[there])
    with pytest.raises(BadArgument, match=f"holds {there}, not {asked}"):
        load_images(asked, tmp_path)


def test_mnist_10k():
    if not MNIST_10K.is_dir():
        pytest.skip("../shared/data/mnist is not here")
    data = load_images("MNIST", MNIST_10K)
    assert data.description == "MNIST-10k, 8,000/2,000"
    assert (data.train_inputs.shape, data.test_inputs.shape) == ((8000, 784), (2000, 784))
    assert data.train_labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert (data.train_inputs.min(), data.train_inputs.max()) == (0, 1)
    assert 0.12 < data.train_inputs.mean() < 0.15  # MNIST's mean pixel is 0.13
    with pytest.raises(BadArgument, match="holds MNIST, not FashionMNIST"):
        load_images("FashionMNIST", MNIST_10K)


def test_missing_data_says_where_it_looked_and_what_to_do(tmp_path):
    with pytest.raises(MissingData, match=r"no MNIST in .*nowhere: looked for t10k.*--data-dir DIR.*--download"):
        load_images("MNIST", tmp_path / "nowhere")


@pytest.mark.parametrize("gone", ["train-labels-idx1-ubyte", "train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_half_of_a_split_is_named(tmp_path, gone):
    write_split(tmp_path, "train", 12)
    write_split(tmp_path, "t10k", 5)
    (tmp_path / gone).unlink()
    with pytest.raises(MissingData, match=gone):
        load_images("MNIST", tmp_path)


def test_unknown_data_set(tmp_path):
    with pytest.raises(UnknownName, match="did you mean MNIST"):
        load_images("MINST", tmp_path)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\0\0\x08",
        b"<html>not found</html>",
        idx_bytes(np.zeros((2, 3, 2)))[:-1],  # truncated
        idx_bytes(np.zeros((2, 3, 2))) + b"\0",
        b"\0\0\x08\x03" + b"\xff" * 12,  # promises 2^96 bytes
        b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0",  # floats
        b"\0\0\x08\xff" + b"\0" * 8,  # rank 255
    ],
)
@pytest.mark.parametrize("gz", [False, True])
def test_damaged_files_are_refused_by_name(tmp_path, raw, gz):
    path = tmp_path / ("file.gz" if gz else "file")
    path.write_bytes(gzip.compress(raw) if gz else raw)
    with pytest.raises(BadArgument, match=r"file.* is no whole IDX file.*fetch it again"):
        read_idx(path)


def test_damaged_gzip_is_refused(tmp_path):
    whole = gzip.compress(idx_bytes(np.arange(6).reshape(1, 3, 2)))
    for index, raw in enumerate((whole[:-4], whole[:12], b"nonsense", whole[:14] + b"\xff\xff" + whole[16:])):
        path = tmp_path / f"{index}.gz"
        path.write_bytes(raw)
        with pytest.raises(BadArgument, match="no whole IDX file"):
            read_idx(path)


def test_files_that_do_not_fit_each_other(tmp_path):
    write_split(tmp_path, "t10k", 5)
    labels = tmp_path / "t10k-labels-idx1-ubyte"
    labels.write_bytes(idx_bytes(np.arange(4)))
    with pytest.raises(BadArgument, match=r"shape \(5, 3, 2\) and labels of shape \(4,\)"):
        load_images("MNIST", tmp_path)
    labels.write_bytes(idx_bytes(np.full(5, 10)))
    with pytest.raises(BadArgument, match="up to 10"):
        load_images("MNIST", tmp_path)
    labels.write_bytes(idx_bytes(np.arange(5)))
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx_bytes(np.zeros((2, 4, 4))))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(2)))
    with pytest.raises(BadArgument, match="16 pixels and test images of 6"):
        load_images("MNIST", tmp_path)


def test_download_leaves_what_is_there_and_says_when_it_cannot(tmp_path):
    write_split(tmp_path, "t10k", 10)
    assert load_images("MNIST", tmp_path, download=True).description == "MNIST-10k, 8/2"
    blocked = tmp_path / "t10k-labels-idx1-ubyte" / "a folder cannot be here"
    with pytest.raises(MissingData, match=r"cannot download MNIST.*--data-dir DIR"):
        load_images("MNIST", blocked, download=True)


def test_loading_needs_no_torch():
    code = "import sys, trajectory_tools.data as d; d.load_digits(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
