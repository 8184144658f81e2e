"""A question about a chart, answered with a number or a word; a number may be 5 % off."""

from vlmtune.metrics.shortanswers import exact_match, relaxed_accuracy
from vlmtune.tasks import Task
from vlmtune.tasks._questions import QuestionConfig, ask, read, teach


class Config(QuestionConfig):
    """Chart question answering."""

    name: str = "chartqa"
    """The task."""


TASK = Task(ask=ask, teach=teach, read=read, metrics=(relaxed_accuracy, exact_match))
