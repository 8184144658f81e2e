"""Which examples share an optimizer step: a pure function of the rows and the seed, not of memory or threads."""

import hashlib
import random
from array import array
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

from vlmtune.data import Rows


@dataclass(frozen=True, slots=True)
class Sample:
    """A training example in an epoch: index of the row, index of the target among the row's, and the epoch."""

    row: int
    target: int
    epoch: int


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

    @overload
    def __getitem__(self, index: int) -> list[Sample]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[Sample]]: ...
    def __getitem__(self, index: int | slice) -> list[Sample] | list[list[Sample]]:
        if isinstance(index, slice):
            return [self[n] for n in range(*index.indices(len(self)))]
        step = range(len(self))[index]
        batch = slice(self.ends[step - 1] if step else 0, self.ends[step])
        return list(map(Sample, self.rows[batch], self.targets[batch], self.epochs[batch]))


def sample_batches(rows: Rows, target: str | None, epochs: int, batch_size: int, seed: int) -> BatchSampler:
    """The global batches of all epochs.

    Rows are shuffled by (seed, epoch). Batch k, from 1, ends with the row that contains sample k * `batch_size`: batch
    sizes differ by less than one row's samples.

    Args:
        rows: of the split.
        target: "each" takes one sample per target of a row, all in one batch, where they share its images; otherwise
            there is one per epoch, its target drawn by (seed, epoch, row).
        epochs: passes over the rows.
        batch_size: samples per batch.
        seed: of shuffling and drawing.
    """
    sampler = BatchSampler(array("i"), array("i"), array("i"), array("q"))
    for epoch in range(epochs):
        order = array("i", range(len(rows)))
        random.Random(f"{seed}/{epoch}").shuffle(order)
        drawn, batches = 0, 1
        for row in order:
            if drawn >= batches * batch_size:
                sampler.ends.append(len(sampler.rows))
                batches += 1
            count = rows.target_count(row)
            targets = range(count) if target == "each" else [_draw(count, seed, epoch, row)]
            sampler.rows.extend([row] * len(targets))
            sampler.targets.extend(targets)
            sampler.epochs.extend([epoch] * len(targets))
            drawn += len(targets)
        sampler.ends.append(len(sampler.rows))
    return sampler


def _draw(count: int, seed: int, epoch: int, row: int) -> int:
    if count == 1:
        return 0
    return int.from_bytes(hashlib.sha256(f"{seed}/{epoch}/{row}".encode()).digest()[:8], "big") % count


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
