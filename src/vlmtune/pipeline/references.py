"""What the rows of a dataset are compared with, by id: for answers that another program gave to them."""

from collections.abc import Mapping
from typing import Any

from vlmtune import registry
from vlmtune.boxes import BOX_FORMS, NORM1000
from vlmtune.config import Config
from vlmtune.data import open_role
from vlmtune.errors import ConfigError
from vlmtune.processing.objects import write_objects


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
    # No model is known here: boxes count to 1000, as in prediction files.
    written = (write_objects(row, BOX_FORMS["list"], lambda _: NORM1000) for row in rows)
    return {row.id: task.truth(config.task, row) for row in written}
