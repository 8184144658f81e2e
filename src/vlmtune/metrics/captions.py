"""What a caption says: the share of the things it had to name."""

import re
from collections.abc import Sequence

import numpy as np

from vlmtune.metrics import Metric, Stats


def _measure(answers: Sequence[str | None], keywords: Sequence[Sequence[str]]) -> Stats:
    """Stats: keywords named, keywords asked for. Alternatives of a keyword are separated by "|"; whole words, any case."""
    rows = []
    for answer, asked in zip(answers, keywords, strict=True):
        words = re.findall(r"\w+", (answer or "").lower())
        said = f" {' '.join(words)} "
        named = sum(any(f" {way.lower()} " in said for way in keyword.split("|")) for keyword in asked)
        rows.append((named, len(asked)))
    return np.array(rows, dtype=np.float64).reshape(-1, 2)


def _share(sums: Stats) -> Stats:
    return sums[..., 0] / np.where(sums[..., 1] > 0, sums[..., 1], 1)


keyword_recall = Metric(
    name="keyword_recall",
    measure=_measure,
    summarise=_share,
    signature="whole words|case:lower|micro",
    truth="keywords",
)
