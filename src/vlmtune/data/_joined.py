"""Several records as one row: one caption or one box per line becomes a row per image with all of them."""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

from vlmtune.data import _values
from vlmtune.data._contract import DatasetConfig
from vlmtune.data._records import ReadRecord, Record, Records, names_text
from vlmtune.errors import DataError


class JoinedRecords:
    """Records with the same values in some columns, as one; in the order of the first of each.

    References, keywords, boxes and their labels become lists. Other columns with a role must be equal in all of them.

    Args:
        records: to be joined. One that cannot be read stays alone, and raises when it is read.
        config: names the columns.
    """

    def __init__(self, records: Records, config: DatasetConfig, used: Sequence[str]) -> None:
        self._records, self._keys = records, config.join
        per_record = [column for column in (config.keywords, config.box_labels) if column is not None]
        self._lists = {*config.references, *config.box_columns, *per_record}
        self._equal = set(used) - self._lists
        groups, group_of = dict[Any, int](), array("q")
        read = records.select(self._keys) if records.select is not None else records.read
        for index in range(records.count):
            group_of.append(groups.setdefault(self._key(read, index), len(groups)))
        sizes = [0] * len(groups)
        for group in group_of:
            sizes[group] += 1
        self._ends = array("q", accumulate(sizes))
        free = array("q", (end - size for end, size in zip(self._ends, sizes, strict=True)))
        self._members = array("q", bytes(8 * records.count))
        for index, group in enumerate(group_of):
            self._members[free[group]] = index
            free[group] += 1

    def records(self) -> Records:
        """The joined records."""
        select = self._records.select

        def select_joined(columns: list[str]) -> ReadRecord:
            assert select is not None
            return self._reader(select([*columns, *self._keys]))

        return replace(
            self._records,
            count=len(self._ends),
            read=self._reader(self._records.read),
            select=select_joined if select is not None else None,
            locate=lambda index: self._at(self._of(index)[0]),
        )

    def _key(self, read: ReadRecord, index: int) -> Any:
        try:
            record = read(index)
        except DataError:
            return index
        missing = next((key for key in self._keys if key not in record), None)
        if missing is not None:
            known = names_text(record, missing)
            raise DataError(f"{self._at(index)}: dataset.join names column {missing!r}; there are: {known}")
        return str([_values.hashable(record[key]) for key in self._keys])

    def _at(self, index: int) -> str:
        locate = self._records.locate
        return locate(index) if locate is not None else f"{self._records.where}, row {index}"

    def _of(self, index: int) -> Sequence[int]:
        return self._members[self._ends[index - 1] if index else 0 : self._ends[index]]

    def _reader(self, read: ReadRecord) -> Callable[[int], Record]:
        def joined(index: int) -> Record:
            members = self._of(index)
            first, *others = ({**read(member)} for member in members)
            merged = dict(first)
            for column in first:
                if column in self._lists:
                    merged[column] = [item for each in (first, *others) for item in _items(each.get(column))]
                elif column in self._equal and (other := _different(first, others, column)) is not None:
                    raise DataError(
                        f"{self._at(members[0])}: column {column!r} is {first[column]!r:.40} here and {other!r:.40} in "
                        "another record of the same row; add the column to dataset.join, or do not use it"
                    )
            return merged

        return joined


def _items(value: Any) -> list[Any]:
    """The items of a list of texts or boxes; a box or any other value is one item."""
    value = _values.structured(value)
    is_box = isinstance(value, list | tuple) and bool(value) and isinstance(value[0], int | float)
    return [value] if is_box or not isinstance(value, list | tuple) else list(value)


def _different(first: Record, others: Sequence[Record], column: str) -> Any:
    """A value in `others` that differs from the first, None if they are equal."""
    return next((each.get(column) for each in others if each.get(column) != first[column]), None)
