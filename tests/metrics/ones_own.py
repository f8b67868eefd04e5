"""A metric of one's own, for the tests."""

from functools import reduce

import numpy as np
import pandas as pd

from trajectory_tools.metrics import Metric


class Mean(Metric):
    """The mean of all updates of each span."""

    name = "mean"
    columns = ("update",)

    def prepare(self, run):
        return None

    def update(self, context, chunk):
        assert all(a.dtype == np.float64 for a in chunk.update.values())
        return [float(a.mean()) for a in chunk.update.values()]

    def combine(self, left, right):
        return left + right

    def finish(self, context, state):
        return pd.DataFrame({"step": 0, "value": [reduce(float.__add__, state) / len(state)]})
