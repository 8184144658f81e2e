"""A question about a document, answered with text from it."""

from vlmtune.metrics.short_answers import anls, exact_match
from vlmtune.tasks import Task
from vlmtune.tasks._prompts import QuestionConfig, ask, parse_short_answer, target


class Config(QuestionConfig):
    """Document question answering."""

    name: str = "docvqa"
    """The task."""


TASK = Task(ask=ask, target=target, parse=parse_short_answer, metrics=(anls, exact_match))
