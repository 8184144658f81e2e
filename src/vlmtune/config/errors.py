"""Turns validation errors of pydantic into messages with their source location.

Knows the node tree and pydantic's error types; the caller supplies the keys that a block may have.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from vlmtune.config.nodes import KeyPath, Node, Problem, SourceLocation, describe
from vlmtune.config.yaml import core_scalar
from vlmtune.errors import ConfigError
from vlmtune.registry import REMOVED_KEYS, RENAMED_ROLES, available, did_you_mean, load, renamed

Fields = dict[str, str]
"""The keys of a block, each with the first sentence of its documentation."""

SEARCH_DEPTH = 4
"""Levels of nested blocks in which a misplaced key is searched for."""

_SHAPES = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "a block of keys",
    "model_type": "a block of keys",
    "model_attributes_type": "a block of keys",
}
_RANGES = {
    "greater_than": ("greater than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}


def _engines_with(key: str) -> list[str]:
    """The engines that know a key of `inference`, if not all of them do."""
    names = available("engines")
    knowing = [name for name in names if key in load("engines", name).Config.model_fields]
    return knowing if len(knowing) < len(names) else []


def dotted(path: Iterable[str | int]) -> str:
    """A key path in text form: training.lora.rank, tracking[0].to."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


def one_of(got: str, names: Sequence[str]) -> str:
    """The end of a sentence about a value that is not one of `names`."""
    word = got.strip("'")
    word = RENAMED_ROLES.get(word, word)
    known = f"one of {', '.join(names)}" if len(names) > 1 else "".join(names)
    return f"must be {known} (got {got})" + did_you_mean(word, list(names))


def invalid(message: str, *keys: str, loc: KeyPath = (), value: Any = None) -> InitErrorDetails:
    """The error of one of our own validators.

    Args:
        message: the sentence; "{0}" is replaced by the dotted path of the first key, "{1}" by that of the second.
        keys: keys of the block that contradict each other, the one to change first; empty if one value is invalid.
        loc: path of the value, relative to what is being validated.
        value: the value.
    """
    error = PydanticCustomError("vlmtune", "{message}", {"message": message, "keys": list(keys)})
    return InitErrorDetails(type=error, loc=loc, input=value)


def raise_invalid(title: str, errors: Sequence[InitErrorDetails]) -> None:
    """Raise pydantic's ValidationError unless there are no errors."""
    if errors:
        raise ValidationError.from_exception_data(title, list(errors))


def raise_problems(problems: Sequence[Problem]) -> None:
    """Raise one ConfigError for all problems, if any: those in files first, in line order."""
    if not problems:
        return
    ordered = sorted(problems, key=lambda p: (p.at.line is None, p.at.source, p.at.line or 0, p.at.column or 0))
    lines = list(dict.fromkeys(str(problem) for problem in ordered))
    count = "1 error" if len(lines) == 1 else f"{len(lines)} errors"
    raise ConfigError("\n".join([*lines, f"{count}; nothing was started"]))


def translate(error: ValidationError, root: Node, fields: Callable[[KeyPath], Fields]) -> list[Problem]:
    """Translate a validation error into problems.

    Args:
        error: what pydantic raised for the plain values of `root`.
        root: the tree.
        fields: returns the keys that the block at a path may have.
    """
    groups: dict[KeyPath, list[tuple[KeyPath, ErrorDetails]]] = {}
    for detail in error.errors(include_url=False):
        path, union = _locate(root, detail)
        groups.setdefault(path if union is None else union, []).append((path, detail))
    explainer = _Explainer(root, fields)
    return [problem for start, group in groups.items() for problem in explainer.group(start, group)]


def _locate(root: Node, detail: ErrorDetails) -> tuple[KeyPath, KeyPath | None]:
    """Path of an error in the tree; and, if it is inside a value of a union type, the path of that value.

    pydantic adds the name of the union member it tried to the location: ("dataset", "image", "list[str]", 1) is the
    path ("dataset", "image", 1) of the union at ("dataset", "image").
    """
    node = root
    path: KeyPath = ()
    union: KeyPath | None = None
    for step in detail["loc"]:
        inner = node.child(step)
        if inner is not None:
            node, path = inner, (*path, step)
        elif detail["type"] == "missing" and step == detail["loc"][-1]:
            path = (*path, step)
        elif union is None and detail["type"] != "vlmtune":
            union = path
    return path, union


