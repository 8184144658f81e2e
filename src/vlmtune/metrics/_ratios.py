"""Two columns of statistics: what was reached, and out of how much. Means over rows are the case of one per row."""

from collections.abc import Iterable

import numpy as np

from vlmtune.metrics import Stats


def per_row(values: Iterable[float]) -> Stats:
    """Stats [N, 2] of a metric that is the mean of a value per row: the value, and 1."""
    column = np.fromiter(values, dtype=np.float64)
    return np.stack([column, np.ones_like(column)], axis=1)


def ratio(sums: Stats) -> Stats:
    """First column over the second; over 1 where there is nothing to divide by."""
    return sums[..., 0] / np.where(sums[..., 1] > 0, sums[..., 1], 1)
