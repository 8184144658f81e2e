"""Opens the rows that play a role: a split of the source, or the part of it that the role has."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from vlmtune import registry
from vlmtune.data._contract import ROLES, DatasetConfig, Rows, Shares, SplitRole
from vlmtune.errors import DataError
from vlmtune.types import Example

OLD_NAMES = {new: old for old, new in registry.RENAMED_ROLES.items()}


class SomeRows:
    """Some rows of a split, in their order.

    Args:
        rows: the whole split.
        kept: numbers of the rows that are here, ascending.
        why: what decided that, as plain values; part of the fingerprint.
    """

    def __init__(self, rows: Rows, kept: Sequence[int], why: Any) -> None:
        self._rows, self._kept, self._why = rows, kept, why

    @property
    def fingerprint(self) -> str:
        """Hash of the whole split, and of what decided which rows are here."""
        return hashlib.sha256(json.dumps([self._rows.fingerprint, self._why]).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._rows[self._kept[index]]

    def __iter__(self) -> Iterator[Example]:
        return (self._rows[row] for row in self._kept)

    def id(self, index: int) -> str:
        """Id of a row, without reading it."""
        return self._rows.id(self._kept[index])

    def group_key(self, index: int) -> str:
        """What the row shares with others that belong together."""
        return self._rows.group_key(self._kept[index])

    def target_count(self, index: int) -> int:
        """Number of training targets of a row."""
        return self._rows.target_count(self._kept[index])

    def with_target(self, index: int, target: int) -> Example:
        """Row `index` with its `target`-th target, counted from 0."""
        return self._rows.with_target(self._kept[index], target)


def open_role(config: DatasetConfig, role: SplitRole) -> Rows:
    """The rows that play a role.

    Raises:
        DataError, EnvironmentProblem: as the source; no row is left for the role.
    """
    source, split, limit = (
        registry.load("data", config.source),
        getattr(config.splits, role),
        getattr(config.limit, role),
    )
    together = [other for other in ROLES if getattr(config.splits, other) == split]
    if config.shares is None or len(together) == 1:
        rows: Rows = source.open(config, split, limit)
        return rows
    return _parted(source.open(config, split, None), config.shares, together, role, limit)


def shared_roles(one: DatasetConfig, other: DatasetConfig, role: SplitRole) -> set[SplitRole]:
    """Roles of one dataset block whose rows another block's role may hold, too: those of the same split of the same
    source, unless both part it alike and the role is another.
    """
    keys = ("source", "path", "name", "revision")
    here, there = (block.model_dump(include=set(keys)) for block in (one, other))
    if here != there:
        return set()
    split = getattr(other.splits, role)
    alike = one.shares is not None and one.shares == other.shares and one.splits == other.splits
    return {known for known in ROLES if getattr(one.splits, known) == split and (known == role or not alike)}


def _parted(rows: Rows, shares: Shares, together: Sequence[SplitRole], role: SplitRole, limit: int | None) -> Rows:
    """One role's part of a split; where a row goes depends on nothing but what it shares with its companions.

    So rows added later move no other, unless one of them joins rows that had nothing in common before, or, where a row
    has several pictures and no group, brings further pictures to theirs.
    """
    ends, total = {}, 0.0
    for other in together:
        begin = total
        total += getattr(shares, other)
        ends[other] = (begin, total)
    low, high = (end / total for end in ends[role])
    kept = [n for n in range(len(rows)) if low <= _place(rows.group_key(n), shares.seed) < high][:limit]
    if not kept:
        raise DataError(f"{len(rows)} rows are too few to part among {', '.join(together)}: none is left for {role}")
    # Stored fingerprints are hashes of this, under the names that roles had when the first of them were written.
    weights = {OLD_NAMES.get(key, key): value for key, value in shares.model_dump().items()}
    roles = [OLD_NAMES.get(other, other) for other in together]
    why = {"shares": weights, "roles": roles, "role": OLD_NAMES.get(role, role), "limit": limit}
    return SomeRows(rows, kept, why)


def _place(text: str, seed: int) -> float:
    """Where in [0, 1) a text stands."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{text}".encode()).digest()[:7], "big") / 2**56
