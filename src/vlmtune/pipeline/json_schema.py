"""The JSON schema that answers must obey, of the train rows or of a file (`inference.json_schema`)."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from vlmtune.engines import InferenceConfig
from vlmtune.errors import ConfigError
from vlmtune.json_values import parse_json, schema_of
from vlmtune.tasks import TaskConfig

AUTO = "auto"


def with_json_schema(
    inference: InferenceConfig, task: TaskConfig, records: Callable[[], Iterable[Any]]
) -> InferenceConfig:
    """The settings with the schema itself in `json_schema`, as prediction files hold it.

    `auto` describes the objects of the train rows: the evaluated ones must not say what may be answered. The rows of
    another task have free answers.

    Args:
        inference: as configured.
        task: what is asked.
        records: reads the objects of the train rows.

    Raises:
        ConfigError: the file holds no schema.
        DataError: a train row cannot be read.
    """
    wanted = getattr(inference, "json_schema", None)
    if wanted is None:
        return inference
    if wanted != AUTO:
        try:
            schema = parse_json(Path(wanted).read_bytes())
        except (OSError, ValueError):
            schema = None
        if not isinstance(schema, dict):
            raise ConfigError(f"inference.json_schema: {wanted} is no file with a JSON schema, an object")
    elif "fields" not in type(task).model_fields:
        return inference.model_copy(update={"json_schema": None})
    else:
        schema = schema_of(list(records()))
    return inference.model_copy(update={"json_schema": json.dumps(schema, ensure_ascii=False)})
