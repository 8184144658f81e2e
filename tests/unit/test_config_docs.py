"""The JSON Schema accepts what `load` accepts, and the generated files are fresh."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

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
    again = "stale: run scripts/make_docs.py"
    assert make_docs.SCHEMA.read_text(encoding="utf-8") == make_docs.schema(), again
    assert make_docs.DOCS.read_text(encoding="utf-8") == make_docs.docs(), again


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


TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}
KNOWN = {
    "$ref", "$defs", "$schema", "title", "description", "default", "type", "properties", "required", "items",
    "additionalProperties", "anyOf", "oneOf", "const", "enum", "pattern", "minimum", "maximum", "exclusiveMinimum",
    "exclusiveMaximum", "minItems",
}  # fmt: skip


def fits(value: Any, shape: dict[str, Any]) -> bool:
    """Whether a value is valid under a JSON Schema, as far as ours goes."""
    assert shape.keys() <= KNOWN, shape.keys() - KNOWN
    if "$ref" in shape:
        return fits(value, SCHEMA["$defs"][shape["$ref"].rpartition("/")[2]])
    if "oneOf" in shape and sum(fits(value, choice) for choice in shape["oneOf"]) != 1:
        return False
    if "anyOf" in shape and not any(fits(value, choice) for choice in shape["anyOf"]):
        return False
    if "const" in shape and value != shape["const"]:
        return False
    if "enum" in shape and value not in shape["enum"]:
        return False
    if "type" in shape and not (
        isinstance(value, TYPES[shape["type"]]) and isinstance(value, bool) <= (shape["type"] == "boolean")
    ):
        return False
    return _inside(value, shape)


def _inside(value: Any, shape: dict[str, Any]) -> bool:
    if isinstance(value, dict):
        known = shape.get("properties", {})
        closed = shape.get("additionalProperties") is False
        return (
            set(shape.get("required", [])) <= value.keys()
            and not (closed and value.keys() - known.keys())
            and all(fits(value[key], known[key]) for key in known.keys() & value.keys())
        )
    if isinstance(value, list):
        return len(value) >= shape.get("minItems", 0) and all(fits(item, shape.get("items", {})) for item in value)
    if isinstance(value, str):
        return re.search(shape.get("pattern", ""), value) is not None
    if isinstance(value, int | float):
        return (
            value >= shape.get("minimum", value)
            and value <= shape.get("maximum", value)
            and value > shape.get("exclusiveMinimum", float("-inf"))
            and value < shape.get("exclusiveMaximum", float("inf"))
        )
    return True
