"""Loads a configuration from files and arguments: found by name, merged with what it extends, validated as a whole.

All problems are reported at once, each with its source location. Never imports torch, so that checking is instant.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vlmtune import registry
from vlmtune.config.errors import dotted, raise_problems, translate
from vlmtune.config.nodes import KeyPath, Node, Problem, SourceLocation, block, from_plain, merge
from vlmtune.config.schema import Config, config_json, fields_at
from vlmtune.config.yaml import display_path, parse, read_file
from vlmtune.errors import ConfigError

OVERRIDE = SourceLocation("override")
"""Location of values that a program passed to `load`."""


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A configuration, and the tree it was read from, which knows the source locations."""

    config: Config
    tree: Node


def load(
    name: str | os.PathLike[str],
    overrides: Sequence[str | Mapping[str, Any]] = (),
    replaced: Mapping[str, Mapping[str, Any]] | None = None,
) -> LoadedConfig:
    """Load a configuration. Precedence: defaults < `extends` files < the file < `replaced` < `overrides`.

    Args:
        name: a file, or the name of one in `configs/` here or among the shipped ones, with or without `.yaml`.
        overrides: merged in order: "a.b=c", the value parsed as YAML, or nested mappings.
        replaced: top-level blocks that replace the file's blocks entirely.

    Raises:
        ConfigError: no such file, not YAML, or invalid; lists all problems with their locations.
    """
    tree, problems = _read_with_bases(find_config(os.fspath(name)), ())
    if replaced:
        keys = dict.fromkeys(replaced, OVERRIDE)
        children = {**_children(tree), **{key: from_plain(value, OVERRIDE) for key, value in replaced.items()}}
        tree = block(children, tree.at, {**tree.keys, **keys})
    for override in overrides:
        if isinstance(override, str):
            over, wrong = _parse_override(override, tree)
            problems += wrong
        else:
            over = from_plain(override, OVERRIDE)
        tree = merge(tree, over)
    return LoadedConfig(_validated(tree, problems), tree)


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """A config with other values at some keys, given as dotted paths.

    Raises:
        ConfigError: it is invalid; lists all problems.
    """
    # Only what was written: a default may depend on the value that is changed.
    tree = from_plain(config.model_dump(mode="json", exclude_unset=True), OVERRIDE)
    for key, value in values.items():
        for name in reversed(key.split(".")):
            value = {name: value}  # noqa: PLW2901
        tree = merge(tree, from_plain(value, OVERRIDE))
    return _validated(tree, [])


def _validated(tree: Node, problems: Sequence[Problem]) -> Config:
    try:
        config = Config.model_validate_json(json.dumps(tree.plain()), strict=True)
    except ValidationError as error:
        raise_problems([*problems, *translate(error, tree, lambda path: fields_at(path, tree.plain()))])
        raise
    raise_problems(problems)
    return config


def find_config(name: str) -> Path:
    """The file of a configuration.

    Raises:
        ConfigError: no such file; lists the configs that exist.
    """
    if _is_file(Path(name)):
        return Path(name)
    if os.path.isdir(name):  # noqa: PTH112  see _is_file
        raise ConfigError(f"{name} is a folder; name one of its files")
    folders = [Path("configs"), shipped_folder()]
    for folder in folders:
        for file in (folder / name, folder / f"{name}.yaml"):
            if _is_file(file):
                return file
    known = sorted({file.stem for folder in folders for file in folder.glob("*.yaml")})
    raise ConfigError(
        f"no config {name!r}: it is neither a file nor a name in configs/; there are: {', '.join(known)}"
        + registry.did_you_mean(Path(name).name.removesuffix(".yaml"), known)
    )


def _is_file(path: Path) -> bool:
    """Unlike `Path.is_file`, False for names that are invalid or inaccessible."""
    return os.path.isfile(path)  # noqa: PTH113


def shipped_folder() -> Path:
    """Folder of the shipped configs: in the package, or next to `src` in a source checkout."""
    packaged = Path(__file__).parents[1] / "assets" / "configs"
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "configs"


