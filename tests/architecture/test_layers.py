"""Imports go in one direction. This table is authoritative; docs/architecture.md shows it, and a test here compares.

Imports inside functions count, and so do those under TYPE_CHECKING: they, too, are what a reader has to follow.
"""

import importlib
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise

import pytest
from commands import ROOT
from sources import ABSENT, HEAVY, PACKAGE, Import, Module, modules, reachable

LAYERS = (
    "boxes errors fault_injection json_values prefetch terminal text_units types",
    "videos",
    "containers distributed environments families files images metrics registry signals thoughts",
    "predictions progress run_layout search tasks tracking",
    "hub run_folder",
    "data modeling",
    "processing scoring",
    "generation judge report training",
    "compare_files engines maintenance",
    "config doctor inference view",
    "dataset_check planning scaffold",
    "pipeline",
    "api cli",
    "__main__ __init__",
)
"""From the bottom up. A unit (a file or folder of src/vlmtune) imports only from layers below its own."""

LAYER = {unit: number for number, units in enumerate(LAYERS) for unit in units.split()}
PLUGIN_FOLDERS = ("data", "tasks", "metrics", "families", "engines", "tracking")
MODEL = {
    "vlmtune.modeling",
    "vlmtune.processing",
    "vlmtune.training",
    "vlmtune.engines",
    "torch",
    "transformers",
    "peft",
}


def edges() -> Iterator[tuple[Module, Import, Module]]:
    """Every import of one of our modules by another."""
    for module in modules().values():
        for found in module.imports:
            if found.module in modules() and found.module != module.name:
                yield module, found, modules()[found.module]


def is_plugin(module: Module) -> bool:
    """Whether this is a file of a plugin folder other than its contract (__init__) and shared parts (_name)."""
    parts = module.name.split(".")
    return module.unit in PLUGIN_FOLDERS and not module.is_package and not any(part.startswith("_") for part in parts)


def test_every_unit_stands_in_exactly_one_layer() -> None:
    assert sorted(" ".join(LAYERS).split()) == sorted({module.unit for module in modules().values()})


def test_imports_go_down() -> None:
    assert [
        f"{module.where}:{found.line} imports {found.module}, which is not below {module.unit}"
        for module, found, target in edges()
        if module.unit != target.unit and LAYER[target.unit] >= LAYER[module.unit]
    ] == []


def test_no_import_cycle() -> None:
    """Not inside a folder either, nor among imports that only a type checker follows."""
    graph: dict[str, set[str]] = {}
    for module, _, target in edges():
        graph.setdefault(module.name, set()).add(target.name)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as cycle:
        pytest.fail(" -> ".join(reversed(cycle.args[1])))


def test_an_underscored_file_belongs_to_its_folder() -> None:
    assert [
        f"{module.where}:{found.line} imports {found.module}; give it a public name in {target.unit}/__init__.py"
        for module, found, target in edges()
        if module.unit != target.unit and re.search(r"\._[a-z]", target.name)
    ] == []


def test_plugins_do_not_know_each_other() -> None:
    assert [
        f"{module.where}:{found.line} imports {found.module}; what plugins share stands in a file named _…"
        for module, found, target in edges()
        if module.unit in PLUGIN_FOLDERS and module.unit == target.unit and is_plugin(target)
    ] == []


def test_plugins_are_found_by_name() -> None:
    """Tasks import their metrics; apart from that only `registry.load` knows which plugins there are."""
    assert [
        f"{module.where}:{found.line} imports {found.module}; use registry.load"
        for module, found, target in edges()
        if is_plugin(target) and module.unit != target.unit and (module.unit, target.unit) != ("tasks", "metrics")
    ] == []


@pytest.mark.parametrize(
    ("start", "never"),
    [
        ("training", {"vlmtune.engines"}),
        ("engines", {"vlmtune.training"}),
        ("metrics", MODEL),
        ("predictions", MODEL),
        ("scoring", MODEL),
        ("report", MODEL),
        ("compare_files", MODEL),
    ],
)
def test_these_never_meet(start: str, never: set[str]) -> None:
    """Not even indirectly. Adapters are passed as folders on disk; reports are built anywhere, without torch."""
    assert [
        " -> ".join(way)
        for module in modules().values()
        if module.unit == start
        for target, way in reachable(module.name).items()
        if any(target == name or target.startswith(f"{name}.") for name in never)
    ] == []


def test_nothing_heavy_is_imported_at_the_start_of_a_file() -> None:
    assert [
        f"{module.where}:{found.line} imports {found.module}; import it in the function that needs it"
        for module in modules().values()
        for found in module.imports
        if found.at_start and found.runs and found.module.split(".")[0] in HEAVY | ABSENT
    ] == []


def test_the_document_shows_this_table() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    shown = re.findall(r"^ ?(\d+)  (\S.*)$", text, re.MULTILINE)
    assert [(int(number), units.split()) for number, units in reversed(shown)] == [
        (number, units.split()) for number, units in enumerate(LAYERS)
    ]


def test_the_document_shows_the_tree() -> None:
    """Every unit is listed, and everything listed exists."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("```")[1]
    shown = re.findall(r"^(  )?([\w./]+) +\S", text, re.MULTILINE)
    assert [name for inner, name in shown if not (PACKAGE / name if inner else ROOT / name).exists()] == []
    named = {name.rstrip("/").removesuffix(".py") for inner, name in shown if inner} | {"__init__", "__main__"}
    assert {module.unit for module in modules().values()} <= named


def test_the_document_shows_the_modules_of_each_folder() -> None:
    """Folders of plugins excepted: their files are the plugins."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("## Inside the folders")[1]
    shown = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", text.split("\n## ")[0], re.MULTILINE))
    inside: dict[str, set[str]] = {}
    for module in modules().values():
        if module.unit not in PLUGIN_FOLDERS and module.name.count(".") == 2:
            inside.setdefault(module.unit, set()).add(module.name.split(".")[-1])
    assert set(shown) == set(inside)
    for folder, names in inside.items():
        assert names - set(re.findall(r"`(\w+)`", shown[folder])) == set(), folder


def test_the_document_shows_the_path_of_a_row() -> None:
    """Every function listed exists and is listed once."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"^  ([\w.]+) +\S", text.split("## The path of a row")[1].split("```")[1], re.MULTILINE)
    assert len(named) > 25
    assert len(named) == len(set(named))
    for name in named:
        module = next(start for start in parents_of(f"vlmtune.{name}") if start in modules())
        found: object = importlib.import_module(module)
        for part in f"vlmtune.{name}".removeprefix(module).strip(".").split("."):
            found = getattr(found, part, None)
        assert found is not None, f"docs/architecture.md names {name}, which does not exist"


def test_the_path_of_a_row_seldom_returns_to_the_run_folder() -> None:
    """docs/architecture.md counts how often it does."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("## The path of a row")[1]
    named = re.findall(r"^  ([\w.]+) +\S", text.split("```")[1], re.MULTILINE)
    runs = [name.split(".")[0] in ("pipeline", "run_folder") for name in named]
    returns = sum(here and not before for before, here in pairwise(runs))
    assert re.search(r"run_folder`\) (\w+) times", text)[1] == "zero one two three four five six seven".split()[returns]  # type: ignore[index]


def parents_of(name: str) -> Iterator[str]:
    """The dotted name without its last part, without its last two, and so on."""
    while "." in name:
        name = name.rpartition(".")[0]
        yield name
