"""How pages of floats are compressed: any reader takes them, and they are no larger than zstd makes them by itself."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trajectory_tools.store.compression import REACH, compress, repeat
from trajectory_tools.store.list_column import Cut, ListColumn

RNG = np.random.default_rng(0)
STEPS, SIZE = 40, 2000
WEIGHTS = RNG.normal(size=SIZE)

TRAJECTORIES = {
    "noise, as gradients are": RNG.normal(size=(STEPS, SIZE)),
    "parameters that hardly move": WEIGHTS + 1e-4 * RNG.normal(size=(STEPS, SIZE)).cumsum(axis=0),
    "parameters that stand still": np.tile(WEIGHTS, (STEPS, 1)),
    "mostly zeros": RNG.normal(size=(STEPS, SIZE)) * (RNG.random((STEPS, SIZE)) < 0.1),
    "zeros": np.zeros((STEPS, SIZE)),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("what", TRAJECTORIES)
def test_pages_are_at_most_a_percent_larger_than_at_zstds_own_settings(what, dtype):
    cuts = [Cut(step, np.array([SIZE]), np.array([False])) for step in TRAJECTORIES[what].astype(dtype)]
    zstd = pa.Codec("zstd", compression_level=1)
    pages = list(ListColumn(pa.from_numpy_dtype(dtype), cuts).pages(compressed=True))
    assert sum(page.n_levels for page in pages) == STEPS * SIZE
    for page in pages:
        (body,) = page.body
        assert len(body) <= 1.01 * len(zstd.compress(zstd.decompress(body, page.plain_bytes))) + 50


@given(data=st.binary(max_size=3000), times=st.integers(1, 40), matches=st.booleans())
@settings(deadline=None)
def test_what_is_compressed_is_one_frame_that_says_its_size(data, times, matches):
    given = data * times
    assert pa.Codec("zstd").decompress(compress(memoryview(given), matches=matches), len(given)).to_pybytes() == given


def test_which_arrays_repeat_each_other():
    near, far = WEIGHTS.astype(np.float32), -WEIGHTS.astype(np.float32)
    assert repeat([near, near * np.float32(1.0001), far])
    assert not repeat([near, far])
    assert not repeat([near])
    assert not repeat([])
    assert not repeat([near, near[1:]])
    assert not repeat([near[:0], near[:0]])
    assert not repeat([np.ones(REACH + 1), np.ones(REACH + 1)])
