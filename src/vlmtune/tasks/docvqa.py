"""A question about a document, answered with what stands in it."""

from vlmtune.metrics.shortanswers import anls, exact_match
from vlmtune.tasks import Task
from vlmtune.tasks._questions import QuestionConfig, ask, read, teach


class Config(QuestionConfig):
    """Document question answering."""

    name: str = "docvqa"
    """The task."""


TASK = Task(ask=ask, teach=teach, read=read, metrics=(anls, exact_match))
