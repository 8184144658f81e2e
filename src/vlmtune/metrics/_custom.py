"""The functions of a metric that is the mean of a user's function over the rows."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmtune.errors import ConfigError


def by_row(
    name: str, function: Callable[[Any, Any], float], answers: Sequence[Any], truths: Sequence[Any]
) -> NDArray[np.float64]:
    """Statistics [N, 2] of a user's function: its number for each row, and 1; 0 for an answer that cannot be read.

    Raises:
        ConfigError: the function returns something else than a finite number.
    """
    rows = np.ones((len(answers), 2))
    for n, (answer, truth) in enumerate(zip(answers, truths, strict=True)):
        value = 0.0 if answer is None else function(answer, truth)
        if not isinstance(value, int | float | np.number) or not math.isfinite(value):
            raise ConfigError(
                f"metric {name!r} must return a finite number (got {value!r:.80} for the answer {answer!r:.80})"
            )
        rows[n, 0] = value
    return rows


def mean(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """The first statistic divided by the second."""
    return np.asarray(sums[..., 0] / np.maximum(sums[..., 1], 1))