def _children(node: Node) -> dict[str, Node]:
    return node.value if isinstance(node.value, dict) else {}


def load_config(name: str | os.PathLike[str], overrides: Sequence[str | Mapping[str, Any]] = ()) -> Config:
    """Load a configuration by file or name; see `load`, which also returns where each value comes from."""
    return load(name, overrides).config


def parse_overrides(texts: Sequence[str]) -> dict[str, Any]:
    """Parse arguments "a.b=c" into nested plain values, for commands that read no config.

    Raises:
        ConfigError: lists all problems.
    """
    tree = block({}, OVERRIDE, {})
    problems: list[Problem] = []
    for text in texts:
        over, wrong = _parse_override(text, tree)
        tree, problems = merge(tree, over), problems + wrong
    raise_problems(problems)
    plain: dict[str, Any] = tree.plain()
    return plain


def _read_with_bases(file: Path, chain: tuple[Path, ...]) -> tuple[Node, list[Problem]]:
    """A file merged over the files it extends; `chain` lists the files that led here."""
    tree, problems = read_file(file)
    children = _children(tree)
    extends = children.get("extends")
    if extends is None:
        return tree, problems
    chain = (*chain, file.resolve())
    this = block({key: node for key, node in children.items() if key != "extends"}, tree.at, tree.keys)
    merged = block({}, tree.at, {})
    for node in extends.value if isinstance(extends.value, list) else [extends]:
        base = file.parent / node.value if isinstance(node.value, str) else None
        if base is None:
            problems.append(Problem(node.at, "extends takes the name of a file, or a list of them"))
        elif not _is_file(base):
            problems.append(Problem(node.at, f"extends: there is no file {display_path(base)}"))
        elif base.resolve() in chain:
            cycle = [*chain[chain.index(base.resolve()) :], base.resolve()]
            problems.append(Problem(node.at, f"extends is circular: {' -> '.join(map(display_path, cycle))}"))
        else:
            inherited, wrong = _read_with_bases(base, chain)
            problems += wrong
            merged = merge(merged, inherited)
    return merge(merged, this), problems


def _parse_override(text: str, tree: Node) -> tuple[Node, list[Problem]]:
    """An argument "a.b=c" as a tree to merge over `tree`."""
    at = SourceLocation(f"--set {text}")
    empty = block({}, at, {})
    path, equals, written = text.partition("=")
    steps = path.strip().split(".")
    if not equals or not all(steps):
        return empty, [Problem(at, "write --set key=value, as in --set training.learning_rate=1e-4")]
    if steps[0] == "extends":
        return empty, [Problem(at, "extends is only read from files")]
    for length in range(1, len(steps)):
        parent, name = tree.find(tuple(steps[:length])), dotted(steps[:length])
        if parent is not None and isinstance(parent.value, list):
            return empty, [Problem(at, f"{name} is a list; set it as a whole: --set '{name}=[…]'")]
        if parent is not None and parent.value is not None and not isinstance(parent.value, dict):
            return empty, [Problem(at, f"{name} is a value and has no keys")]
    try:
        node, problems = parse(written, at.source, in_file=False)
    except ConfigError as error:
        return empty, [Problem(at, str(error).removeprefix(f"{at}: "))]
    for step in reversed(steps):
        node = block({step: node}, at, {step: at})
    return node, problems


def show(loaded: LoadedConfig) -> str:
    """The resolved configuration as YAML, each value followed by its source location."""
    rows = list(_rows(config_json(loaded.config), (), loaded.tree))
    width = min(60, max(len(text) for text, source in rows if source))
    return "\n".join(f"{text:<{width}}  # {source}" if source else text for text, source in rows)


def _rows(plain: Any, path: KeyPath, tree: Node) -> Iterator[tuple[str, str]]:
    """(line of YAML, source) of every value below a path; the line that opens a block has no source."""
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
            source = "default" if node is None else str(node.at).rpartition(":")[0] if node.at.line else str(node.at)
            yield f"{margin}{label} {json.dumps(value, ensure_ascii=False)}", source
