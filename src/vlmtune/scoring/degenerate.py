"""Sides about which nothing can be concluded: every answer cut off, empty or unreadable, or no score that differs.

Two sides that score 0 on every row have an interval from 0 to 0, which looks like proof of no change and is none.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from vlmtune.metrics import Metric
from vlmtune.predictions import Line
from vlmtune.scoring.metric_comparison import ScoringContext
from vlmtune.scoring.pairing import Rows
from vlmtune.scoring.results import Sides
from vlmtune.scoring.score import read_answers, summary


def degenerate_sides(rows: Rows, metric: Metric, context: ScoringContext, names: Sides[str]) -> list[str]:
    """Why nothing can be concluded from these answers; empty where something can.

    Args:
        rows: the compared rows; none are no reason.
        metric: the primary one.
        context: how answers are read.
        names: of the sides, for the messages.
    """
    if not len(rows):
        return []
    sides = ((names["a"], rows.a), (names["b"], rows.b))
    reasons = [
        reason
        for name, files in sides
        for reason in _same_fate(name, [line for lines in files for line in lines], context)
    ]
    return reasons or list(_no_difference_possible(rows, metric, context))


def _same_fate(name: str, lines: Sequence[Line], context: ScoringContext) -> Iterator[str]:
    """What happened to every answer of a side."""
    if all(line.finish_reason == "length" for line in lines):
        yield f"every answer of {name} was cut off at the length limit; raise inference.max_new_tokens"
    if all(not (line.prediction or "").strip() for line in lines):
        yield f"every answer of {name} is empty"
    elif all(answer is None for answer in read_answers(lines, context.task, context.config)):
        yield f"no answer of {name} can be read by the task"


def _no_difference_possible(rows: Rows, metric: Metric, context: ScoringContext) -> Iterator[str]:
    """Both sides have the same score on every row, and every row has the same."""
    statistics = context.measure(metric, rows.a, rows.b)
    files = (*statistics.a, *statistics.b)
    alone = np.concatenate([np.ravel(metric.summarise(stats)) for stats in files])
    totals = {summary(metric, stats) for stats in files}
    if len(totals) > 1 or np.ptp(alone) > 0:
        return
    score = totals.pop()
    worst, best = (0.0, metric.scale) if metric.higher_is_better else (None, 0.0)
    if score == worst:
        yield f"every answer of both sides scores {score:.4f} in {metric.name}, which therefore cannot show a change"
    elif score == best:
        yield f"every answer of both sides has the best score in {metric.name}, which therefore cannot show a change"
    else:
        yield f"all answers of both sides have the same score in {metric.name}, which therefore cannot show a change"
