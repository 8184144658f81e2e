"""Sides about which nothing can be concluded, whatever they score: every answer cut off, empty or unreadable.

That no score differs is another reason, which `estimation.no_evidence` finds in the scores.
"""

from collections.abc import Iterator, Sequence

from vlmtune.predictions import Line
from vlmtune.scoring.metric_comparison import ScoringContext
from vlmtune.scoring.pairing import Rows
from vlmtune.scoring.results import Sides
from vlmtune.scoring.score import read_answers


def degenerate_sides(rows: Rows, context: ScoringContext, names: Sides[str]) -> list[str]:
    """Why nothing can be concluded from these answers; empty where something can.

    Args:
        rows: the compared rows; none are no reason.
        context: how answers are read.
        names: of the sides, for the messages.
    """
    if not len(rows):
        return []
    sides = ((names["a"], rows.a), (names["b"], rows.b))
    return [
        reason
        for name, files in sides
        for reason in _same_fate(name, [line for lines in files for line in lines], context)
    ]


def _same_fate(name: str, lines: Sequence[Line], context: ScoringContext) -> Iterator[str]:
    """What happened to every answer of a side."""
    if all(line.finish_reason == "length" for line in lines):
        yield f"every answer of {name} was cut off at the length limit; raise inference.max_new_tokens"
    if all(not (line.prediction or "").strip() for line in lines):
        yield f"every answer of {name} is empty"
    elif all(answer is None for answer in read_answers(lines, context.task, context.config)):
        yield f"no answer of {name} can be read by the task"
