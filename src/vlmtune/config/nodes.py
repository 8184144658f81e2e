"""What was written, as a tree that remembers where. Knows neither YAML nor what the keys mean."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Scalar = str | int | float | bool | None
Steps = tuple[str | int, ...]
"""From the root of a tree: keys, and positions in lists."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where something was written: a file with line and column, both from 1; or an argument, which has neither."""

    source: str
    line: int | None = None
    column: int | None = None
    text: str = ""

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Node:
    """A value and where it stands; for a block, also where its keys stand. `size` counts the values in it."""

    value: "Scalar | dict[str, Node] | list[Node]"
    at: Place
    keys: Mapping[str, Place] = field(default_factory=dict)
    size: int = 1

    def plain(self) -> Any:
        """The value without its places."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        return [child.plain() for child in self.value] if isinstance(self.value, list) else self.value

    def child(self, step: str | int) -> "Node | None":
        """The value under a key or at a position of a list; None where there is none."""
        if isinstance(self.value, dict) and isinstance(step, str):
            return self.value.get(step)
        if isinstance(self.value, list) and isinstance(step, int) and step < len(self.value):
            return self.value[step]
        return None

    def find(self, path: Steps) -> "Node | None":
        """The value at a path; None where there is none."""
        node: Node | None = self
        for step in path:
            node = node.child(step) if node is not None else None
        return node


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong, in a sentence."""

    at: Place
    said: str

    def __str__(self) -> str:
        line = self.at.text.strip()
        return f"{self.at}: {self.said}" + (f"\n    {line:.100}" if line else "")


def block(children: "dict[str, Node]", at: Place, keys: Mapping[str, Place]) -> Node:
    """A block of keys."""
    return Node(children, at, keys, 1 + sum(child.size for child in children.values()))


def lay_over(under: Node, over: Node) -> Node:
    """Blocks are merged key by key, everything else is replaced. Neither argument changes.

    A merged block stands where the file that comes last has it: an argument changes its values, not its place.
    """
    if not isinstance(under.value, dict) or not isinstance(over.value, dict):
        return over
    merged, keys = dict(under.value), dict(under.keys)
    for key, child in over.value.items():
        both_blocks = key in merged and isinstance(merged[key].value, dict) and isinstance(child.value, dict)
        if not both_blocks or over.keys[key].line is not None:
            keys[key] = over.keys[key]
        merged[key] = lay_over(merged[key], child) if key in merged else child
    return block(merged, under.at if over.at.line is None else over.at, keys)


def from_plain(value: Any, at: Place) -> Node:
    """Plain Python values as a tree, all of it written at one place."""
    if isinstance(value, Mapping):
        children = {str(key): from_plain(child, at) for key, child in value.items()}
        return block(children, at, dict.fromkeys(children, at))
    if isinstance(value, list | tuple):
        return Node([from_plain(child, at) for child in value], at)
    return Node(value, at)


def kind(node: Node) -> str:
    """A node's value in a message: short, as it may have been written."""
    if isinstance(node.value, dict):
        return "a block of keys"
    if isinstance(node.value, list):
        return "a list"
    if isinstance(node.value, str):
        return repr(node.value if len(node.value) <= 60 else node.value[:57] + "…")
    return json.dumps(node.value)
