"""A question about a chart, answered with a number or a word; a number may be off by 5 %."""

from vlmtune.metrics.short_answers import exact_match, relaxed_accuracy
from vlmtune.tasks import Task
from vlmtune.tasks._prompts import QuestionConfig, ask, parse_short_answer, target


class Config(QuestionConfig):
    """Chart question answering."""

    name: str = "chartqa"
    """The task."""


TASK = Task(ask=ask, target=target, parse=parse_short_answer, metrics=(relaxed_accuracy, exact_match))
