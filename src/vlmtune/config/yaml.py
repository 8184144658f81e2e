"""Parses YAML 1.2 text into a tree of nodes.

Only the core schema is supported: null, booleans, integers, floats, strings, lists and mappings, plus anchors, aliases
and merge keys. `on` is a string, `012` is 12, `2e-4` is a number, duplicate keys are errors. Tags are never resolved,
so a file cannot instantiate objects.
"""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, events
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from vlmtune.config.nodes import Node, Problem, Scalar, SourceLocation, block, describe
from vlmtune.errors import ConfigError

MAX_DEPTH = 40
"""Nesting of blocks and lists; a configuration needs six levels."""

MAX_VALUES = 10_000
"""Values in one file, with aliases expanded; a few lines of nested aliases could otherwise exhaust memory."""

MAX_DIGITS = 40
"""Digits of a number; longer ones are read as text."""

_CONSTANTS = {"": None, "~": None, "null": None, "Null": None, "NULL": None} | {
    word: word[0] in "tT" for word in ("true", "True", "TRUE", "false", "False", "FALSE")
}
_WHOLE, _OCTAL, _HEX = re.compile(r"[-+]?[0-9]+"), re.compile(r"0o[0-7]+"), re.compile(r"0x[0-9a-fA-F]+")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.nan|\.NaN|\.NAN")
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")


def read_file(file: Path) -> tuple[Node, list[Problem]]:
    """The block of keys in a file, and problems that do not stop parsing: duplicate keys, tags.

    Raises:
        ConfigError: missing, unreadable, not UTF-8, not YAML, empty, or not a block of keys.
    """
    name = display_path(file)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read: {error.strerror}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, start = data[: error.start].count(b"\n") + 1, data[: error.start].rfind(b"\n") + 1
        at = SourceLocation(name, line, error.start - start + 1)
        raise ConfigError(f"{at}: not UTF-8 (byte 0x{data[error.start]:02x}); save the file as UTF-8") from None
    root, problems = parse(text, name)
    if root.value is None:
        raise ConfigError(f"{name}:1:1: the file is empty; `vlmtune config show demo` prints one to start from")
    if not isinstance(root.value, dict):
        raise ConfigError(str(Problem(root.at, f"a config is a block of keys, not {describe(root)}")))
    return replace(root, at=SourceLocation(name, 1, 1)), problems


def display_path(file: Path) -> str:
    """A file's name for messages: relative if it is below the current directory."""
    near = os.path.relpath(file)
    return os.path.normpath(Path.cwd() / near) if near.startswith("..") else near


def parse(text: str, source: str, in_file: bool = True) -> tuple[Node, list[Problem]]:
    """Parse YAML text.

    Args:
        text: one document.
        source: its name in messages.
        in_file: whether messages give lines and columns.

    Raises:
        ConfigError: not YAML.
    """
    lines = _BREAK.split(text)

    def location(line: int, column: int) -> SourceLocation:
        text_of_line = lines[line] if line < len(lines) else ""
        return SourceLocation(source, line + 1, column + 1, text_of_line) if in_file else SourceLocation(source)

    if invalid := _FORBIDDEN.search(text):
        before = _BREAK.split(text[: invalid.start()])
        at = location(len(before) - 1, len(before[-1]))
        raise ConfigError(str(Problem(at, f"character U+{ord(invalid.group()):04X} is not allowed in YAML; remove it")))
    reader = _Reader(YAML(typ="safe", pure=True).parse(text), location)
    try:
        return reader.document(), reader.problems
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = location(mark.line, mark.column) if mark else SourceLocation(source)
        raise ConfigError(str(Problem(at, _not_yaml(error)))) from None
    except (YAMLError, ValueError, OverflowError) as error:
        # ruamel passes escapes such as "\UFFFFFFFF" to chr(), which raises one of these
        raise ConfigError(f"{location(0, 0)}: not YAML: {error}") from None


def _not_yaml(error: MarkedYAMLError) -> str:
    message = " ".join(f"{error.problem or error.context}".split())
    if r"'\t'" in message:
        return "not YAML: a tab cannot indent; use spaces"
    context = " ".join(f"{error.context}".split()) if error.context and error.problem else ""
    return f"not YAML: {message}" + (f" ({context})" if context else "")


