"""What the rows of a dataset are compared with, by id: for answers that another program gave to them."""

from collections.abc import Mapping
from typing import Any

from vlmtune import registry
from vlmtune.config import Config
from vlmtune.data import open_role
from vlmtune.errors import ConfigError


def references_of(config: Config) -> dict[str, Mapping[str, Any]]:
    """The truths of the evaluation rows of a config, by id.

    Raises:
        ConfigError: the rows have no ids of their own.
        DataError: a row cannot be used.
    """
    if config.dataset.id is None:
        raise ConfigError("dataset.id: answers are joined with the rows of a dataset by id; name the column of the ids")
    task = registry.load("tasks", config.task.name).TASK
    rows = open_role(config.dataset, config.evaluation.split)
    return {row.id: task.truth(config.task, row) for row in rows}
