"""YAML 1.2 text as a tree.

Only the core schema is read: null, true/false, whole numbers, numbers, text, lists, blocks; also anchors, aliases and
merge keys. `on` is text, `012` is 12, `2e-4` is a number, a key given twice is a mistake. No tag is ever followed, so
no object comes from a file.
"""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, events
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from vlmtune.config.nodes import Mistake, Node, Place, Scalar, block, kind
from vlmtune.errors import ConfigError

DEEPEST = 40
"""Blocks and lists inside each other; a configuration needs six."""

LARGEST = 10_000
"""Values in one file, aliases written out; a few lines of aliases to aliases would otherwise fill the memory."""

LONGEST_NUMBER = 40
"""Digits of a number; a longer one stays text."""

_NOT_A_NUMBER = {"": None, "~": None, "null": None, "Null": None, "NULL": None} | {
    word: word[0] in "tT" for word in ("true", "True", "TRUE", "false", "False", "FALSE")
}
_WHOLE, _OCTAL, _HEX = re.compile(r"[-+]?[0-9]+"), re.compile(r"0o[0-7]+"), re.compile(r"0x[0-9a-fA-F]+")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_ENDLESS = re.compile(r"[-+]?\.(inf|Inf|INF)|\.nan|\.NaN|\.NAN")
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")


def read_file(file: Path) -> tuple[Node, list[Mistake]]:
    """The block that a file holds, and what is wrong with it although it can be read: keys given twice, tags.

    Raises:
        ConfigError: missing, unreadable, not UTF-8, not YAML, empty, or not a block of keys.
    """
    name = shown(file)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read: {error.strerror}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, start = data[: error.start].count(b"\n") + 1, data[: error.start].rfind(b"\n") + 1
        at = Place(name, line, error.start - start + 1)
        raise ConfigError(f"{at}: not UTF-8 (byte 0x{data[error.start]:02x}); save the file as UTF-8") from None
    root, mistakes = parse(text, name)
    if root.value is None:
        raise ConfigError(f"{name}:1:1: the file is empty; `vlmtune config show demo` prints one to start from")
    if not isinstance(root.value, dict):
        raise ConfigError(str(Mistake(root.at, f"a config is a block of keys, not {kind(root)}")))
    return replace(root, at=Place(name, 1, 1)), mistakes


def shown(file: Path) -> str:
    """A file's name in messages: relative where it lies below the current folder."""
    near = os.path.relpath(file)
    return os.path.normpath(Path.cwd() / near) if near.startswith("..") else near


def parse(text: str, source: str, in_file: bool = True) -> tuple[Node, list[Mistake]]:
    """YAML text as a tree.

    Args:
        text: one document.
        source: what messages call it.
        in_file: whether lines and columns mean something to the user.

    Raises:
        ConfigError: not YAML.
    """
    lines = _BREAK.split(text)

    def place(line: int, column: int) -> Place:
        shown_line = lines[line] if line < len(lines) else ""
        return Place(source, line + 1, column + 1, shown_line) if in_file else Place(source)

    if odd := _FORBIDDEN.search(text):
        before = _BREAK.split(text[: odd.start()])
        at = place(len(before) - 1, len(before[-1]))
        raise ConfigError(str(Mistake(at, f"character U+{ord(odd.group()):04X} is not allowed in YAML; remove it")))
    reader = _Reader(YAML(typ="safe", pure=True).parse(text), place)
    try:
        return reader.document(), reader.mistakes
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = place(mark.line, mark.column) if mark else Place(source)
        raise ConfigError(str(Mistake(at, _not_yaml(error)))) from None
    except (YAMLError, ValueError, OverflowError) as error:
        # ruamel lets chr() complain about escapes such as "\UFFFFFFFF"
        raise ConfigError(f"{place(0, 0)}: not YAML: {error}") from None


def _not_yaml(error: MarkedYAMLError) -> str:
    said = " ".join(f"{error.problem or error.context}".split())
    if r"'\t'" in said:
        return "not YAML: a tab cannot indent; use spaces"
    while_ = " ".join(f"{error.context}".split()) if error.context and error.problem else ""
    return f"not YAML: {said}" + (f" ({while_})" if while_ else "")


