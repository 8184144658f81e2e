"""The fields of a document as a JSON object."""

import json
from collections.abc import Mapping
from typing import Any

from vlmtune.errors import DataError
from vlmtune.metrics.records import field_f1, record_match
from vlmtune.tasks import Task, TaskConfig
from vlmtune.tasks._parsing import json_value
from vlmtune.tasks._prompts import conversation, one_reference
from vlmtune.types import Conversation, Example, Unparsed

FIELDS = "{fields}"
"""Stands in a prompt where the field names belong."""


class Config(TaskConfig):
    """Extraction."""

    name: str = "extraction"
    """The task."""

    fields: list[str] = []
    """Keys at the top of the object, named in the prompt. Empty names none; a row's other keys are an error."""

    prompt: str = "Extract the information in the image as a JSON object. {fields}"
    """What the model is asked, behind the image; {fields} names the keys."""


def ask(config: Config, example: Example) -> Conversation:
    """The image and the keys, or the row's own conversation."""
    keys = f"Keys: {', '.join(config.fields)}." if config.fields else ""
    return conversation(config, example, config.prompt.replace(FIELDS, keys).strip())


def teach(config: Config, example: Example) -> str:
    """The row's object on one line, keys in the data's order."""
    return json.dumps(_record(config, example), ensure_ascii=False)


def read(config: Config, text: str) -> Mapping[str, Any] | Unparsed:
    """The first JSON object of an answer."""
    value = json_value(text)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, Unparsed | Mapping):
        return value
    return Unparsed(f"a JSON {type(value).__name__}, no object")


def truth(config: Config, example: Example) -> Mapping[str, Any]:
    """The row's object."""
    return {**example.truth, "record": _record(config, example)}


def _record(config: Config, example: Example) -> dict[str, Any]:
    """The row's only reference, read as JSON."""
    try:
        value = json.loads(one_reference(example))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{example.id}: the reference is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise DataError(f"{example.id}: the reference must be a JSON object (got {type(value).__name__})")
    odd = sorted(set(value) - set(config.fields)) if config.fields else []
    if odd:
        raise DataError(f"{example.id}: {odd[0]!r} is not one of task.fields: {', '.join(config.fields)}")
    return value


TASK = Task(ask=ask, teach=teach, read=read, metrics=(field_f1, record_match), truth=truth)
