"""JSON of others: read strictly, and compared with a documented type before anything is made of it."""

import functools
import json
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
