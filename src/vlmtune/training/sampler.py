"""Which examples share an optimizer step: a pure function of the rows and the seed, not of memory or threads."""

import hashlib
import itertools
import math
import random
from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from vlmtune.data import Rows


@dataclass(frozen=True, slots=True)
class Sample:
    """A training example in an epoch: index of the row, index of the target among the row's, and the epoch.

    `step` is the optimizer step that it is part of, from 0; None for one that is only looked at, never augmented.
    """

    row: int
    target: int
    epoch: int
    step: int | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """A further dataset of a mixture: its rows among all, its `target`, and its fraction of all samples."""

    name: str
    rows: range
    target: str | None
    weight: float


@dataclass(frozen=True, slots=True)
class BatchSampler(Sequence[list[Sample]]):
    """The global batch of every optimizer step, built on access; takes twelve bytes of memory per sample.

    `rows`, `targets` and `epochs` hold all samples in order, `ends` the number of samples up to the end of each step:
    for batches of 8, 8 and 3 samples, [8, 16, 19].
    """

    rows: "array[int]"
    targets: "array[int]"
    epochs: "array[int]"
    ends: "array[int]"

    def __len__(self) -> int:
        return len(self.ends)

    def cut(self, steps: int) -> None:
        """Drop the batches after the first `steps`."""
        del self.ends[steps:]
        for samples in (self.rows, self.targets, self.epochs):
            del samples[self.ends[-1] :]

    @overload
    def __getitem__(self, index: int) -> list[Sample]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[Sample]]: ...
    def __getitem__(self, index: int | slice) -> list[Sample] | list[list[Sample]]:
        if isinstance(index, slice):
            return [self[n] for n in range(*index.indices(len(self)))]
        step = range(len(self))[index]
        batch = slice(self.ends[step - 1] if step else 0, self.ends[step])
        samples = zip(self.rows[batch], self.targets[batch], self.epochs[batch], strict=True)
        return [Sample(*sample, step) for sample in samples]


def sample_batches(  # noqa: PLR0913, PLR0917 - what the order of a run depends on
    rows: Rows,
    target: str | None,
    epochs: float | None,
    batch_size: int,
    seed: int,
    shares: Sequence[Share] = (),
    max_steps: int | None = None,
) -> BatchSampler:
    """The global batches of all epochs, or the first `max_steps`.

    Rows are shuffled by (seed, epoch). Batch k, from 1, ends with the row that contains sample k * `batch_size`: batch
    sizes differ by less than one row's samples.

    An epoch is one pass over the rows of the main dataset. Those of a further one are drawn in passes of their own, as
    often as its share requires: after any number of samples, each dataset has its fraction of them up to less than one
    sample (Tijdeman's chairman assignment), or less than two rows' samples where `target` is "each".

    Args:
        rows: of the split; of a mixture, those of the main dataset come first.
        target: "each" takes one sample per target of a row, all in one batch, where they share its images; otherwise
            there is one per pass, its target drawn by (seed, pass, row).
        epochs: passes over the rows of the main dataset; of the last one, a fraction of its batches, rounded up.
        batch_size: samples per batch.
        seed: of shuffling and drawing.
        shares: the further datasets of a mixture.
        max_steps: number of batches, if `epochs` does not say it.
    """
    sampler = BatchSampler(array("i"), array("i"), array("i"), array("q"))
    own_rows, weight = range(shares[0].rows.start if shares else len(rows)), 1 - sum(one.weight for one in shares)
    main = _Draws(own_rows, target, weight, f"{seed}")
    sources = [main, *(_Draws(one.rows, one.target, one.weight, f"{seed}/{one.name}") for one in shares)]
    for epoch in itertools.count():
        before, left_over = len(sampler), math.inf if epochs is None else epochs - epoch
        if left_over <= 0 or before >= (max_steps or math.inf):
            break
        drawn, batches, left = 0, 1, len(own_rows)
        while left:
            source = _most_due(sources) if shares else main
            left -= source is main
            if drawn >= batches * batch_size:
                sampler.ends.append(len(sampler.rows))
                batches += 1
            row, targets = source.draw(rows)
            sampler.rows.extend([row] * len(targets))
            sampler.targets.extend(targets)
            sampler.epochs.extend([epoch] * len(targets))
            drawn += len(targets)
        sampler.ends.append(len(sampler.rows))
        if left_over < 1:
            sampler.cut(before + math.ceil(round(left_over * (len(sampler) - before), 6)))
    sampler.cut(max_steps or len(sampler))
    return sampler


class _Draws:
    """The rows of one dataset in the order in which they are drawn, pass after pass, each shuffled by (key, pass)."""

    def __init__(self, rows: range, target: str | None, weight: float, key: str) -> None:
        self._rows, self._target, self._key = rows, target, key
        self._order = self._shuffled()
        self.weight, self.samples = weight, 0

    def draw(self, rows: Rows) -> tuple[int, Sequence[int]]:
        """The next row and its targets; `samples` counts them."""
        number, place = next(self._order)
        count = rows.target_count(self._rows[place])
        targets = range(count) if self._target == "each" else [_draw(count, self._key, number, place)]
        self.samples += len(targets)
        return self._rows[place], targets

    def _shuffled(self) -> Iterator[tuple[int, int]]:
        for number in itertools.count():
            order = array("i", range(len(self._rows)))
            random.Random(f"{self._key}/{number}").shuffle(order)
            yield from ((number, place) for place in order)


def _most_due(sources: Sequence[_Draws]) -> _Draws:
    """The dataset to draw from next: of those that the next sample leaves behind, the one that must be drawn first."""
    total, slack = sum(one.samples for one in sources) + 1, 1 / (2 * len(sources) - 2)
    behind = [one for one in sources if one.weight * total - one.samples >= slack - 1e-9]
    return min(behind, key=lambda one: (one.samples + 1 - slack) / one.weight)


def _draw(count: int, key: str, number: int, place: int) -> int:
    if count == 1:
        return 0
    return int.from_bytes(hashlib.sha256(f"{key}/{number}/{place}".encode()).digest()[:8], "big") % count


def shard_batch(samples: Sequence[Sample], tokens: Sequence[int], rank: int, world_size: int) -> list[int]:
    """Indices of the samples of a batch that one of `world_size` processes computes; the shards partition the batch.

    Samples of one row share its images and stay together. The longest rows are assigned first, each to the process with
    the fewest tokens so far.
    """
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for index, sample in enumerate(samples):
        groups[sample.row].append(index)
    sizes = {row: sum(tokens[index] for index in indices) for row, indices in groups.items()}
    load = [0] * world_size
    shard: list[int] = []
    for row in sorted(groups, key=lambda row: (-sizes[row], row)):
        least_loaded = min(range(world_size), key=lambda n: (load[n], n))
        load[least_loaded] += sizes[row]
        if least_loaded == rank:
            shard += groups[row]
    return sorted(shard)
