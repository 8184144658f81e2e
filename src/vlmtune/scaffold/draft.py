"""The blocks of a config while they are inferred."""

from dataclasses import dataclass, field
from typing import Any


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
