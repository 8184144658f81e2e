"""A config while it is inferred: where the rows are, and the blocks dataset and task."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class SourceSettings:
    """Where the rows are.

    Attributes:
        block: keys of the dataset block that locate them.
        reason: why this source was chosen.
        splits: the split of each role.
        warning: what is doubtful about the splits, starting with "!"; "" if nothing is.
        remote: whether the dataset must be downloaded.
        task: keys of the task block that the format of the rows defines.
    """

    block: dict[str, Any]
    reason: str
    splits: dict[str, str]
    warning: str
    remote: bool = False
    task: dict[str, Any] = field(default_factory=dict)


@dataclass
class Draft:
    """Keys of the blocks dataset and task, and for inferred ones the reason, by (block, key)."""

    dataset: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)
    reasons: dict[tuple[str, str], str] = field(default_factory=dict)

    def infer(self, block: str, key: str, value: Any, reason: str) -> None:
        """Set a key that is not set yet."""
        keys = self.dataset if block == "dataset" else self.task
        if key not in keys:
            keys[key] = value
            self.reasons[block, key] = reason

    def used_columns(self) -> set[str]:
        """Columns that have a role."""
        used: set[str] = set()
        for value in self.dataset.values():
            used |= set(value) if isinstance(value, list) else {value} if isinstance(value, str) else set()
        return used
