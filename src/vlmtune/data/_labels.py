"""Class names for class numbers, from what `datasets` stores about columns of type ClassLabel."""

from collections.abc import Mapping
from typing import Any

from vlmtune.data._records import ReadRecord, Record
from vlmtune.errors import DataError


class ClassLabels:
    """The ClassLabel columns among `features` (`datasets.Features` as plain values); `names` holds the classes."""

    def __init__(self, features: Mapping[str, Any], where: str) -> None:
        self._where = where
        self.names = {column: names for column, feature in features.items() if (names := _class_names(feature))}

    def named(self, read: ReadRecord) -> ReadRecord:
        """The same records with class names instead of numbers, and null for -1 (unlabelled).

        Raises:
            DataError: on reading, a number that is not a class.
        """
        return (lambda index: self._named(read(index), index)) if self.names else read

    def _named(self, record: Record, index: int) -> Record:
        at = f"{self._where}, row {index}, column"
        return {
            column: _name(value, self.names[column], f"{at} {column!r}") if column in self.names else value
            for column, value in record.items()
        }


def _class_names(feature: Any) -> list[str]:
    """The classes of a column, or of the lists in it; empty for other types."""
    if isinstance(feature, Mapping) and feature.get("_type") in ("List", "LargeList", "Sequence"):
        feature = feature.get("feature")
    is_label = isinstance(feature, Mapping) and feature.get("_type") == "ClassLabel"
    names = feature.get("names") if is_label else None
    return list(names) if isinstance(names, list) else []


def _name(value: Any, names: list[str], at: str) -> Any:
    if isinstance(value, list):
        return [_name(item, names, at) for item in value]
    if not isinstance(value, int) or value == -1:
        return None
    if not 0 <= value < len(names):
        raise DataError(f"{at}: {value} is not a class; there are {len(names)}")
    return names[value]
