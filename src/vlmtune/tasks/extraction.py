"""The fields of a document as a JSON object."""

import json
from collections.abc import Mapping
from typing import Any

from vlmtune.errors import DataError
from vlmtune.metrics.records import field_f1, record_match, typed_field_f1
from vlmtune.tasks import Task
from vlmtune.tasks._parsing import json_value
from vlmtune.tasks._prompts import PromptConfig, prompt, single_reference
from vlmtune.types import Example, Unparsed

FIELDS = "{fields}"
"""Placeholder for the field names in a prompt."""


class Config(PromptConfig):
    """Extraction."""

    name: str = "extraction"
    """The task."""

    fields: list[str] = []
    """Top-level keys of the object, listed in the prompt. Empty lists none; any other key in a row is an error."""

    prompt: str = "Extract the information in the image as a JSON object. {fields}"
    """What the model is asked, after the image; {fields} lists the keys."""

    @property
    def filled_prompt(self) -> str:
        """The prompt with the keys."""
        keys = f"Keys: {', '.join(self.fields)}." if self.fields else ""
        return self.prompt.replace(FIELDS, keys).strip()


def target(config: Config, example: Example) -> str:
    """The row's object on one line, with its keys in the order of the data."""
    return json.dumps(_record(config, example), ensure_ascii=False)


def parse(config: Config, text: str) -> Mapping[str, Any] | Unparsed:
    """The first JSON object of an answer."""
    value = json_value(text)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, Unparsed | Mapping):
        return value
    return Unparsed(f"a JSON {type(value).__name__}, not an object")


def truth(config: Config, example: Example) -> Mapping[str, Any]:
    """The row's object."""
    return {**example.truth, "record": _record(config, example)}


def _record(config: Config, example: Example) -> dict[str, Any]:
    """The row's only reference, parsed as JSON."""
    try:
        value = json.loads(single_reference(example))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{example.id}: the reference is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise DataError(f"{example.id}: the reference must be a JSON object (got {type(value).__name__})")
    unknown = sorted(set(value) - set(config.fields)) if config.fields else []
    if unknown:
        raise DataError(f"{example.id}: {unknown[0]!r} is not one of task.fields: {', '.join(config.fields)}")
    return value


TASK = Task(
    prompt=prompt,
    target=target,
    parse=parse,
    metrics=(typed_field_f1, field_f1, record_match),
    truth=truth,
    reads_text=True,
)
