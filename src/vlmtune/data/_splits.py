"""Opening the rows of a role: a split of the source, or the role's share of one."""

import hashlib
import itertools
import json
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

from vlmtune import registry
from vlmtune.data._contract import ROLES, DatasetConfig, Rows, Shares, SplitRole
from vlmtune.data._rows import MappedRows
from vlmtune.errors import DataError
from vlmtune.types import Example

SMALL = 50
"""Rows below which a split is divided exactly: by the hash of each row alone, a role of them may get none."""

OLD_NAMES = {new: old for old, new in registry.RENAMED_ROLES.items()}


class Subset:
    """Some rows of a split, in their order.

    Args:
        rows: the whole split.
        indices: indices of the rows of the subset in the split, ascending.
        rule: what selected them, as plain values; part of the fingerprint.
    """

    def __init__(self, rows: Rows, indices: Sequence[int], rule: Any) -> None:
        self._rows, self._rule = rows, rule
        self._indices = indices if isinstance(indices, range) else array("q", indices)

    @property
    def fingerprint(self) -> str:
        """Hash of the whole split and of the rule that selected the rows."""
        return hashlib.sha256(json.dumps([self._rows.fingerprint, self._rule]).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._rows[self._indices[index]]

    def __iter__(self) -> Iterator[Example]:
        return (self._rows[row] for row in self._indices)

    def id(self, index: int) -> str:
        """Id of a row, without reading it."""
        return self._rows.id(self._indices[index])

    def where(self, index: int) -> str:
        """File and line of a row."""
        return self._rows.where(self._indices[index])

    def group_key(self, index: int) -> str:
        """Equal for rows that must stay in the same split."""
        return self._rows.group_key(self._indices[index])

    def target_count(self, index: int) -> int:
        """Number of training targets of a row."""
        return self._rows.target_count(self._indices[index])

    def with_target(self, index: int, target: int) -> Example:
        """Row `index` with its `target`-th target, counted from 0."""
        return self._rows.with_target(self._indices[index], target)


def open_role(config: DatasetConfig, role: SplitRole) -> Rows:
    """The rows of a role.

    Raises:
        DataError, EnvironmentProblem: as the source; no row is left for the role.
    """
    source, split, limit = (
        registry.load("data", config.source),
        getattr(config.splits, role),
        getattr(config.limit, role),
    )
    roles = [other for other in ROLES if getattr(config.splits, other) == split]
    if config.shares is None or len(roles) == 1:
        return _open_split(source, config, split, limit)
    return _share(_open_split(source, config, split, None), config.shares, roles, role, limit)


def _open_split(source: ModuleType, config: DatasetConfig, split: str, limit: int | None) -> Rows:
    """The rows of a split, as the source stores it or as a column names it.

    A row whose split cannot be read belongs to the split of the train role, where it counts as bad.
    """
    column = config.split_column
    if column is None and config.join and limit is not None:  # the source would count the records
        joined: Rows = source.open(config, split, None)
        return Subset(joined, range(min(limit, len(joined))), {"joined": config.join, "limit": limit})
    if column is None:
        rows: Rows = source.open(config, split, limit)
        return rows
    if config.all_rows is None:
        raise DataError("dataset.split_column divides the rows of dataset.all_rows; set that as well")
    rows = source.open(config, config.all_rows, None)
    if not isinstance(rows, MappedRows):
        raise DataError(f"the source {config.source} cannot divide its rows by dataset.split_column; leave it out")
    values = list(rows.values(column))
    _refuse_unnamed(config, values)
    wanted = {*split.split("|"), *([None] if split == config.splits.train else [])}
    indices = [index for index, value in enumerate(values) if value in wanted][:limit]
    if not indices:
        present = ", ".join(f"{value} ({count})" for value, count in Counter(values).most_common(10))
        raise DataError(
            f"{config.all_rows}: no row has {split!r} in column {column!r}; there are: {present}. Set dataset.splits"
        )
    return Subset(rows, indices, {"split_column": column, "split": split, "limit": limit})


def _refuse_unnamed(config: DatasetConfig, values: Sequence[str | None]) -> None:
    """Refuse rows that no role would use, and that the config does not leave out either.

    Raises:
        DataError: a value of `split_column` has no role; says how many rows have it.
    """
    named = {value for role in ROLES for value in getattr(config.splits, role).split("|")}
    for value, count in Counter(values).items():
        if value is not None and value not in named and value not in config.unused_splits:
            train = f"{config.splits.train}|{value}"
            hint = " (Karpathy's restval belongs to train)" if value == "restval" else ""
            raise DataError(
                f"{config.all_rows}: {count:,} rows have {value!r:.60} in column {config.split_column!r}, which no "
                f"role names{hint}. Use them, as --set 'dataset.splits.train={train}', or leave them out with --set "
                f"'dataset.unused_splits=[{value}]'"
            )


def _share(rows: Rows, shares: Shares, roles: Sequence[SplitRole], role: SplitRole, limit: int | None) -> Rows:
    """One role's share of a split. A row's role depends on the hash of its group key alone, if there are many rows.

    Rows added later therefore move no other row, unless one links groups that had nothing in common before, or, for
    rows with several images and no group, adds images to a group.
    """
    ends, total = {}, 0.0
    for other in roles:
        start = total
        total += getattr(shares, other)
        ends[other] = (start, total)
    low, high = (end / total for end in ends[role])
    if len(rows) < SMALL:
        indices = _exact_share(rows, shares, roles, role)[:limit]
    else:
        indices = [n for n in range(len(rows)) if low <= _unit_hash(rows.group_key(n), shares.seed) < high][:limit]
    if not indices:
        groups = len({rows.group_key(n) for n in range(len(rows))})
        linked = f"; images or groups in common make them {groups} rows in effect" if groups < len(rows) else ""
        raise DataError(
            f"{len(rows)} rows are too few to divide among {', '.join(roles)}: none is left for {role}{linked}"
        )
    # Stored fingerprints are hashes of this, under the names that roles had when the first of them were written.
    weights = {OLD_NAMES.get(key, key): value for key, value in shares.model_dump().items()}
    old_roles = [OLD_NAMES.get(other, other) for other in roles]
    rule = {"shares": weights, "roles": old_roles, "role": OLD_NAMES.get(role, role), "limit": limit}
    return Subset(rows, indices, rule | ({"exact": True} if len(rows) < SMALL else {}))


def _exact_share(rows: Rows, shares: Shares, roles: Sequence[SplitRole], role: SplitRole) -> list[int]:
    """One role's share of a small split: as many rows as the shares say, with about the mix of answers of the whole.

    Groups stay whole, so with groups of several rows the numbers are the nearest possible. A new row may move others.
    """
    left = _in_mixed_order(rows, shares.seed)
    counts = _whole_shares([getattr(shares, other) for other in roles], len(rows))
    chosen: list[list[int]] = []
    for other, count in zip(roles[:0:-1], counts[:0:-1], strict=True):
        chosen = []
        while left and (not chosen or 2 * sum(map(len, chosen)) + len(left[-1]) <= 2 * count):
            chosen.append(left.pop())
        if other == role:
            break
    return sorted(itertools.chain.from_iterable(left if role == roles[0] else chosen))


def _in_mixed_order(rows: Rows, seed: int) -> list[list[int]]:
    """Groups of rows in an order of which every part has about the same mix of answers, random otherwise."""
    groups: dict[str, list[int]] = {}
    for index in range(len(rows)):
        groups.setdefault(rows.group_key(index), []).append(index)
    alike: dict[str, list[str]] = {}
    for key in sorted(groups, key=lambda key: _unit_hash(key, seed)):
        alike.setdefault(_answers(rows, groups[key][0]), []).append(key)
    places = {key: (n + 0.5) / len(keys) for keys in alike.values() for n, key in enumerate(keys)}
    return [groups[key] for key in sorted(groups, key=lambda key: (places[key], _unit_hash(key, seed)))]


def _answers(rows: Rows, index: int) -> str:
    """The answers of a row as one text; "" for a row that cannot be read."""
    try:
        truth = rows[index].truth
    except DataError:
        return ""
    return json.dumps([truth.get("references"), truth.get("box_labels")], default=str)


def _whole_shares(shares: Sequence[float], count: int) -> list[int]:
    """Whole numbers in proportion to the shares, by largest remainders; none is 0 if there are enough.

    >>> _whole_shares([0.8, 0.1, 0.1], 30), _whole_shares([0.8, 0.1, 0.1], 4)
    ([24, 3, 3], [2, 1, 1])
    """
    exact = [share / sum(shares) * count for share in shares]
    whole = [int(each + 1e-9) for each in exact]
    order = sorted(range(len(shares)), key=lambda n: (whole[n] - exact[n], n))
    for n in order[: count - sum(whole)]:
        whole[n] += 1
    for n, each in enumerate(whole):
        if each == 0 and max(whole) > 1:
            whole[whole.index(max(whole))] -= 1
            whole[n] = 1
    return whole


def _unit_hash(text: str, seed: int) -> float:
    """A hash of the text as a number in [0, 1)."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{text}".encode()).digest()[:7], "big") / 2**56