class _Reader:
    """The parser's events as nodes."""

    def __init__(self, stream: Iterator[Any], place: Callable[[int, int], Place]) -> None:
        self._stream = stream
        self._place = place
        self._anchors: dict[str, Node] = {}
        self.mistakes: list[Mistake] = []

    def document(self) -> Node:
        """The only document; null where there is none."""
        root: Node | None = None
        for event in self._stream:
            if isinstance(event, events.DocumentStartEvent):
                if root is not None:
                    raise self._end(event, "a second document begins; a config is one")
                root = self._node(next(self._stream), 0)
        return root or Node(None, self._place(0, 0))

    def _at(self, event: Any) -> Place:
        return self._place(event.start_mark.line, event.start_mark.column)

    def _end(self, event: Any, said: str) -> ConfigError:
        return ConfigError(str(Mistake(self._at(event), said)))

    def _wrong(self, event: Any, said: str) -> None:
        self.mistakes.append(Mistake(self._at(event), said))

    def _node(self, event: Any, depth: int) -> Node:
        if isinstance(event, events.AliasEvent):
            if event.anchor not in self._anchors:
                raise self._end(event, f"no anchor &{event.anchor} stands before this alias")
            return self._anchors[event.anchor]
        if depth > DEEPEST:
            raise self._end(event, f"more than {DEEPEST} blocks and lists inside each other")
        if event.tag is not None:
            self._wrong(event, f"tags such as {event.tag!r} are not read; write a plain value")
        if isinstance(event, events.MappingStartEvent):
            node = self._block(event, depth)
        elif isinstance(event, events.SequenceStartEvent):
            node = self._list(event, depth)
        else:
            node = Node(self._scalar(event), self._at(event))
        if node.size > LARGEST:
            raise self._end(event, f"more than {LARGEST:,} values, aliases written out")
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _scalar(self, event: Any) -> Scalar:
        value = core_scalar(event.value) if event.style is None else str(event.value)
        if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
            self._wrong(event, "half a surrogate pair is not text")
            return ""
        return value

    def _list(self, event: Any, depth: int) -> Node:
        items = []
        while not isinstance(inner := next(self._stream), events.SequenceEndEvent):
            items.append(self._node(inner, depth + 1))
        return Node(items, self._at(event), size=1 + sum(item.size for item in items))

    def _block(self, event: Any, depth: int) -> Node:
        children: dict[str, Node] = {}
        keys: dict[str, Place] = {}
        merged: list[Node] = []
        while not isinstance(inner := next(self._stream), events.MappingEndEvent):
            at, key = self._at(inner), self._node(inner, depth + 1)
            name, value = self._name(inner, key), self._node(next(self._stream), depth + 1)
            if value.value is None and value.at.line != at.line:
                value = replace(value, at=at)  # the parser puts a value that was left out where the next key begins
            if isinstance(inner, events.ScalarEvent) and inner.style is None and name == "<<":
                merged += self._bases(inner, value)
            elif name in children:
                self.mistakes.append(Mistake(at, f"key {name!r} is given twice; the first time at {keys[name]}"))
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
        self._wrong(event, "a key must be plain text")
        return None

    def _bases(self, event: Any, value: Node) -> list[Node]:
        bases = value.value if isinstance(value.value, list) else [value]
        if not all(isinstance(base.value, dict) for base in bases):
            self._wrong(event, "<< takes a block, or a list of blocks")
            return []
        return bases


def core_scalar(text: str) -> Scalar:
    """What an unquoted word means in YAML 1.2's core schema."""
    if text in _NOT_A_NUMBER:
        return _NOT_A_NUMBER[text]
    if len(text) > LONGEST_NUMBER:
        return text
    for pattern, base in ((_WHOLE, 10), (_OCTAL, 8), (_HEX, 16)):
        if pattern.fullmatch(text):
            return int(text, base)
    if _NUMBER.fullmatch(text) or _ENDLESS.fullmatch(text):
        return float(text.lower().replace(".i", "i").replace(".n", "n"))
    return text
