"""Arrow arrays from NumPy's, without a copy and without pandas.

``pa.array`` imports pandas at its first call: about a second, in the middle of somebody's training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

__all__ = ["NUMPY_TYPES", "dictionary_array", "number_array"]

NUMPY_TYPES = {
    pa.bool_(): np.bool_,
    pa.int32(): np.int32,
    pa.int64(): np.int64,
    pa.float32(): np.float32,
    pa.float64(): np.float64,
}


def number_array(values: NDArray[Any], *, null: NDArray[np.bool_] | None = None) -> pa.Array:
    """Numbers or booleans; ``null`` masks those that are missing."""
    data = np.packbits(values, bitorder="little") if values.dtype == bool else np.ascontiguousarray(values)
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [_validity(null), pa.py_buffer(data)])


def dictionary_array(dictionary_type: pa.DictionaryType, codes: NDArray[np.int32], words: Sequence[str]) -> pa.Array:
    """The words that the codes stand for."""
    encoded = [word.encode() for word in words]
    bounds = np.cumsum([0, *map(len, encoded)]).astype(np.int32)
    dictionary = pa.StringArray.from_buffers(len(words), pa.py_buffer(bounds), pa.py_buffer(b"".join(encoded)))
    return pa.DictionaryArray.from_buffers(dictionary_type, len(codes), [None, pa.py_buffer(codes)], dictionary)


def _validity(null: NDArray[np.bool_] | None) -> pa.Buffer | None:
    return pa.py_buffer(np.packbits(~null, bitorder="little")) if null is not None and null.any() else None
