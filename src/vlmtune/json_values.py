"""JSON of others: read strictly, and compared with a documented type before anything is made of it."""

import functools
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import TypeAdapter

MAX_DEPTH = 100
"""Lists and objects in one another that a text may have; rows, manifests and replies have fewer than ten."""


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: not JSON; a number that is not finite, as NaN or 1e999; half a surrogate pair, which is no
            character; or nested deeper than `MAX_DEPTH`. The message says which.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
        if is_deep(value):
            raise RecursionError
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_DEPTH} lists and objects") from None
    except UnicodeDecodeError:
        raise ValueError("not UTF-8; save the file as UTF-8") from None
    except UnicodeEncodeError:
        raise ValueError("half a surrogate pair, which is no character; write the file again as UTF-8") from None
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def is_deep(value: Any) -> bool:
    """Whether a value has more than `MAX_DEPTH` lists and objects in one another; reading it would end in Python's
    limit of recursion.
    """
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        inside = (item for one in level for item in (one.values() if isinstance(one, dict) else one))
        level = [item for item in inside if isinstance(item, dict | list)]
        if not level:
            return False
    return True


def mismatch(value: Any, kind: Any) -> str | None:
    """Where a JSON value is not of a type, and why not: "tokens: should be a valid integer"; None if it is.

    Args:
        value: as `parse_json` gives it; keys that the type does not name may hold anything.
        kind: a TypedDict, or any other type that pydantic understands.
    """
    from pydantic import ValidationError  # not at the top: `--help` loads no pydantic

    try:
        _adapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))
        reason = first["msg"].removeprefix("Input ")
        return f"{where[:100]}: {reason}" if where else reason
    return None


@functools.cache
def _adapter(kind: Any) -> "TypeAdapter[Any]":
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


_KINDS = ((bool, "boolean"), (int, "integer"), (float, "number"), (str, "string"), (dict, "object"), (list, "array"))


def schema_of(values: Sequence[Any]) -> dict[str, Any]:
    """A JSON schema that values obey: their types, keys in the order in which they first occur, those of all required.

    >>> schema_of([{"a": 1}, {"a": 2.5, "b": []}])["required"]
    ['a']
    """
    kinds = list(dict.fromkeys(_kind(value) for value in values))
    if "number" in kinds:
        kinds = [kind for kind in kinds if kind != "integer"]
    found = [_schema_of_kind(kind, [value for value in values if _kind(value) == kind]) for kind in kinds]
    if len(found) == 1:
        return found[0]
    return {"anyOf": found} if found else {}


def obeys_strict_rules(schema: Any) -> bool:
    """Whether OpenAI accepts a schema as strict: all keys of objects are required, and no others allowed."""
    if isinstance(schema, list):
        return all(map(obeys_strict_rules, schema))
    if not isinstance(schema, dict):
        return True
    if schema.get("type") == "object" or "properties" in schema:
        every = set(schema.get("properties", {})) == set(schema.get("required", ()))
        if not every or schema.get("additionalProperties") is not False:
            return False
    return schema != {} and all(map(obeys_strict_rules, [*schema.get("properties", {}).values(), *_inner(schema)]))


def _inner(schema: Mapping[str, Any]) -> list[Any]:
    return [schema[key] for key in ("items", "anyOf") if key in schema]


def _kind(value: Any) -> str:
    return next((kind for types, kind in _KINDS if isinstance(value, types)), "null")


def _schema_of_kind(kind: str, values: Sequence[Any]) -> dict[str, Any]:
    if kind == "array":
        return {"type": kind, "items": schema_of([item for value in values for item in value])}
    if kind != "object":
        return {"type": kind}
    keys = list(dict.fromkeys(key for value in values for key in value))
    return {
        "type": kind,
        "properties": {key: schema_of([value[key] for value in values if key in value]) for key in keys},
        "required": [key for key in keys if all(key in value for value in values)],
        "additionalProperties": False,
    }
