"""Mutated configs, in structure and in bytes: they load, and then show and reload the same, or are named mistakes.

By itself, with more rounds and another seed: PYTHONPATH=tests python tests/fuzz/test_fuzz_configs.py ROUNDS SEED.
"""

import copy
import json
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import ROOT
from fuzzing import hunt, mutated
from ruamel.yaml import YAML

from vlmtune.config import Config, load
from vlmtune.config.loader import show
from vlmtune.config.schema import config_json

ROUNDS, SOAKED = 40, 800
"""Of each shipped config; 10,000 and more in a soak."""

TEXTS = {file.name: file.read_text(encoding="utf-8") for file in sorted((ROOT / "configs").glob("*.yaml"))}
TREES: dict[str, Any] = {name: YAML(typ="safe", pure=True).load(text) for name, text in TEXTS.items()}

VALUES: list[Any] = [
    None, True, 0, -1, 1, 0.5, -0.0, 1e308, 10**40, float("inf"), float("nan"), "", " ", "auto", "tiny", "jsonl",
    "hub", "vqa", "grounding", "extraction", "openai", "vllm", "${env:HOME}", "${env:", "..", "a.b", ".", "os.path",
    "x" * 3000, "\u2028é\U0001f600", "$", "{", "%s %d {0}", "demo.yaml", "/", "~", [], {}, [[]], [None], [{}],
    {"": 1}, {"a": {"b": []}}, {"extends": "x"}, ["demo.yaml", "vqa.yaml"],
]  # fmt: skip


def places(tree: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all values in a tree."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*above, key)
        yield from places(value, (*above, key))


def at(tree: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        tree = tree[step]
    return tree


def restructured(tree: Any, rng: random.Random) -> Any:
    """A config with something taken out, put in, exchanged, renamed, wrapped, or taken from another config."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.randint(1, 3)):
        known = list(places(tree))
        if not known:
            return tree
        *above, last = rng.choice(known)
        holder = at(tree, tuple(above))
        other = TREES[rng.choice(sorted(TREES))]
        change = rng.randrange(7)
        if change == 0:
            del holder[last]
        elif change == 1:
            holder[last] = copy.deepcopy(rng.choice(VALUES))
        elif change == 2:
            holder[last] = rng.choice([[holder[last]], {"name": holder[last]}, str(holder[last])])
        elif change == 3:
            holder[last] = copy.deepcopy(at(other, rng.choice(list(places(other)))))
        elif change == 4 and isinstance(holder, dict):
            name = list(str(last))
            name.insert(rng.randrange(len(name) + 1), rng.choice("e_- \t.é"))
            holder["".join(name)] = holder.pop(last)
        elif change == 5 and isinstance(holder, dict):
            holder[rng.choice([*other, "seed", "name", "limit"])] = copy.deepcopy(rng.choice(VALUES))
        else:
            *elsewhere, name = rng.choice(known)
            there = at(tree, tuple(elsewhere))
            there[name], holder[last] = copy.deepcopy(holder[last]), copy.deepcopy(there[name])
    return tree


def broken(name: str, folder: Path) -> Callable[[random.Random], None]:
    """A case of a hunt: load a mutated config; what loads is shown, and is the same when it is read again."""

    for other, text in TEXTS.items():  # what it extends
        (folder / other).write_text(text, encoding="utf-8")

    def case(rng: random.Random) -> None:
        data = TEXTS[name].encode()
        if rng.random() < 0.6:
            data = json.dumps(restructured(TREES[name], rng), ensure_ascii=rng.random() < 0.5, indent=1).encode()
        if rng.random() < 0.5:
            data = mutated(data, rng)
        (folder / "c.yaml").write_bytes(data)
        loaded = load("c.yaml")
        assert show(loaded)
        plain = config_json(loaded.config)
        assert config_json(Config.model_validate_json(json.dumps(plain), strict=True)) == plain

    return case


@pytest.mark.parametrize("name", TEXTS)
def test_broken_configs_load_or_are_named_mistakes(
    name: str, tmp_path: Path, soak: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ends = hunt(name, SOAKED if soak else ROUNDS, broken(name, tmp_path))
    assert min(ends["fine"], ends["error"]) >= 1, "the damage is too heavy or too light to say anything"


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as made:
        os.chdir(made)
        for each in TEXTS:
            print(each, dict(hunt(each, int(sys.argv[1]), broken(each, Path(made)), int(sys.argv[2]))), flush=True)
