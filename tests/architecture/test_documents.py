"""The documentation is right: commands parse with the real parsers, and run unless that takes a GPU or minutes;
YAML examples are valid configs; Python examples name what exists; links lead somewhere.

Commands are in fences marked `bash`, or `console` after "$ ".
"""

import ast
import functools
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from builders import lines
from commands import ROOT, vlmtune_in_process

import vlmtune as package
from vlmtune.cli.app import app
from vlmtune.config import load
from vlmtune.config.loader import shipped_folder
from vlmtune.errors import Exit
from vlmtune.registry import REMOVED_KEYS, RENAMED_KEYS
from vlmtune.run_layout import OutputConfig, RunFiles

OTHERS = {"cd", "export", "git", "hf", "nvidia-smi", "open", "pip", "source", "vllm", "wandb"}
"""Programs of others, whose commands are not checked."""

QUICK = {"score", "compare", "config"}
"""Commands that are actually run. Others need a model; end-to-end tests cover them."""

MODES = ("baseline", "train", "eval")
AT_ROOT = ("README.md", "AGENTS.md", "CONTRIBUTING.md", "CHANGELOG.md", "llms.txt")
DOCUMENTS = [*(ROOT / name for name in AT_ROOT), *sorted((ROOT / "docs").rglob("*.md"))]


def fences(*languages: str) -> Iterator[tuple[str, str, str]]:
    """(location, language, text) of all fenced blocks in the documentation."""
    for file in DOCUMENTS:
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        for found in re.finditer(r"^```(\w+)[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            if found[1] in languages:
                line = text.count("\n", 0, found.start()) + 1
                yield f"{file.relative_to(ROOT)}:{line}", found[1], found[2]


def commands() -> Iterator[Any]:
    """Every command in the documentation, split into words, without what its output is piped into."""
    seen: set[str] = set()
    for place, language, text in fences("bash", "console"):
        for line in text.replace("\\\n", " ").splitlines():
            if language == "console" and not line.startswith("$ "):
                continue
            words: list[str] = []
            piped = False
            for word in [*shlex.split(line.removeprefix("$ "), comments=True), ";"]:
                if word not in (";", "&&", "||", "|"):
                    words.append(word)
                    continue
                said = shlex.join(words)
                if words and not piped and said not in seen:
                    seen.add(said)
                    yield pytest.param(words, id=f"{place} {said}")
                words, piped = [], word == "|"


def bare(words: list[str]) -> list[str]:
    """Without leading variables and `uv run`, and without output redirection."""
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    if words[:2] == ["uv", "run"]:
        words = words[2:]
    return words[: words.index(">")] if ">" in words else words


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    return tmp_path


def stand_in(folder: Path, words: list[str]) -> None:
    """Create the prediction files and configs that an example mentions."""
    for number, word in enumerate(words):
        file, isolated = folder / word, not Path(word).is_absolute() and ".." not in word
        if isolated and word.endswith(".jsonl"):
            file.parent.mkdir(parents=True, exist_ok=True)
            text = "".join(line.to_json() + "\n" for line in lines(60, 0.6 - 0.1 * number))
            file.write_text(text, encoding="utf-8")
        elif word == "results.json":
            nested = [
                {"outputs": [{"text": line.prediction}], "sample": {"label": line.references[0], "key": line.id}}
                for line in lines(60, 0.6)
            ]
            file.write_text(json.dumps(nested), encoding="utf-8")
        elif word == "truth.csv":
            file.write_text("id,reference\n" + "".join(f"{one.id},{one.references[0]}\n" for one in lines(60, 0.6)))
        elif isolated and word.endswith(".yaml") and not (folder / "configs" / word).exists() and not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(shipped_folder() / "demo.yaml", file)


def parsed(words: list[str]) -> list[str]:
    """The command's name; the real parser reads its options and arguments, but nothing is run."""
    command: Any = typer.main.get_command(app)
    verb: list[str] = []
    context = command.make_context("vlmtune", list(words))
    while hasattr(command, "resolve_command"):
        name, command, words = command.resolve_command(context, list(words))
        verb.append(name)
        context = command.make_context(name, list(words), parent=context)
    return verb


def classic(words: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Mode and config, as main.py's own parser reads them."""
    spec = importlib.util.spec_from_file_location("classic_main", ROOT / "main.py")
    assert spec is not None
    assert spec.loader is not None
    main = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(main)
    called: list[tuple[str, str]] = []
    monkeypatch.setattr(main, "run", lambda mode, name, sets, mock, accept_failures: called.append((mode, name)))
    monkeypatch.setattr(sys, "argv", ["main.py", *words])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    with pytest.raises(SystemExit) as end:
        main.main()
    assert end.value.code in (0, None)
    return called[0]


@pytest.mark.parametrize("words", list(commands()))
def test_a_command_works_as_written(words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, *rest = bare(words)
    if program == "vlmtune":
        if "--help" in rest or parsed(rest)[0] in QUICK:
            stand_in(folder, rest)
            ended = vlmtune_in_process(*rest, cwd=folder)
            assert ended.returncode == 0, ended.stderr
    elif program == "python" and rest[0] == "main.py":
        assert load(classic(rest[1:], monkeypatch)[1]).config
    elif program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert set(rest) <= set(targets)
    elif program in ("python", "bash") and rest[0] != "-m":
        assert (ROOT / rest[0]).is_file()
        if program == "bash":
            assert subprocess.run(["bash", "-n", rest[0]], cwd=ROOT, check=False).returncode == 0
    elif program == "pytest" or rest[:2] == ["-m", "pytest"]:
        assert all((ROOT / word.split("::")[0]).exists() for word in rest if word.startswith("tests"))
    else:
        assert program in OTHERS or [program, *rest[:1]] in (["uv", "sync"], ["uv", "pip"]), (
            "add the program to this test"
        )


@functools.cache
def anchors(file: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.name)
def test_links_lead_somewhere(file: Path) -> None:
    for path, anchor in re.findall(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]*))?\)", file.read_text(encoding="utf-8")):
        target = file.parent / path if path else file
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


