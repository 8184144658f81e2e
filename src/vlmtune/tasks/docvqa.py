"""A question about a document, answered with text from it."""

from vlmtune.metrics.short_answers import anls, exact_match
from vlmtune.tasks import Task
from vlmtune.tasks._prompts import QuestionConfig, ask, read_short_answer, teach


class Config(QuestionConfig):
    """Document question answering."""

    name: str = "docvqa"
    """The task."""


TASK = Task(ask=ask, teach=teach, read=read_short_answer, metrics=(anls, exact_match))
