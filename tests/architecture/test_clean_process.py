"""What a fresh process imports. Inspecting configs and results must neither wait for torch nor need it."""

import json
import sys
from pathlib import Path

import pytest
from builders import lines
from commands import command
from sources import HEAVY

CHILD = """
import json, sys
from vlmtune.cli.app import main
for words in json.loads(sys.argv[1]):
    sys.argv[1:] = words.split()
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, (words, ended.code)
    print("loaded:", *sorted(name for name in sys.modules if "." not in name), file=sys.stderr)
"""
"""Runs commands in one process and writes after each what has been imported by then."""

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


def loaded(folder: Path, *commands: str) -> list[set[str]]:
    """Top-level modules that a fresh process has imported after each of several successful `vlmtune` commands."""
    ended = command(sys.executable, "-c", CHILD, json.dumps(commands), cwd=folder)
    assert ended.returncode == 0, ended.stderr
    said = [line for line in ended.stderr.splitlines() if line.startswith("loaded:")]
    return [set(line.split()[1:]) for line in said]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("clean")
    for name, noise in (("a", 0.6), ("b", 0.3)):
        text = "".join(line.to_json() + "\n" for line in lines(30, noise))
        (made / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return made


def test_looking_loads_nothing_heavy(folder: Path) -> None:
    sets = loaded(folder, *WITHOUT_TORCH)
    first = next(
        ((words, heavy) for words, one in zip(WITHOUT_TORCH, sets, strict=True) if (heavy := one & HEAVY)), None
    )
    assert first is None


def test_help_does_not_even_load_configs(folder: Path) -> None:
    assert loaded(folder, "--help")[0] & {"numpy", "pydantic", "ruamel", "jinja2", "PIL"} == set()


def test_importing_the_package_loads_only_the_standard_library(tmp_path: Path) -> None:
    code = "import sys, json, vlmtune; print(json.dumps(sorted(sys.modules)))"
    alone = json.loads(command(sys.executable, "-c", code.replace(", vlmtune", ""), cwd=tmp_path).stdout)
    ended = command(sys.executable, "-c", code, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    new = {name.split(".")[0] for name in set(json.loads(ended.stdout)) - set(alone)}
    assert new - sys.stdlib_module_names == {"vlmtune"}