def test_every_page_is_listed() -> None:
    for listing, pattern, folder, pages in (
        ("llms.txt", r"\]\(docs/(\w[\w-]*\.md)\)", "docs", "*.md"),
        ("zensical.toml", r'= "(\w[\w-]*\.md)"', "docs", "*.md"),
        ("docs/decisions/README.md", r"\]\((0[\w-]*\.md)\)", "docs/decisions", "0*.md"),
    ):
        listed = set(re.findall(pattern, (ROOT / listing).read_text(encoding="utf-8")))
        assert {file.name for file in (ROOT / folder).glob(pages)} - listed == set(), listing


def test_every_command_is_described() -> None:
    """docs/commands.md names every verb and every exit code."""
    text = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    verbs = set(re.findall(r"^\| `vlmtune ([a-z -]+?)(?= [A-Z[-]|`)", text, re.MULTILINE))
    assert verbs == {" ".join(verb) for verb in every_verb(typer.main.get_command(app))}
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    assert codes == set(Exit)


def test_every_file_of_a_run_is_described() -> None:
    """docs/commands.md names the files of a run folder."""
    text = (ROOT / "docs/commands.md").read_text(encoding="utf-8").split("## Files")[1].split("\n## ")[0]
    files = RunFiles.of(OutputConfig(dir="."))
    results = [files.adapter, files.baseline, files.tuned, *map(files.metrics, (files.baseline, files.tuned))]
    assert [file.name for file in (*results, *files.derived) if f"`{file.name}" not in text] == []


def test_every_renamed_or_removed_key_is_in_the_changelog() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").split("**Renamed and removed")[1]
    keys = [name for key in (*RENAMED_KEYS, *RENAMED_KEYS.values(), *REMOVED_KEYS) for name in key.split(".")]
    assert [key for key in keys if not re.search(rf"\b{key}\b", text)] == []


def every_verb(command: Any, verb: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if not hasattr(command, "commands"):
        yield verb
    for name, below in getattr(command, "commands", {}).items():
        yield from every_verb(below, (*verb, name))


def test_the_readme_shows_the_ways_in() -> None:
    said = [shlex.join(param.values[0]) for param in commands() if str(param.id).startswith("README.md")]
    classic = [f"uv run python main.py --mode {mode} --config flickr8k_captioning.yaml" for mode in MODES]
    assert {"make demo", "bash setup_gpu_env.sh", *classic} <= set(said)


@pytest.mark.parametrize(
    "text", [pytest.param(text, id=place) for place, _, text in fences("yaml")] or [pytest.param("", id="none")]
)
def test_a_yaml_example_is_a_valid_config(text: str, tmp_path: Path) -> None:
    base = "" if re.search(r"^(extends|model):", text, re.MULTILINE) else f"extends: {shipped_folder() / 'demo.yaml'}\n"
    file = tmp_path / "example.yaml"
    file.write_text(base + text, encoding="utf-8")
    assert load(str(file)).config


@pytest.mark.parametrize(
    "text", [pytest.param(text, id=place) for place, _, text in fences("python")] or [pytest.param("", id="none")]
)
def test_a_python_example_names_what_exists(text: str) -> None:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vlmtune":
            module = importlib.import_module(node.module or "")
            assert all(hasattr(module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "vlmtune":
            assert hasattr(package, node.attr)