class _Reader:
    """Builds nodes from the parser's events."""

    def __init__(self, stream: Iterator[Any], location: Callable[[int, int], SourceLocation]) -> None:
        self._stream = stream
        self._location = location
        self._anchors: dict[str, Node] = {}
        self.problems: list[Problem] = []

    def document(self) -> Node:
        """The root of the only document; a null node if there is none."""
        root: Node | None = None
        for event in self._stream:
            if isinstance(event, events.DocumentStartEvent):
                if root is not None:
                    raise self._fatal(event, "a second document begins; a config is a single one")
                root = self._node(next(self._stream), 0)
        return root or Node(None, self._location(0, 0))

    def _at(self, event: Any) -> SourceLocation:
        return self._location(event.start_mark.line, event.start_mark.column)

    def _fatal(self, event: Any, message: str) -> ConfigError:
        return ConfigError(str(Problem(self._at(event), message)))

    def _add_problem(self, event: Any, message: str) -> None:
        self.problems.append(Problem(self._at(event), message))

    def _node(self, event: Any, depth: int) -> Node:
        if isinstance(event, events.AliasEvent):
            if event.anchor not in self._anchors:
                raise self._fatal(event, f"no anchor &{event.anchor} before this alias")
            return self._anchors[event.anchor]
        if depth > MAX_DEPTH:
            raise self._fatal(event, f"blocks and lists nested more than {MAX_DEPTH} deep")
        if event.tag is not None:
            self._add_problem(event, f"tags such as {event.tag!r} are not supported; write a plain value")
        if isinstance(event, events.MappingStartEvent):
            node = self._block(event, depth)
        elif isinstance(event, events.SequenceStartEvent):
            node = self._list(event, depth)
        else:
            node = Node(self._scalar(event), self._at(event))
        if node.size > MAX_VALUES:
            raise self._fatal(event, f"more than {MAX_VALUES:,} values, with aliases expanded")
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _scalar(self, event: Any) -> Scalar:
        value = core_scalar(event.value) if event.style is None else str(event.value)
        if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
            self._add_problem(event, "half a surrogate pair is not text")
            return ""
        return value

    def _list(self, event: Any, depth: int) -> Node:
        items = []
        while not isinstance(inner := next(self._stream), events.SequenceEndEvent):
            items.append(self._node(inner, depth + 1))
        return Node(items, self._at(event), size=1 + sum(item.size for item in items))

    def _block(self, event: Any, depth: int) -> Node:
        children: dict[str, Node] = {}
        keys: dict[str, SourceLocation] = {}
        merged: list[Node] = []
        while not isinstance(inner := next(self._stream), events.MappingEndEvent):
            at, key = self._at(inner), self._node(inner, depth + 1)
            name, value = self._name(inner, key), self._node(next(self._stream), depth + 1)
            if value.value is None and value.at.line != at.line:
                value = replace(value, at=at)  # the parser locates an omitted value at the next key
            if isinstance(inner, events.ScalarEvent) and inner.style is None and name == "<<":
                merged += self._bases(inner, value)
            elif name in children:
                self.problems.append(Problem(at, f"key {name!r} is given twice; the first time at {keys[name]}"))
            elif name is not None:
                children[name], keys[name] = value, at
        for base in merged:
            for name, value in base.value.items():  # type: ignore[union-attr]
                if name not in children:
                    children[name], keys[name] = value, base.keys[name]
        return block(children, self._at(event), keys)

    def _name(self, event: Any, key: Node) -> str | None:
        if isinstance(event, events.ScalarEvent):
            return str(event.value)
        if isinstance(key.value, str):
            return key.value
        self._add_problem(event, "a key must be plain text")
        return None

    def _bases(self, event: Any, value: Node) -> list[Node]:
        bases = value.value if isinstance(value.value, list) else [value]
        if not all(isinstance(base.value, dict) for base in bases):
            self._add_problem(event, "<< takes a block, or a list of blocks")
            return []
        return bases


def core_scalar(text: str) -> Scalar:
    """The value of an unquoted word in YAML 1.2's core schema."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if len(text) > MAX_DIGITS:
        return text
    for pattern, base in ((_WHOLE, 10), (_OCTAL, 8), (_HEX, 16)):
        if pattern.fullmatch(text):
            return int(text, base)
    if _NUMBER.fullmatch(text) or _NOT_FINITE.fullmatch(text):
        return float(text.lower().replace(".i", "i").replace(".n", "n"))
    return text
