"""A tree of values that remember where they were written. Knows neither YAML nor the meaning of the keys."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Scalar = str | int | float | bool | None
KeyPath = tuple[str | int, ...]
"""Keys and list indices from the root of a tree: ("tracking", 0, "to")."""


@dataclass(frozen=True, slots=True)
class SourceLocation:
    """Where a value was written: a file with 1-based line and column, or a command-line argument, which has neither."""

    source: str
    line: int | None = None
    column: int | None = None
    text: str = ""

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Node:
    """A value and its location; for a block, also the locations of its keys. `size` counts the values in it."""

    value: "Scalar | dict[str, Node] | list[Node]"
    at: SourceLocation
    keys: Mapping[str, SourceLocation] = field(default_factory=dict)
    size: int = 1

    def plain(self) -> Any:
        """The value without its locations."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        return [child.plain() for child in self.value] if isinstance(self.value, list) else self.value

    def child(self, step: str | int) -> "Node | None":
        """The value under a key or at a list index; None if there is none."""
        if isinstance(self.value, dict) and isinstance(step, str):
            return self.value.get(step)
        if isinstance(self.value, list) and isinstance(step, int) and step < len(self.value):
            return self.value[step]
        return None

    def find(self, path: KeyPath) -> "Node | None":
        """The value at a path; None if there is none."""
        node: Node | None = self
        for step in path:
            node = node.child(step) if node is not None else None
        return node


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, in a sentence, and where."""

    at: SourceLocation
    message: str

    def __str__(self) -> str:
        line = self.at.text.strip()
        return f"{self.at}: {self.message}" + (f"\n    {line:.100}" if line else "")


def block(children: "dict[str, Node]", at: SourceLocation, keys: Mapping[str, SourceLocation]) -> Node:
    """A block of keys."""
    return Node(children, at, keys, 1 + sum(child.size for child in children.values()))


def merge(base: Node, override: Node) -> Node:
    """Merge blocks key by key; the override replaces everything else. Neither argument is modified.

    A merged block is located in the last file that has it: an argument changes its values, not its location.
    """
    if not isinstance(base.value, dict) or not isinstance(override.value, dict):
        return override
    merged, keys = dict(base.value), dict(base.keys)
    for key, child in override.value.items():
        both_blocks = key in merged and isinstance(merged[key].value, dict) and isinstance(child.value, dict)
        if not both_blocks or override.keys[key].line is not None:
            keys[key] = override.keys[key]
        merged[key] = merge(merged[key], child) if key in merged else child
    return block(merged, base.at if override.at.line is None else override.at, keys)


def from_plain(value: Any, at: SourceLocation) -> Node:
    """Plain Python values as a tree, every node at the same location."""
    if isinstance(value, Mapping):
        children = {str(key): from_plain(child, at) for key, child in value.items()}
        return block(children, at, dict.fromkeys(children, at))
    if isinstance(value, list | tuple):
        return Node([from_plain(child, at) for child in value], at)
    return Node(value, at)


def describe(node: Node) -> str:
    """A node's value for an error message: shortened, in YAML or Python notation."""
    if isinstance(node.value, dict):
        return "a block of keys"
    if isinstance(node.value, list):
        return "a list"
    if isinstance(node.value, str):
        return repr(node.value if len(node.value) <= 60 else node.value[:57] + "…")
    return json.dumps(node.value)
