"""What pydantic found wrong, in our words and with the place where it was written.

Knows the tree and pydantic's kinds of error; what keys a block may have it is told by its caller.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from vlmtune.config.nodes import Mistake, Node, Place, Steps, kind
from vlmtune.config.yaml import core_scalar
from vlmtune.errors import ConfigError
from vlmtune.registry import RENAMED_ROLES, did_you_mean, renamed

Fields = dict[str, str]
"""Keys a block may have, and the first sentence about each."""

DEEPEST = 4
"""Blocks inside each other in which a misplaced key is looked for."""

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


def dotted(path: Iterable[str | int]) -> str:
    """A path as it is written: training.lora.rank, tracking[0].to."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


def one_of(got: str, names: Sequence[str]) -> str:
    """The end of a sentence about a name that is none of `names`."""
    word = got.strip("'")
    word = RENAMED_ROLES.get(word, word)
    known = f"one of {', '.join(names)}" if len(names) > 1 else "".join(names)
    return f"must be {known} (got {got})" + did_you_mean(word, list(names))


def judgement(said: str, *keys: str, loc: Steps = (), value: Any = None) -> InitErrorDetails:
    """A mistake that a check of ours found.

    Args:
        said: the sentence; "{0}" stands for the dotted path of the first key, "{1}" for that of the second.
        keys: keys of the block that contradict each other, the one to change first; none where a value is wrong by
            itself.
        loc: where the value stands, relative to what is being checked.
        value: the value.
    """
    kind_ = PydanticCustomError("judgement", "{said}", {"said": said, "keys": list(keys)})
    return InitErrorDetails(type=kind_, loc=loc, input=value)


def refuse(title: str, found: Sequence[InitErrorDetails]) -> None:
    """Raise what was found as pydantic's own error, if anything was.

    Raises:
        ValidationError: something was found.
    """
    if found:
        raise ValidationError.from_exception_data(title, list(found))


def report(mistakes: Sequence[Mistake]) -> None:
    """Raise all mistakes as one error, files first, in the order of their lines.

    Raises:
        ConfigError: there is a mistake.
    """
    if not mistakes:
        return
    ordered = sorted(mistakes, key=lambda m: (m.at.line is None, m.at.source, m.at.line or 0, m.at.column or 0))
    lines = list(dict.fromkeys(str(mistake) for mistake in ordered))
    count = "1 error" if len(lines) == 1 else f"{len(lines)} errors"
    raise ConfigError("\n".join([*lines, f"{count}; nothing was started"]))


def explain(error: ValidationError, root: Node, fields: Callable[[Steps], Fields]) -> list[Mistake]:
    """Every mistake in a sentence.

    Args:
        error: what pydantic raised about the plain values of `root`.
        root: the tree.
        fields: the keys that the block at a path may have.
    """
    found: dict[Steps, list[tuple[Steps, ErrorDetails]]] = {}
    for detail in error.errors(include_url=False):
        path, choice = _walk(root, detail)
        found.setdefault(path if choice is None else choice, []).append((path, detail))
    explainer = _Explainer(root, fields)
    return [mistake for start, group in found.items() for mistake in explainer.group(start, group)]


def _walk(root: Node, detail: ErrorDetails) -> tuple[Steps, Steps | None]:
    """Where in the tree an error stands; and, where the value may be of several kinds, where that value stands.

    pydantic puts the name of the kind it tried into the location; it is no key of the tree.
    """
    node = root
    path: Steps = ()
    choice: Steps | None = None
    for step in detail["loc"]:
        inner = node.child(step)
        if inner is not None:
            node, path = inner, (*path, step)
        elif detail["type"] == "missing" and step == detail["loc"][-1]:
            path = (*path, step)
        elif choice is None and detail["type"] != "judgement":
            choice = path
    return path, choice


