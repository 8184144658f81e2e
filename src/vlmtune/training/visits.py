"""Which examples share an optimizer step: a pure function of the rows and the seed, never of memory or workers."""

import hashlib
import random
from collections import defaultdict
from collections.abc import Sequence
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

    Rows are shuffled by (seed, epoch). With `target` "each" a row is met once per reference, all in one batch, where
    they share its pictures; with "sample" once per epoch with a reference chosen by (seed, epoch, row). Batch k ends
    with the row in which visit k * `batch_size` lies: sizes differ by less than a row, their number is the usual one.
    """
    steps: list[list[Visit]] = []
    for epoch in range(epochs):
        if target == "each":
            groups = [[Visit(row, n, epoch) for n in range(rows.choices(row))] for row in range(len(rows))]
        else:
            groups = [[Visit(row, _draw(rows.choices(row), seed, epoch, row), epoch)] for row in range(len(rows))]
        random.Random(f"{seed}/{epoch}").shuffle(groups)
        steps += _batches(groups, batch_size)
    return steps


def _batches(groups: Sequence[Sequence[Visit]], size: int) -> list[list[Visit]]:
    batches: list[list[Visit]] = [[]]
    met = 0
    for group in groups:
        if met >= len(batches) * size:
            batches.append([])
        batches[-1] += group
        met += len(group)
    return batches


def _draw(choices: int, seed: int, epoch: int, row: int) -> int:
    if choices == 1:
        return 0
    return int.from_bytes(hashlib.sha256(f"{seed}/{epoch}/{row}".encode()).digest()[:8], "big") % choices


def part_of(visits: Sequence[Visit], tokens: Sequence[int], rank: int, world: int) -> list[int]:
    """Numbers of the visits of a batch that one of `world` ranks works on; together they are all, each once.

    Visits of one row share its pictures and stay together; the longest go first, each to the rank with the least work.
    """
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for number, visit in enumerate(visits):
        groups[visit.row].append(number)
    sizes = {row: sum(tokens[number] for number in numbers) for row, numbers in groups.items()}
    load = [0] * world
    mine: list[int] = []
    for row in sorted(groups, key=lambda row: (-sizes[row], row)):
        least = min(range(world), key=lambda n: (load[n], n))
        load[least] += sizes[row]
        if least == rank:
            mine += groups[row]
    return sorted(mine)