class _Explainer:
    def __init__(self, root: Node, fields: Callable[[KeyPath], Fields]) -> None:
        self._root = root
        self._fields = fields

    def group(self, start: KeyPath, errors: list[tuple[KeyPath, ErrorDetails]]) -> Iterator[Problem]:
        """Problems of one value; pydantic reports several errors for a union of which no member fits."""
        deepest = max(len(path) for path, _ in errors)
        kept = [(path, detail) for path, detail in errors if len(path) == deepest]
        shapes = list(dict.fromkeys(_SHAPES.get(detail["type"], "") for _, detail in kept))
        if deepest == len(start) and len(shapes) > 1 and all(shapes):
            yield self._at(start, f"{dotted(start)} must be {' or '.join(shapes)} (got {describe(self._node(start))})")
            return
        for path, detail in kept:
            yield self._one(path, detail)

    def _one(self, path: KeyPath, detail: ErrorDetails) -> Problem:
        code, context = detail["type"], detail.get("ctx", {})
        if code == "extra_forbidden":
            return Problem(self._key(path), f"unknown key {dotted(path)!r}{self._nearest(path)}")
        if code == "missing":
            meaning = self._fields(path[:-1]).get(str(path[-1]), "")
            message = f"key {dotted(path)!r} is missing" + (f": {meaning}" if meaning else "")
            return Problem(self._key(path[:-1]), message)
        if code == "vlmtune":
            if not context["keys"]:
                return self._at(path, f"{dotted(self._full(path, detail['loc']))} {context['message']}")
            return self._contradiction(path, context["message"], context["keys"])
        if code == "secret":  # neither the line nor the argument may be shown
            at = self._node(path).at
            source = at.source if at.line is not None else at.source.partition("=")[0]
            return Problem(replace(at, text="", source=source), f"{dotted(path)} {detail['msg']}")
        return self._at(path, f"{dotted(path)}{self._value(path, detail)}")

    def _full(self, path: KeyPath, loc: KeyPath) -> KeyPath:
        """The path of a value whose default is wrong: what was left out has no place in the tree."""
        rest = loc[len(path) :]
        return loc if rest and loc[: len(path)] == path and rest[0] in self._fields(path) else path

    def _value(self, path: KeyPath, detail: ErrorDetails) -> str:
        """What is wrong with a single value; follows its name."""
        code, context, got = detail["type"], detail.get("ctx", {}), describe(self._node(path))
        if code == "literal_error":
            return f" {one_of(got, _names(context['expected']))}"
        if code in _RANGES:
            words, key = _RANGES[code]
            return f" must be {words} {_number(context[key])} (got {got})"
        if code in _SHAPES:
            return f" must be {_SHAPES[code]} (got {got}){self._advice(code, path)}"
        return f": {detail['msg']}"

    def _contradiction(self, path: KeyPath, message: str, keys: list[str]) -> Problem:
        """A contradiction between keys is located at the first one that was written, and names where the others are."""
        paths = [(*path, *key.split(".")) for key in keys]
        written = [(dotted(each), self._root.find(each)) for each in paths]
        first = next((n for n, (_, node) in enumerate(written) if node is not None), 0)
        node = written[first][1]
        at = node.at if node is not None else self._key(path)
        others = [
            f"{name} is the default" if node is None else f"{name}: {_near(node.at, at)}"
            for n, (name, node) in enumerate(written)
            if n != first
        ]
        for n, (name, _) in enumerate(written):
            message = message.replace(f"{{{n}}}", name)
        return Problem(at, message + (f" ({', '.join(others)})" if others else ""))

    def _advice(self, code: str, path: KeyPath) -> str:
        value = self._node(path).value
        if code == "string_type" and isinstance(value, bool | int | float):
            return "; put it in quotes"
        if code == "list_type" and isinstance(value, str) and len(value) <= 60 and not self._fields((*path, 0)):
            return f"; write [{value}]"
        is_number = isinstance(value, str) and isinstance(core_scalar(value), int | float)
        return "; leave the quotes out" if is_number and code in ("int_type", "float_type") else ""

    def _nearest(self, path: KeyPath) -> str:
        if new := renamed(dotted(path)):
            return f"; it is called {new!r} now"
        if advice := REMOVED_KEYS.get(dotted(path)):
            return f", which was removed: {advice}"
        key, known = str(path[-1]), self._fields(path[:-1])
        if path[0] == "inference" and (engines := _engines_with(key)):
            return f"; the engine here has none, but {' and '.join(engines)} do (inference.engine)"
        if hint := did_you_mean(key, list(known)):
            return hint
        others = [start for start in self._blocks(()) if key in self._fields(start)]
        shallow = [dotted((*start, key)) for start in others if len(start) == min(map(len, others))]
        return did_you_mean(shallow[0], shallow) if len(shallow) == 1 else _listed(known)

    def _blocks(self, path: KeyPath) -> Iterator[KeyPath]:
        """Paths of all blocks that a configuration can have."""
        for key in self._fields(path) if len(path) < SEARCH_DEPTH else ():
            if self._fields((*path, key)):
                yield (*path, key)
                yield from self._blocks((*path, key))

    def _node(self, path: KeyPath) -> Node:
        node = self._root.find(path)
        assert node is not None, path
        return node

    def _at(self, path: KeyPath, message: str) -> Problem:
        return Problem(self._node(path).at, message)

    def _key(self, path: KeyPath) -> SourceLocation:
        """Location of the key at a path; of the value itself if it has no key, as in a list."""
        if not path:
            return self._root.at
        parent = self._node(path[:-1])
        return parent.keys.get(str(path[-1])) or self._node(path).at


def _names(expected: str) -> list[str]:
    """The choices in pydantic's "'a', 'b' or 'c'"."""
    return re.findall(r"'([^']*)'", expected) or re.split(r", | or ", expected)


def _listed(known: Fields) -> str:
    return f"; there are: {', '.join(known)}" if known else ""


def _near(location: SourceLocation, other: SourceLocation) -> str:
    return f"line {location.line}" if location.source == other.source and location.line is not None else str(location)


def _number(limit: Any) -> str:
    return f"{limit:g}" if isinstance(limit, int | float) else str(limit)
