"""Whether a value is valid under a JSON Schema, as far as the schemas of this repository go."""

import re
from collections.abc import Mapping
from typing import Any

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
    "exclusiveMaximum", "minItems", "maxItems",
}  # fmt: skip


def fits(value: Any, schema: Mapping[str, Any], only_known: bool = False) -> bool:
    """Whether a value is valid. With `only_known`, keys that a schema does not name are errors unless it allows any."""
    return _fits(value, schema, schema, only_known)


def _fits(value: Any, shape: Mapping[str, Any], root: Mapping[str, Any], only_known: bool) -> bool:
    assert shape.keys() <= KNOWN, shape.keys() - KNOWN
    if "$ref" in shape:
        return _fits(value, root["$defs"][shape["$ref"].rpartition("/")[2]], root, only_known)
    if "oneOf" in shape and sum(_fits(value, choice, root, only_known) for choice in shape["oneOf"]) != 1:
        return False
    if "anyOf" in shape and not any(_fits(value, choice, root, only_known) for choice in shape["anyOf"]):
        return False
    if "const" in shape and value != shape["const"]:
        return False
    if "enum" in shape and value not in shape["enum"]:
        return False
    if "type" in shape and not (
        isinstance(value, TYPES[shape["type"]]) and isinstance(value, bool) <= (shape["type"] == "boolean")
    ):
        return False
    return _inside(value, shape, root, only_known)


def _inside(value: Any, shape: Mapping[str, Any], root: Mapping[str, Any], only_known: bool) -> bool:
    if isinstance(value, dict):
        named = shape.get("properties", {})
        further = shape.get("additionalProperties", not (only_known and named))
        return set(shape.get("required", [])) <= value.keys() and all(
            _fits(item, named[key], root, only_known)
            if key in named
            else further
            if isinstance(further, bool)
            else _fits(item, further, root, only_known)
            for key, item in value.items()
        )
    if isinstance(value, list):
        return shape.get("minItems", 0) <= len(value) <= shape.get("maxItems", len(value)) and all(
            _fits(item, shape.get("items", {}), root, only_known) for item in value
        )
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
