"""The JSON Schema accepts what `load` accepts, and the generated files are fresh."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from json_schema import fits

from vlmtune import registry
from vlmtune.config import Config, config_json, json_schema, load

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(file.stem for file in (ROOT / "configs").glob("*.yaml"))
SCHEMA = json_schema()


@pytest.fixture(scope="module")
def make_docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "scripts" / "make_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_committed_files_are_fresh(make_docs: ModuleType) -> None:
    for name, text in make_docs.generated().items():
        assert (ROOT / name).read_text(encoding="utf-8") == text, f"{name} is stale: run scripts/make_docs.py"


def test_the_page_names_every_key_and_plugin(make_docs: ModuleType) -> None:
    page = make_docs.docs()
    for folder, key in (("data", "source"), ("tasks", "name"), ("engines", "engine"), ("tracking", "to")):
        assert all(f"### `{key}: {name}`" in page for name in registry.available(folder))
    assert all(f"`{key}`" in page for key in (*Config.model_fields, "lora.rank", "statistics.resamples", "limit.test"))
    assert '| `splits.train` | text | `"train.jsonl"` |' in page


def test_every_key_of_the_schema_has_a_description() -> None:
    blocks = [SCHEMA, *SCHEMA["$defs"].values()]
    for key in ("dataset", "task", "inference"):
        blocks += SCHEMA["properties"][key]["oneOf"]
    shapes = [shape for block in blocks for shape in block["properties"].values()]
    # pydantic leaves out what the block behind the reference already says of itself
    assert all(shape.get("description") or SCHEMA["$defs"][shape["$ref"][8:]]["description"] for shape in shapes)
    assert [choice["properties"]["source"].get("const") for choice in SCHEMA["properties"]["dataset"]["oneOf"]] == [
        *registry.available("data"),
        None,
    ]


@pytest.mark.parametrize("name", CONFIGS)
def test_the_schema_accepts_what_loads(name: str) -> None:
    loaded = load(name)
    assert fits(loaded.tree.plain(), SCHEMA)
    assert fits(config_json(loaded.config), SCHEMA)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("schema_version", 2),
        ("trainin", {}),
        ("training.lorra", {}),
        ("training.precision", "bf61"),
        ("training.epochs", 0),
        ("training.epochs", "1"),
        ("dataset.source", "hubb"),
        ("dataset.source", "jsonl"),
        ("dataset.path", None),
        ("dataset.revisoin", "x"),
        ("inference.engine", "vlm"),
        ("tracking", [{"to": "wandb", "mode": "on"}]),
        ("tracking", [{"project": "x"}]),
    ],
)
def test_the_schema_refuses_what_does_not_load(path: str, value: object) -> None:
    plain = load("demo" if path == "dataset.source" else "flickr8k_captioning").tree.plain()
    block = plain
    for step in path.split(".")[:-1]:
        block = block[step]
    block[path.rpartition(".")[2]] = value
    assert not fits(plain, SCHEMA)


def test_a_module_of_yours_passes_the_schema() -> None:
    plain = {**load("demo").tree.plain(), "dataset": {"source": "mine.rows", "anything": 1}}
    assert fits(plain, SCHEMA)
