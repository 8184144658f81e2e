"""Opening the rows of a role: a split of the source, or the role's share of one."""

import glob
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from vlmtune import registry
from vlmtune.data._contract import ROLES, DatasetConfig, Rows, Shares, SplitRole
from vlmtune.data._rows import MappedRows
from vlmtune.errors import DataError
from vlmtune.types import Example

OLD_NAMES = {new: old for old, new in registry.RENAMED_ROLES.items()}


class Subset:
    """Some rows of a split, in their order.

    Args:
        rows: the whole split.
        indices: indices of the rows of the subset in the split, ascending.
        rule: what selected them, as plain values; part of the fingerprint.
    """

    def __init__(self, rows: Rows, indices: Sequence[int], rule: Any) -> None:
        self._rows, self._indices, self._rule = rows, indices, rule

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


def overlapping_roles(one: DatasetConfig, other: DatasetConfig, role: SplitRole) -> set[SplitRole]:
    """Roles of dataset block `one` that may contain rows of `role` in block `other`.

    These are the roles of the same split of the same source, under any name. Where both blocks divide it by the same
    shares, only the role of the same name.
    """
    keys = ("source", "path", "name", "revision")
    first, second = (block.model_dump(include=set(keys)) for block in (one, other))
    if first != second:
        return set()
    split = getattr(other.splits, role)
    if (one.split_column, one.all_rows) != (other.split_column, other.all_rows):  # whatever the rows say
        whole = one.model_copy(update={"split_column": None, "all_rows": None})
        names = {known: one.all_rows or getattr(one.splits, known) for known in ROLES}
        return {known for known in ROLES if have_common_rows(whole, names[known], other.all_rows or split)}
    same_shares = one.shares is not None and one.shares == other.shares and one.splits == other.splits

    def overlaps(known: SplitRole) -> bool:
        name = getattr(one.splits, known)
        # Shares divide a split only among roles that spell its name alike.
        return have_common_rows(one, name, split) and (known == role or not (same_shares and name == split))

    return {known for known in ROLES if overlaps(known)}


def have_common_rows(config: DatasetConfig, one: str, other: str) -> bool:
    """Whether two splits of a source have common rows, as far as their names tell: no row is read.

    A file may be named in several ways, and by patterns; a folder contains those below it. A split of a Hub dataset
    contains its slices (`train[:50%]`). With a `split_column` they are values, or several of them.
    """
    if one == other:
        return True
    if config.split_column is not None:
        return bool(set(one.split("|")) & set(other.split("|")))
    path = getattr(config, "path", None)
    if not isinstance(path, str) or config.source == "hub":
        whole = {name for name in (one, other) if "[" not in name}
        return bool(whole) and one.partition("[")[0] == other.partition("[")[0]
    folder = Path(path).expanduser()
    first, second = (_matching_files(folder, name) for name in (one, other))
    parents = [{parent for file in files for parent in file.parents} for files in (first, second)]
    return bool(first & second or first & parents[1] or second & parents[0])


def _matching_files(folder: Path, name: str) -> set[Path]:
    """The files or folders that a split names, without links; the name itself where there are none."""
    is_pattern = glob.has_magic(name) and not Path(name).is_absolute() and name != "."
    matching = list(folder.glob(name)) if is_pattern else []
    return {Path(os.path.realpath(match)) for match in matching or [folder / name]}


def _share(rows: Rows, shares: Shares, roles: Sequence[SplitRole], role: SplitRole, limit: int | None) -> Rows:
    """One role's share of a split. A row's role depends on the hash of its group key alone.

    Rows added later therefore move no other row, unless one links groups that had nothing in common before, or, for
    rows with several images and no group, adds images to a group.
    """
    ends, total = {}, 0.0
    for other in roles:
        start = total
        total += getattr(shares, other)
        ends[other] = (start, total)
    low, high = (end / total for end in ends[role])
    indices = [n for n in range(len(rows)) if low <= _unit_hash(rows.group_key(n), shares.seed) < high][:limit]
    if not indices:
        raise DataError(f"{len(rows)} rows are too few to divide among {', '.join(roles)}: none is left for {role}")
    # Stored fingerprints are hashes of this, under the names that roles had when the first of them were written.
    weights = {OLD_NAMES.get(key, key): value for key, value in shares.model_dump().items()}
    old_roles = [OLD_NAMES.get(other, other) for other in roles]
    rule = {"shares": weights, "roles": old_roles, "role": OLD_NAMES.get(role, role), "limit": limit}
    return Subset(rows, indices, rule)


def _unit_hash(text: str, seed: int) -> float:
    """A hash of the text as a number in [0, 1)."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{text}".encode()).digest()[:7], "big") / 2**56