class _Explainer:
    def __init__(self, root: Node, fields: Callable[[Steps], Fields]) -> None:
        self._root = root
        self._fields = fields

    def group(self, start: Steps, found: list[tuple[Steps, ErrorDetails]]) -> Iterator[Mistake]:
        """Errors about one value: several where it may be of several kinds and fits none."""
        deepest = max(len(path) for path, _ in found)
        kept = [(path, detail) for path, detail in found if len(path) == deepest]
        shapes = list(dict.fromkeys(_SHAPES.get(detail["type"], "") for _, detail in kept))
        if deepest == len(start) and len(shapes) > 1 and all(shapes):
            yield self._at(start, f"{dotted(start)} must be {' or '.join(shapes)} (got {kind(self._node(start))})")
            return
        for path, detail in kept:
            yield self._one(path, detail)

    def _one(self, path: Steps, detail: ErrorDetails) -> Mistake:
        kind_, context = detail["type"], detail.get("ctx", {})
        if kind_ == "extra_forbidden":
            return Mistake(self._key(path), f"unknown key {dotted(path)!r}{self._nearest(path)}")
        if kind_ == "missing":
            meaning = self._fields(path[:-1]).get(str(path[-1]), "")
            said = f"key {dotted(path)!r} is missing" + (f": {meaning}" if meaning else "")
            return Mistake(self._key(path[:-1]), said)
        if kind_ == "judgement":
            return self._judged(path, context["said"], context["keys"])
        if kind_ == "secret":  # the line, or the argument, holds what must not be shown
            at = self._node(path).at
            source = at.source if at.line is not None else at.source.partition("=")[0]
            return Mistake(replace(at, text="", source=source), f"{dotted(path)} {detail['msg']}")
        return self._at(path, f"{dotted(path)}{self._value(path, detail)}")

    def _value(self, path: Steps, detail: ErrorDetails) -> str:
        """What is wrong with a value by itself, behind its name."""
        kind_, context, got = detail["type"], detail.get("ctx", {}), kind(self._node(path))
        if kind_ == "literal_error":
            return f" {one_of(got, _names(context['expected']))}"
        if kind_ in _RANGES:
            words, key = _RANGES[kind_]
            return f" must be {words} {_number(context[key])} (got {got})"
        if kind_ in _SHAPES:
            return f" must be {_SHAPES[kind_]} (got {got}){self._advice(kind_, path)}"
        return f": {detail['msg']}"

    def _judged(self, path: Steps, said: str, keys: list[str]) -> Mistake:
        """A mistake of several keys stands at the first one that was written, and names the places of the others."""
        if not keys:
            return self._at(path, f"{dotted(path)} {said}")
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
            said = said.replace(f"{{{n}}}", name)
        return Mistake(at, said + (f" ({', '.join(others)})" if others else ""))

    def _advice(self, kind_: str, path: Steps) -> str:
        value = self._node(path).value
        if kind_ == "string_type" and isinstance(value, bool | int | float):
            return "; put it in quotes"
        if kind_ == "list_type" and isinstance(value, str) and len(value) <= 60 and not self._fields((*path, 0)):
            return f"; write [{value}]"
        is_number = isinstance(value, str) and isinstance(core_scalar(value), int | float)
        return "; leave the quotes out" if is_number and kind_ in ("int_type", "float_type") else ""

    def _nearest(self, path: Steps) -> str:
        if new := renamed(path):
            return f"; it is called {new!r} now"
        key, known = str(path[-1]), self._fields(path[:-1])
        if hint := did_you_mean(key, list(known)):
            return hint
        elsewhere = [dotted((*start, key)) for start in self._blocks(()) if key in self._fields(start)]
        return f"; did you mean {elsewhere[0]!r}?" if len(elsewhere) == 1 else _listed(known)

    def _blocks(self, path: Steps) -> Iterator[Steps]:
        """Paths of all blocks that a configuration may have."""
        for key in self._fields(path) if len(path) < DEEPEST else ():
            if self._fields((*path, key)):
                yield (*path, key)
                yield from self._blocks((*path, key))

    def _node(self, path: Steps) -> Node:
        node = self._root.find(path)
        assert node is not None, path
        return node

    def _at(self, path: Steps, said: str) -> Mistake:
        return Mistake(self._node(path).at, said)

    def _key(self, path: Steps) -> Place:
        """Where the key of a path stands; the value itself where it has none, as in a list."""
        if not path:
            return self._root.at
        above = self._node(path[:-1])
        return above.keys.get(str(path[-1])) or self._node(path).at


def _names(expected: str) -> list[str]:
    """The choices in pydantic's "'a', 'b' or 'c'"."""
    return re.findall(r"'([^']*)'", expected) or re.split(r", | or ", expected)


def _listed(known: Fields) -> str:
    return f"; there are: {', '.join(known)}" if known else ""


def _near(place: Place, other: Place) -> str:
    return f"line {place.line}" if place.source == other.source and place.line is not None else str(place)


def _number(limit: Any) -> str:
    return f"{limit:g}" if isinstance(limit, int | float) else str(limit)
