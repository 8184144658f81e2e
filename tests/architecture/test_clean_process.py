"""What a fresh process imports. Inspecting configs and results must neither wait for torch nor need it."""

import json
import sys
from pathlib import Path

import pytest
from builders import lines
from commands import command
from sources import HEAVY

CHILD = """
import sys
from vlmtune.cli.app import main
try:
    main()
finally:
    print("loaded:", *sorted(name for name in sys.modules if "." not in name), file=sys.stderr)
"""
WITHOUT_TORCH = [
    "--help",
    "run --help",
    "config check demo.yaml",
    "config show flickr8k_captioning.yaml",
    "config schema",
    "plan demo.yaml --set dataset.limit.train=24",
    "data check demo.yaml --set dataset.limit.train=24",
    "data show demo.yaml --row 3",
    "data stats demo.yaml --set dataset.limit.train=24",
    "runs ls .",
    "score a.jsonl",
    "compare a.jsonl b.jsonl",
    "compare a.jsonl b.jsonl -o page.html",
]


def loaded(folder: Path, *words: str) -> set[str]:
    """Top-level modules that a successful `vlmtune` command has imported."""
    ended = command(sys.executable, "-c", CHILD, *words, cwd=folder)
    assert ended.returncode == 0, ended.stderr
    return set(ended.stderr.splitlines()[-1].removeprefix("loaded:").split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("clean")
    for name, noise in (("a", 0.6), ("b", 0.3)):
        text = "".join(line.to_json() + "\n" for line in lines(30, noise))
        (made / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return made


@pytest.mark.parametrize("words", WITHOUT_TORCH)
def test_looking_loads_nothing_heavy(words: str, folder: Path) -> None:
    assert loaded(folder, *words.split()) & HEAVY == set()


def test_help_does_not_even_load_configs(folder: Path) -> None:
    assert loaded(folder, "--help") & {"numpy", "pydantic", "ruamel", "jinja2", "PIL"} == set()


def test_importing_the_package_loads_only_the_standard_library(tmp_path: Path) -> None:
    code = "import sys, json, vlmtune; print(json.dumps(sorted(sys.modules)))"
    alone = json.loads(command(sys.executable, "-c", code.replace(", vlmtune", ""), cwd=tmp_path).stdout)
    ended = command(sys.executable, "-c", code, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    new = {name.split(".")[0] for name in set(json.loads(ended.stdout)) - set(alone)}
    assert new - sys.stdlib_module_names == {"vlmtune"}
