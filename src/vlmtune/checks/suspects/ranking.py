"""Training rows whose label is probably wrong, found by how hard they were to learn.

A run writes every row's loss each time it was met (`visits.jsonl` in the adapter's folder). Losses fall while a model
learns, so a row is compared with those that were met around the same time: what stays far above its neighbours in every
epoch contradicts what the others teach. (The idea is that of small-loss and area-under-the-margin methods.)
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmtune.errors import DataError
from vlmtune.files import read_whole_lines

NEIGHBOURS = 200
"""Visits around one that it is compared with."""

TO_SIGMA = 1.4826
"""Median absolute deviation to standard deviation, for normally distributed values."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """A target that was hard to learn: `score` is how many standard deviations above its neighbours, on average."""

    id: str
    choice: int
    score: float
    losses: tuple[float, ...]


def suspects(visits: Sequence[Mapping[str, Any]], count: int) -> list[Suspect]:
    """The `count` most suspicious targets, worst first; of one row each of its targets by itself.

    Args:
        visits: {"id", "choice", "loss"} in the order of training; loss per supervised token.
        count: how many.
    """
    losses = np.array([visit["loss"] for visit in visits], np.float64)
    above = _above(losses)
    found: dict[tuple[str, int], list[int]] = {}
    for n, visit in enumerate(visits):
        found.setdefault((visit["id"], visit["choice"]), []).append(n)
    ranked = [
        Suspect(name, choice, float(above[numbers].mean()), tuple(losses[numbers].tolist()))
        for (name, choice), numbers in found.items()
    ]
    return sorted(ranked, key=lambda one: (-one.score, one.id, one.choice))[:count]


def _above(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far each loss [N] lies above the median of its neighbours, in their robust standard deviations."""
    count = len(losses)
    width = min(NEIGHBOURS, count)
    starts = np.clip(np.arange(count) - width // 2, 0, count - width)
    windows = np.lib.stride_tricks.sliding_window_view(losses, width)
    middles = np.median(windows, axis=1)
    spreads = np.median(np.abs(windows - middles[:, None]), axis=1) * TO_SIGMA
    above: NDArray[np.float64] = (losses - middles[starts]) / np.maximum(spreads[starts], 1e-12)
    return above


def read_visits(adapter: Path) -> list[dict[str, Any]]:
    """What a training noted of each row.

    Raises:
        DataError: there is nothing of the kind in the adapter's folder.
    """
    file = adapter / "visits.jsonl"
    if not file.is_file():
        raise DataError(f"{file} is not there: an adapter that `vlmtune train` made has it; name its folder")
    visits = [json.loads(line) for line in read_whole_lines(file)]
    if not visits:
        raise DataError(f"{file} is empty")
    return visits
