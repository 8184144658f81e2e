"""A resolved configuration as text with its origins, and two of them side by side."""

import json
from collections.abc import Iterator
from typing import Any

from vlmtune.config.composed import Config, config_json
from vlmtune.config.loading import LoadedConfig
from vlmtune.config.mistakes import dotted
from vlmtune.config.tree import Node, Steps


def show(loaded: LoadedConfig) -> str:
    """The resolved configuration as YAML, each value followed by where it comes from."""
    rows = list(_rows(config_json(loaded.config), (), loaded.tree))
    width = min(60, max(len(text) for text, origin in rows if origin))
    return "\n".join(f"{text:<{width}}  # {origin}" if origin else text for text, origin in rows)


def _rows(plain: Any, path: Steps, tree: Node) -> Iterator[tuple[str, str]]:
    """(line of YAML, origin) of every value below a path; blocks have lines of their own and no origin."""
    items = plain.items() if isinstance(plain, dict) else enumerate(plain)
    for key, value in items:
        here = (*path, key)
        margin, label = "  " * len(path), "-" if isinstance(key, int) else f"{key}:"
        in_blocks = isinstance(value, list) and any(isinstance(item, dict) for item in value)
        if value and (isinstance(value, dict) or in_blocks):
            yield f"{margin}{label}", ""
            yield from _rows(value, here, tree)
        else:
            node = tree.find(here)
            origin = "default" if node is None else str(node.at).rpartition(":")[0] if node.at.line else str(node.at)
            yield f"{margin}{label} {json.dumps(value, ensure_ascii=False)}", origin


def diff(a: Config, b: Config) -> list[tuple[str, Any, Any]]:
    """Where two configurations differ: (dotted path, value of `a`, value of `b`); None where one has no such key."""
    before, after = dict(_leaves(config_json(a), ())), dict(_leaves(config_json(b), ()))
    paths = [*before, *(path for path in after if path not in before)]
    return [(p, before.get(p), after.get(p)) for p in paths if before.get(p) != after.get(p)]


def _leaves(plain: Any, path: Steps) -> Iterator[tuple[str, Any]]:
    if isinstance(plain, dict):
        for key, value in plain.items():
            yield from _leaves(value, (*path, key))
    else:
        yield dotted(path), plain
