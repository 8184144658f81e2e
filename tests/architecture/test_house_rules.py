"""Rules that no reviewer should have to remember: sizes, names, broad excepts, prints, environment, paths."""

import ast
import functools
import re
from pathlib import Path, PurePosixPath

import pytest
from commands import ROOT
from sources import PACKAGE, texts

FILE_LINES, FUNCTION_LINES, CONTRACT_LINES = 600, 60, 120
EMPTY_NAMES = {"util", "utils", "helper", "helpers", "common", "misc"}
BROAD = {
    "src/vlmtune/pipeline/tracking.py": 1,
    "src/vlmtune/processing/_templates.py": 1,
    "src/vlmtune/processing/chat_template.py": 1,
    "src/vlmtune/modeling/loading.py": 2,
}
"""Where any exception may be caught, and how often: trackers and chat templates are code of others, and libraries raise
anything on tokenizers, models and adapters that they do not expect."""

READERS = {
    "src/vlmtune/fault_injection.py": {"VLMTUNE_FAULT"},
    "src/vlmtune/hub.py": {"HF_HUB_OFFLINE", "HF_ENDPOINT"},
    "src/vlmtune/engines/_http.py": {"VLLM_API_KEY"},
    "src/vlmtune/doctor.py": {"HF_TOKEN", "WANDB_API_KEY", "NETRC"},
    "src/vlmtune/terminal.py": set(),
    "src/vlmtune/cli/completion.py": {"_VLMTUNE_COMPLETE"},
    "src/vlmtune/distributed.py": {"WORLD_SIZE", "LOCAL_RANK"},
    "main.py": {"USE_MOCK"},
}
"""Files that may read the environment, and which variables."""

LOCKS = {"uv.lock", "poetry.lock", "Pipfile.lock", "package-lock.json", "yarn.lock", "pnpm-lock.yaml"}
MACHINE = re.compile(r"(?<![\w.~}\-])/(?:root|home|tmp|Users|work)/[\w.]")
"""An absolute path into a home or scratch folder."""

SOURCES = [*sorted(PACKAGE.rglob("*.py")), ROOT / "main.py"]
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))


def name_of(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


@functools.cache
def nodes(file: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))


def test_files_are_short() -> None:
    lines = {name_of(file): len(file.read_text(encoding="utf-8").splitlines()) for file in SOURCES}
    limits = {name: CONTRACT_LINES if name.endswith("__init__.py") else FILE_LINES for name in lines}
    assert {name: count for name, count in lines.items() if count > limits[name]} == {}


def test_functions_are_short() -> None:
    assert [
        f"{name_of(file)}:{node.lineno} {node.name}"
        for file in [*SOURCES, *SCRIPTS]
        for node in nodes(file)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= FUNCTION_LINES
    ] == []


def test_names_say_something() -> None:
    parts = {name: set(PurePosixPath(name).with_suffix("").parts) for name in texts() if name.endswith(".py")}
    assert [name for name, words in parts.items() if EMPTY_NAMES & {word.strip("_") for word in words}] == []


def test_errors_are_caught_by_name() -> None:
    broad: dict[str, int] = {}
    for file in [*SOURCES, *SCRIPTS]:
        for node in nodes(file):
            if isinstance(node, ast.ExceptHandler):
                caught = {part.id for part in ast.walk(node.type) if isinstance(part, ast.Name)} if node.type else {""}
                if caught & {"", "Exception", "BaseException"}:
                    broad[name_of(file)] = broad.get(name_of(file), 0) + 1
    assert broad == BROAD


def test_everything_printed_goes_through_one_function() -> None:
    calls = {
        name_of(file)
        for file in SOURCES
        for node in nodes(file)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert calls == {"main.py", "src/vlmtune/terminal.py"}


def test_every_environment_variable_is_read_in_one_place() -> None:
    looks = {
        name_of(file)
        for file in SOURCES
        for node in nodes(file)
        if isinstance(node, ast.Attribute | ast.Name | ast.alias)
        and (getattr(node, "attr", None) or getattr(node, "id", None) or getattr(node, "name", None))
        in ("environ", "environb", "getenv")
    }
    assert looks == set(READERS)
    for name, variables in READERS.items():
        for variable in variables:
            mentions = {
                name_of(file)
                for file in SOURCES
                for node in nodes(file)
                if isinstance(node, ast.Constant) and node.value == variable
            }
            assert mentions == {name}, variable


@pytest.mark.parametrize("path", ["a /root/x", "see /home/ann/x", '"/tmp/y"', "(/Users/ann)", "=/work/z"])
def test_a_machine_path_is_recognised(path: str) -> None:
    assert MACHINE.search(path)


def test_no_file_names_a_path_of_one_machine() -> None:
    here = name_of(Path(__file__))
    assert [
        f"{name}:{text.count(chr(10), 0, found.start()) + 1} {found.group()}"
        for name, text in texts().items()
        if name != here
        for found in MACHINE.finditer(text)
    ] == []


def test_no_lock_file() -> None:
    assert [name for name in texts() if PurePosixPath(name).name in LOCKS] == []
