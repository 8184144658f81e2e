"""Sides about which nothing can be concluded, whatever they score: every answer cut off, empty or unreadable.

That no score differs is another reason, which `estimation` finds in the scores.
"""

from collections.abc import Sequence

from vlmtune.predictions import Line
from vlmtune.scoring.pairing import Rows
from vlmtune.scoring.results import Sides


def degenerate_sides(rows: Rows, names: Sides[str]) -> list[str]:
    """Why nothing can be concluded from these answers; empty where something can.

    Args:
        rows: the compared rows; none are no reason.
        names: of the sides, for the messages.
    """
    if not len(rows):
        return []
    fates = [[_fate(lines) for lines in side] for side in (rows.a, rows.b)]
    every = {fate for side in fates for fate in side}
    if len(every) == 1:
        return [fate.format("both sides") for fate in every if fate]
    reasons = []
    for side, name in zip(fates, (names["a"], names["b"]), strict=True):
        for fate in dict.fromkeys(filter(None, side)):
            files = f"{side.count(fate)} of the {len(side)} files of {name}"
            reasons.append(fate.format(name if side.count(fate) == len(side) else files))
    return reasons


def _fate(lines: Sequence[Line]) -> str | None:
    """What happened to every answer of a file, {} being whose they are; None where they had different fates."""
    if all(line.finish_reason == "length" for line in lines):
        return "every answer of {} was cut off at the length limit; raise inference.max_new_tokens"
    if all(not (line.prediction or "").strip() for line in lines):
        return "every answer of {} is empty"
    if all(line.answer is None for line in lines):
        return "no answer of {} can be read by the task"
    return None
