"""Memory that is used again."""

import weakref

import numpy as np
import pytest

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


@pytest.mark.parametrize("lengths", [[6, 2, 2, 2], [64, 16, 1]])
def test_lengths_that_alternate_need_no_more_memory_than_one_of_each(lengths):
    buffers = Buffers()
    handed_out = {}  # kept, so that no address is used again
    for length in lengths * 5:
        values, give_back = buffers.take(length, "float32")
        handed_out[id(values)] = values
        give_back()
    assert sorted(values.size for values in handed_out.values()) == sorted(set(lengths))


def test_memory_of_the_length_that_was_not_asked_for_longest_is_let_go():
    buffers = Buffers()
    kept = {length: buffers.take(length, "float32") for length in (2, 4, 6, 8)}
    gone = weakref.ref(kept[2][0])
    for _, give_back in kept.values():  # the first as late as a writer may
        give_back()
    first = {length: values for length, (values, _) in kept.items()}
    del kept, give_back, _
    assert buffers.take(4, "float32")[0] is first[4]
    assert buffers.take(6, "float32")[0] is first[6]
    assert buffers.take(8, "float32")[0] is first[8]
    del first
    assert gone() is None
