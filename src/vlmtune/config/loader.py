"""A configuration from files and arguments: found by name, laid over what it extends, judged as a whole.

All mistakes are reported at once, each with its place. Imports no torch: a config is checked in a moment.

A resolved configuration as text with its origins, and two of them side by side.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vlmtune import registry
from vlmtune.config.errors import dotted, explain, report
from vlmtune.config.nodes import Mistake, Node, Place, Steps, block, from_plain, lay_over
from vlmtune.config.schema import Config, config_json, fields_at
from vlmtune.config.yaml import parse, read_file, shown
from vlmtune.errors import ConfigError

OVERRIDE = Place("override")
"""Where values come from that a program laid over a config."""


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A configuration, and the tree of what was written, which knows where."""

    config: Config
    tree: Node


def load(
    name: str | os.PathLike[str],
    overrides: Sequence[str | Mapping[str, Any]] = (),
    replaced: Mapping[str, Mapping[str, Any]] | None = None,
) -> LoadedConfig:
    """Read and judge a configuration. Precedence: defaults < `extends` files < the file < replaced < overrides.

    Args:
        name: a file; or the name of one in `configs/` here, or among the shipped ones, with or without `.yaml`.
        overrides: laid over in order: "a.b=c", the value read as YAML, or nested mappings.
        replaced: top-level blocks that replace the file's own as a whole.

    Raises:
        ConfigError: no such file, not YAML; or all mistakes in it at once, each with its place.
    """
    tree, mistakes = _with_bases(find(os.fspath(name)), ())
    if replaced:
        keys = dict.fromkeys(replaced, OVERRIDE)
        children = {**_children(tree), **{key: from_plain(value, OVERRIDE) for key, value in replaced.items()}}
        tree = block(children, tree.at, {**tree.keys, **keys})
    for override in overrides:
        if isinstance(override, str):
            over, wrong = _argument(override, tree)
            mistakes += wrong
        else:
            over = from_plain(override, OVERRIDE)
        tree = lay_over(tree, over)
    try:
        config = Config.model_validate_json(json.dumps(tree.plain()), strict=True)
    except ValidationError as error:
        report([*mistakes, *explain(error, tree, lambda path: fields_at(path, tree.plain()))])
        raise
    report(mistakes)
    return LoadedConfig(config, tree)


def find(name: str) -> Path:
    """The file of a configuration.

    Raises:
        ConfigError: there is none; lists those that exist.
    """
    if _is_file(Path(name)):
        return Path(name)
    if os.path.isdir(name):  # noqa: PTH112  see _is_file
        raise ConfigError(f"{name} is a folder; name one of its files")
    folders = [Path("configs"), shipped()]
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
    """Unlike `Path.is_file`, False for what cannot be a file's name or may not be looked at, too."""
    return os.path.isfile(path)  # noqa: PTH113


def shipped() -> Path:
    """Folder of the configs that come with vlmtune: in the package, or beside `src` in a source checkout."""
    packaged = Path(__file__).parents[1] / "assets" / "configs"
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "configs"


def _children(node: Node) -> dict[str, Node]:
    return node.value if isinstance(node.value, dict) else {}


def load_config(name: str | os.PathLike[str], overrides: Sequence[str | Mapping[str, Any]] = ()) -> Config:
    """A configuration by its file or name; `load` also tells where each value comes from. Same errors."""
    return load(name, overrides).config


def arguments(texts: Sequence[str]) -> dict[str, Any]:
    """Arguments "a.b=c" as nested plain values, for commands that read no config.

    Raises:
        ConfigError: all mistakes in them at once.
    """
    tree = block({}, OVERRIDE, {})
    mistakes: list[Mistake] = []
    for text in texts:
        over, wrong = _argument(text, tree)
        tree, mistakes = lay_over(tree, over), mistakes + wrong
    report(mistakes)
    plain: dict[str, Any] = tree.plain()
    return plain


def _with_bases(file: Path, above: tuple[Path, ...]) -> tuple[Node, list[Mistake]]:
    """A file laid over the files it extends; `above` are the files that led here."""
    tree, mistakes = read_file(file)
    children = _children(tree)
    extends = children.get("extends")
    if extends is None:
        return tree, mistakes
    above = (*above, file.resolve())
    own = block({key: node for key, node in children.items() if key != "extends"}, tree.at, tree.keys)
    merged = block({}, tree.at, {})
    for node in extends.value if isinstance(extends.value, list) else [extends]:
        base = file.parent / node.value if isinstance(node.value, str) else None
        if base is None:
            mistakes.append(Mistake(node.at, "extends takes the name of a file, or a list of them"))
        elif not _is_file(base):
            mistakes.append(Mistake(node.at, f"extends: there is no file {shown(base)}"))
        elif base.resolve() in above:
            circle = [*above[above.index(base.resolve()) :], base.resolve()]
            mistakes.append(Mistake(node.at, f"extends goes in a circle: {' -> '.join(map(shown, circle))}"))
        else:
            under, wrong = _with_bases(base, above)
            mistakes += wrong
            merged = lay_over(merged, under)
    return lay_over(merged, own), mistakes


def _argument(text: str, tree: Node) -> tuple[Node, list[Mistake]]:
    """An argument "a.b=c" as what it lays over the tree."""
    at = Place(f"--set {text}")
    nothing = block({}, at, {})
    path, equals, written = text.partition("=")
    steps = path.strip().split(".")
    if not equals or not all(steps):
        return nothing, [Mistake(at, "write --set key=value, as in --set training.learning_rate=1e-4")]
    if steps[0] == "extends":
        return nothing, [Mistake(at, "extends is read from files alone")]
    for length in range(1, len(steps)):
        above, name = tree.find(tuple(steps[:length])), dotted(steps[:length])
        if above is not None and isinstance(above.value, list):
            return nothing, [Mistake(at, f"{name} is a list; set it as a whole: --set '{name}=[…]'")]
        if above is not None and above.value is not None and not isinstance(above.value, dict):
            return nothing, [Mistake(at, f"{name} is a value and has no keys")]
    try:
        node, mistakes = parse(written, at.source, in_file=False)
    except ConfigError as error:
        return nothing, [Mistake(at, str(error).removeprefix(f"{at}: "))]
    for step in reversed(steps):
        node = block({step: node}, at, {step: at})
    return node, mistakes


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
