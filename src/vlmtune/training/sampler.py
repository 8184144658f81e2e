"""Which examples share an optimizer step: a pure function of the rows and the seed, never of memory or workers."""

import hashlib
import random
from array import array
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

from vlmtune.data import Rows


@dataclass(frozen=True, slots=True)
class Visit:
    """One example met once: row, which of its targets, in which epoch."""

    row: int
    choice: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Plan(Sequence[list[Visit]]):
    """Every optimizer step's global batch, made when it is asked for; twelve bytes a visit are kept.

    `rows`, `choices` and `epochs` are those of all visits in their order, `ends` the visits up to the end of each step.
    """

    rows: "array[int]"
    choices: "array[int]"
    epochs: "array[int]"
    ends: "array[int]"

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> list[Visit]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[Visit]]: ...
    def __getitem__(self, index: int | slice) -> list[Visit] | list[list[Visit]]:
        if isinstance(index, slice):
            return [self[n] for n in range(*index.indices(len(self)))]
        step = range(len(self))[index]
        place = slice(self.ends[step - 1] if step else 0, self.ends[step])
        return list(map(Visit, self.rows[place], self.choices[place], self.epochs[place]))


def plan(rows: Rows, target: str | None, epochs: int, batch_size: int, seed: int) -> Plan:
    """The global batches of all epochs.

    Rows are shuffled by (seed, epoch). With `target` "each" a row is met once per reference, all in one batch, where
    they share its pictures; with "sample" once per epoch with a reference chosen by (seed, epoch, row). Batch k ends
    with the row in which visit k * `batch_size` lies: sizes differ by less than a row, their number is the usual one.
    """
    made = Plan(array("i"), array("i"), array("i"), array("q"))
    for epoch in range(epochs):
        order = array("i", range(len(rows)))
        random.Random(f"{seed}/{epoch}").shuffle(order)
        met, batches = 0, 1
        for row in order:
            if met >= batches * batch_size:
                made.ends.append(len(made.rows))
                batches += 1
            choices = rows.target_count(row)
            chosen = range(choices) if target == "each" else [_draw(choices, seed, epoch, row)]
            made.rows.extend([row] * len(chosen))
            made.choices.extend(chosen)
            made.epochs.extend([epoch] * len(chosen))
            met += len(chosen)
        made.ends.append(len(made.rows))
    return made


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
