"""Several datasets as one training set: their rows are counted through, and each is asked by its own dataset's task.

The sampler draws from every dataset in its share. A row of a further dataset has the id NAME/ID, so that ids differ.
"""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Protocol

from vlmtune.data import DatasetConfig, Rows
from vlmtune.training.dataset import TrainingExamples
from vlmtune.training.sampler import Share
from vlmtune.types import Example


class MixedDataset(Protocol):
    """What the config says about a further dataset."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def weight(self) -> float:
        """Its fraction of all samples."""

    @property
    def dataset(self) -> DatasetConfig:
        """Its columns."""


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """The examples to train on. `target` is `dataset.target` of the main dataset, whose rows come first.

    `shares` are those of the further datasets, none without a mixture.
    """

    examples: TrainingExamples
    target: str | None
    shares: tuple[Share, ...] = ()


class MixedRows:
    """The rows of several datasets, one dataset after the other.

    Args:
        parts: the rows of every dataset by its name, None for the main one, which comes first.
    """

    def __init__(self, parts: Mapping[str | None, Rows]) -> None:
        self._names, self._parts = list(parts), list(parts.values())
        self._starts = [0, *accumulate(map(len, self._parts))]

    @property
    def fingerprint(self) -> str:
        """Hash of the names and fingerprints of all parts."""
        parts = [[name, rows.fingerprint] for name, rows in zip(self._names, self._parts, strict=True)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> Example:
        name, rows, row = self._find(index)
        return self._named(name, rows[row])

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    def id(self, index: int) -> str:
        """Id of a row, with the name of its dataset in front unless it is the main one."""
        name, rows, row = self._find(index)
        return _full_id(name, rows.id(row))

    def where(self, index: int) -> str:
        """File and line of a row, as far as its source knows them."""
        _, rows, row = self._find(index)
        return rows.where(row)

    def group_key(self, index: int) -> str:
        """Equal for rows of one dataset that belong together."""
        name, rows, row = self._find(index)
        return _full_id(name, rows.group_key(row))

    def target_count(self, index: int) -> int:
        """Number of training targets of a row."""
        _, rows, row = self._find(index)
        return rows.target_count(row)

    def with_target(self, index: int, target: int) -> Example:
        """Row `index` with its `target`-th target, counted from 0."""
        name, rows, row = self._find(index)
        return self._named(name, rows.with_target(row, target))

    def _find(self, index: int) -> tuple[str | None, Rows, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = bisect_right(self._starts, index) - 1
        return self._names[part], self._parts[part], index - self._starts[part]

    def _named(self, name: str | None, example: Example) -> Example:
        return example if name is None else replace(example, id=_full_id(name, example.id), dataset=name)


def _full_id(name: str | None, row: str) -> str:
    return row if name is None else f"{name}/{row}"


def mix(
    main: TrainingExamples, target: str | None, others: Sequence[tuple[MixedDataset, TrainingExamples]]
) -> TrainingSet:
    """The examples of the main dataset and of further ones, each with its own task.

    Args:
        main: examples of the main dataset.
        target: its `target`.
        others: the further datasets, with their examples; their names differ.
    """
    if not others:
        return TrainingSet(main, target)
    starts = accumulate((len(examples.rows) for _, examples in others), initial=len(main.rows))
    shares = tuple(
        Share(one.name, range(start, start + len(examples.rows)), one.dataset.target, one.weight)
        for start, (one, examples) in zip(starts, others, strict=False)
    )
    rows = MixedRows({None: main.rows, **{one.name: examples.rows for one, examples in others}})
    mixed = {one.name: examples for one, examples in others}
    return TrainingSet(replace(main, rows=rows, mixed=mixed), target, shares)
