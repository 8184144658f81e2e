"""Does the model know when it is right? The score of the surest answers, by how many of them are kept.

An answer is as sure as its tokens are likely on average: the geometric mean of their probabilities, so that a long
answer is not unsure by its length alone. Rows whose log-probabilities nobody told have no place here.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmtune.metrics import Metric, Stats
from vlmtune.predictions import Line
from vlmtune.scoring.judgement import Terms
from vlmtune.scoring.resampling import FEWEST_GROUPS, Resamples, by_group, judge
from vlmtune.scoring.score import measure, summary

POINTS = 50
"""Shares of the rows at which the curve is given."""


def sureness(line: Line) -> float | None:
    """Geometric mean of the probabilities of an answer's tokens, its end included; None where they are not known."""
    return math.exp(sum(line.token_logprobs) / len(line.token_logprobs)) if line.token_logprobs else None


def curve(lines: Sequence[Line], groups: Sequence[str], metric: Metric, terms: Terms) -> dict[str, Any] | None:
    """Score of the surest rows over the share of rows that is kept; None where an answer tells no probabilities.

    Args:
        lines: answered rows [N].
        groups: what each is resampled with [N].
        metric: whose score; for a corpus metric it is that of the kept rows together.
        terms: how answers are read and differences judged.

    Returns:
        "points": [{"coverage", "score", "sureness"}], the last one being all rows; "half" and "all": the score of the
        surest half and of all rows; "gain" and "ci": their difference and its interval (None where fewer than 20 groups
        are in the half); "area": the mean score over all shares, from one row to all. Of equally sure rows at an edge
        each counts in part.
    """
    sure = [sureness(line) for line in lines]
    known = np.array([value for value in sure if value is not None])
    if not len(lines) or len(known) < len(lines):
        return None
    stats = measure(metric, lines, terms.task, terms.config)
    order = np.argsort(-known, kind="stable")
    scores = np.asarray(metric.summarise(np.cumsum(_levelled(stats[order], known[order]), axis=0)), dtype=np.float64)
    count = len(lines)
    kept = sorted({math.ceil(count * n / POINTS) for n in range(1, POINTS + 1)})
    half = math.ceil(count / 2)
    first = _share_of_half(known, half)
    found = None
    if len({group for group, share in zip(groups, first[:, 0], strict=True) if share > 0}) >= FEWEST_GROUPS:
        sides = [by_group(part, groups) for part in (stats, stats * first)]
        every, surest = Resamples(len(sides[0]), terms.statistics.resamples, terms.statistics.seed).bootstrap(sides)
        gains = metric.summarise(surest) - metric.summarise(every)
        found = judge(gains, None, float(scores[half - 1] - scores[-1]), terms.statistics.confidence)
    return {
        "points": [
            {"coverage": n / count, "score": float(scores[n - 1]), "sureness": float(known[order[n - 1]])} for n in kept
        ],
        "half": float(scores[half - 1]),
        "all": summary(metric, stats),
        "gain": float(scores[half - 1] - scores[-1]),
        "ci": [found.low, found.high] if found else None,
        "area": float(scores.mean()),
    }


def _levelled(stats: Stats, sure: NDArray[np.float64]) -> Stats:
    """Statistics [N, K] with those of equally sure rows, which stand together, replaced by their mean: what is kept of
    them must not depend on the order of the file.
    """
    starts = np.flatnonzero(np.r_[True, sure[1:] != sure[:-1]])
    sizes = np.diff(np.r_[starts, len(sure)])
    levelled: Stats = np.repeat(np.add.reduceat(stats, starts, axis=0) / sizes[:, None], sizes, axis=0)
    return levelled


def _share_of_half(sure: NDArray[np.float64], half: int) -> NDArray[np.float64]:
    """How much of each row [N, 1] belongs to the surest half: 1, 0, or a share of those that are alike at its end."""
    cut = np.sort(sure)[::-1][half - 1]
    above, alike = sure > cut, sure == cut
    return np.where(above, 1.0, np.where(alike, (half - above.sum()) / alike.sum(), 0.0))[:, None]
