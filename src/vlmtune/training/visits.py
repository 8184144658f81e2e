"""Which examples share an optimizer step: a pure function of the rows and the seed, never of memory or workers."""

import hashlib
import random
from dataclasses import dataclass

from vlmtune.data import Rows


@dataclass(frozen=True, slots=True)
class Visit:
    """One example met once: row, which of its targets, in which epoch."""

    row: int
    choice: int
    epoch: int


def plan(rows: Rows, target: str | None, epochs: int, batch_size: int, seed: int) -> list[list[Visit]]:
    """Every optimizer step's global batch, for all epochs.

    Rows are shuffled by (seed, epoch). With `target` "each" a row is met once per reference, with "sample" once per
    epoch with a reference chosen by (seed, epoch, row). The last batch of an epoch may be smaller.
    """
    steps: list[list[Visit]] = []
    for epoch in range(epochs):
        if target == "each":
            visits = [Visit(row, n, epoch) for row in range(len(rows)) for n in range(rows.choices(row))]
        else:
            visits = [Visit(row, _draw(rows.choices(row), seed, epoch, row), epoch) for row in range(len(rows))]
        random.Random(f"{seed}/{epoch}").shuffle(visits)
        steps += [visits[start : start + batch_size] for start in range(0, len(visits), batch_size)]
    return steps


def _draw(choices: int, seed: int, epoch: int, row: int) -> int:
    if choices == 1:
        return 0
    return int.from_bytes(hashlib.sha256(f"{seed}/{epoch}/{row}".encode()).digest()[:8], "big") % choices
