"""The source code as syntax trees, for the architecture tests. Nothing is imported here."""

import ast
import functools
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from commands import ROOT

PACKAGE = ROOT / "src" / "vlmtune"
HEAVY = {"torch", "torchvision", "transformers", "peft", "datasets", "accelerate", "wandb"}
"""Packages whose import takes seconds."""
ABSENT = {"httpx2"}
"""Packages that are needed to reach a server only, and that images of GPU machines lack."""

NOT_OURS = {
    ".venv",
    ".venv-vllm",
    ".bootstrap",
    ".git",
    ".hypothesis",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    "outputs",
    "wandb",
    "dist",
    "build",
    "site",
    ".cache",
    "__pycache__",
    "uv.lock",
}


@dataclass(frozen=True)
class Import:
    """One imported module, anywhere in the file. `runs` is False under `if TYPE_CHECKING`."""

    module: str
    line: int
    at_start: bool
    runs: bool


@dataclass(frozen=True)
class Module:
    """A file of the package. Its unit is the file or folder directly under vlmtune that it belongs to."""

    name: str
    file: Path

    @functools.cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.file.read_text(encoding="utf-8"))

    @property
    def where(self) -> str:
        return str(self.file.relative_to(ROOT))

    @property
    def unit(self) -> str:
        return self.name.removeprefix("vlmtune").removeprefix(".").split(".")[0] or "__init__"

    @property
    def is_package(self) -> bool:
        return self.file.name == "__init__.py"

    @functools.cached_property
    def imports(self) -> tuple[Import, ...]:
        for_types = {
            id(inner)
            for node in ast.walk(self.tree)
            if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
            for inner in ast.walk(node)
        }
        inside = {
            id(inner)
            for node in ast.walk(self.tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for inner in ast.walk(node)
        }
        return tuple(
            Import(module, node.lineno, at_start=id(node) not in inside, runs=id(node) not in for_types)
            for node in ast.walk(self.tree)
            for module in _imported(self, node)
        )


def _imported(module: Module, node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        parts = module.name.split(".")
        home = parts[: len(parts) - node.level + module.is_package] if node.level else []
        source = ".".join([*home, *([node.module] if node.module else [])])
        for alias in node.names:
            below = f"{source}.{alias.name}"
            yield below if below in names() else source


@functools.cache
def names() -> frozenset[str]:
    """Dotted names of all modules of the package."""
    return frozenset(_name(file) for file in PACKAGE.rglob("*.py"))


def _name(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def modules() -> dict[str, Module]:
    """All modules of the package by dotted name."""
    return {_name(file): Module(_name(file), file) for file in sorted(PACKAGE.rglob("*.py"))}


@functools.cache
def reachable(start: str) -> dict[str, tuple[str, ...]]:
    """Every module that importing or running `start` may load, with the chain of imports that leads to it."""
    ways: dict[str, tuple[str, ...]] = {start: (start,)}
    waiting = [start]
    while waiting:
        here = waiting.pop()
        if here not in modules():
            continue
        parents = [here.rsplit(".", depth)[0] for depth in range(1, here.count(".") + 1)]
        for target in [*parents, *(found.module for found in modules()[here].imports if found.runs)]:
            if target not in ways:
                ways[target] = (*ways[here], target)
                waiting.append(target)
    return ways


@functools.cache
def texts() -> dict[str, str]:
    """Every text file of the repository by its path: what git tracks, or would track."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode == 0 and (ROOT / ".git").exists():
        files = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:  # not a clone: everything except tool output
        files = [file for file in ROOT.rglob("*") if not NOT_OURS & set(file.relative_to(ROOT).parts)]
    found: dict[str, str] = {}
    for file in files:
        if file.is_file():
            try:
                found[file.relative_to(ROOT).as_posix()] = file.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue
    return found
