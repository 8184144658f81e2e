"""Numbers of classes as the classes' names: what `datasets` notes about a column of type ClassLabel."""

from collections.abc import Mapping
from typing import Any

from vlmtune.data._rows import ReadRecord, Record
from vlmtune.errors import DataError


class Labels:
    """The columns of classes among `features`, the notes of `datasets` by column as plain values; `names` of each."""

    def __init__(self, features: Mapping[str, Any], where: str) -> None:
        self._where = where
        self.names = {column: names for column, kind in features.items() if (names := _names(kind))}

    def of(self, read: ReadRecord) -> ReadRecord:
        """The same records with names for numbers; a class that is not told, -1, becomes null.

        Raises:
            DataError: when read: a number behind the last class.
        """
        return (lambda index: self._named(read(index), index)) if self.names else read

    def _named(self, record: Record, index: int) -> Record:
        at = f"{self._where}, row {index}, column"
        return {
            column: _name(value, self.names[column], f"{at} {column!r}") if column in self.names else value
            for column, value in record.items()
        }


def _names(kind: Any) -> list[str]:
    """The classes of a column, or of the lists in it; none where it holds something else."""
    if isinstance(kind, Mapping) and kind.get("_type") in ("List", "LargeList", "Sequence"):
        kind = kind.get("feature")
    names = kind.get("names") if isinstance(kind, Mapping) and kind.get("_type") == "ClassLabel" else None
    return list(names) if isinstance(names, list) else []


def _name(value: Any, names: list[str], at: str) -> Any:
    if isinstance(value, list):
        return [_name(item, names, at) for item in value]
    if not isinstance(value, int) or value == -1:
        return None
    if not 0 <= value < len(names):
        raise DataError(f"{at}: {value} is no class; there are {len(names)}")
    return names[value]
