"""How pages of floats are compressed: any reader takes them, and zstd itself would not make them much smaller."""

import numpy as np
import pyarrow as pa
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from trajectory_tools.store.compression import compress, mostly_zero, repeat
from trajectory_tools.store.list_column import ENCODINGS, Cut, ListColumn

RNG = np.random.default_rng(0)

TRAJECTORIES = {
    "noise, as gradients are": lambda w, steps: RNG.normal(size=(steps, w.size)),
    "parameters that hardly move": lambda w, steps: w + 1e-4 * RNG.normal(size=(steps, w.size)).cumsum(axis=0),
    "parameters that stand still": lambda w, steps: np.tile(w, (steps, 1)),
    "mostly zeros": lambda w, steps: RNG.normal(size=(steps, w.size)) * (RNG.random((steps, w.size)) < 0.1),
    "zeros": lambda w, steps: np.zeros((steps, w.size)),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [2_000, 40_000, 150_000])
@pytest.mark.parametrize("what", TRAJECTORIES)
def test_pages_are_at_most_a_percent_larger_than_at_zstds_own_settings(what, size, dtype):
    steps = TRAJECTORIES[what](RNG.normal(size=size), 600_000 // size).astype(dtype)
    cuts = [Cut(step, np.array([size]), np.array([False])) for step in steps]
    zstd = pa.Codec("zstd", compression_level=1)
    pages = list(ListColumn(pa.from_numpy_dtype(dtype), cuts, steps=True).pages(compressed=True))
    assert sum(page.n_levels for page in pages) == steps.size
    for page in pages:
        (body,) = page.body
        assert len(body) <= 1.01 * len(zstd.compress(zstd.decompress(body, page.plain_bytes))) + 50


@given(data=st.binary(max_size=3000), times=st.integers(1, 40), matches=st.booleans())
@settings(deadline=None)
def test_what_is_compressed_is_one_frame_that_says_its_size(data, times, matches):
    given = data * times
    frame = bytes(compress(memoryview(given), matches=matches))
    assert zstandard.frame_content_size(frame) == len(given)
    assert zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False) == given


def test_which_arrays_repeat_each_other():
    near = RNG.normal(size=2000).astype(np.float32)
    assert repeat([near, near * np.float32(1.0001), -near])
    assert not repeat([near, -near])
    assert not repeat([near])
    assert not repeat([])
    assert not repeat([near, near[1:]])
    assert not repeat([near[:0], near[:0]])
    large = np.tile(near, 300)
    assert repeat([large, large])
    assert not repeat([large, -large])


def test_zeros_in_the_same_places_repeat_nothing():
    here = RNG.random(2000) < 0.1
    first, second = (RNG.normal(size=2000).astype(np.float32) * here for _ in range(2))
    assert not repeat([first, second])
    assert repeat([first, first * np.float32(1.0001)])
    assert not repeat([np.zeros(9), np.zeros(9)])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_three_of_five_zeros_are_most(dtype):
    assert mostly_zero([np.array([0, 1, 0, -0.5, 0, 0], dtype)])
    assert not mostly_zero([np.array([0, 1, 0, -0.5, 0], dtype)])
    assert mostly_zero([np.zeros((3, 3), dtype)])
    assert not mostly_zero([np.zeros(9, dtype), np.ones(9, dtype)])  # as where a warm-up begins at a rate of 0
    assert not mostly_zero([np.zeros(0, dtype)])
    assert not mostly_zero([])


@pytest.mark.parametrize("steps", [True, False])
def test_values_that_are_mostly_zero_stay_whole_and_take_less(steps):
    values = np.where(RNG.random((8, 50_000)) < 0.1, RNG.normal(size=(8, 50_000)), 0).astype(np.float32)
    cuts = [Cut(step, np.array([50_000]), np.array([False])) for step in values]
    (page,) = ListColumn(pa.float32(), cuts, steps=steps).pages(compressed=True)
    assert page.encoding == ENCODINGS["PLAIN"]
    split = pa.Codec("zstd", compression_level=1).compress(values.reshape(-1).view(np.uint8).reshape(-1, 4).T.copy())
    assert page.nbytes < split.size
