"""Blocks of the configuration that stand in more than one place of it, and the one that holds them again."""

from typing import Annotated

from pydantic import AfterValidator, SerializeAsAny

from vlmtune.config import judging
from vlmtune.config.plug import Plug
from vlmtune.data import DatasetConfig, SplitRole
from vlmtune.plugs import Part
from vlmtune.scoring import EvaluationConfig
from vlmtune.tasks import TaskConfig

DatasetBlock = Annotated[
    SerializeAsAny[DatasetConfig], Plug("data", "source", DatasetConfig, "open"), AfterValidator(judging.dataset)
]
TaskBlock = Annotated[SerializeAsAny[TaskConfig], Plug("tasks", "name", TaskConfig, "TASK")]


class AlsoConfig(Part):
    """Other rows, or another task, that both models answer: what training broke elsewhere."""

    name: str
    """Name of the set; its files have it in theirs."""

    dataset: DatasetBlock
    """Where its rows come from, and what their columns mean."""

    task: TaskBlock
    """What is asked there, and what counts."""

    split: SplitRole = "test"
    """Role of the rows both models answer."""

    metrics: list[str] | None = None
    """Names of that task's metrics to report; null reports all of them."""

    primary: str | None = None
    """The metric its verdict is about; null takes the task's first."""


class EvaluationBlock(EvaluationConfig):
    """What is measured, and on which rows; here or elsewhere."""

    also: list[AlsoConfig] = []
    """Further evaluation sets. Both models answer them, too, and each has a comparison of its own; the verdict says
    where the tuned model got worse."""
