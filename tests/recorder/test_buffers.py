"""Memory that is used again."""

import numpy as np

from trajectory_tools.recorder.buffers import Buffers


def test_memory_of_another_length_is_never_handed_out():
    buffers = Buffers()
    long, give_long = buffers.take(6, "float32")
    short, give_short = buffers.take(2, "float32")
    give_long()
    give_short()
    again, give_again = buffers.take(2, "float32")
    assert again is short
    other, _ = buffers.take(2, "float32")
    assert other.size == 2
    assert other is not long
    give_again()
    wide, _ = buffers.take(2, "float64")
    assert wide.dtype == np.float64
    assert wide.size == 2
