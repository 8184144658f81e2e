"""A question about a chart, answered with a number or a word; a number may be off by 5 %."""

from vlmtune.metrics.short_answers import exact_match, exact_match_lenient, relaxed_accuracy
from vlmtune.tasks import Task
from vlmtune.tasks._prompts import QuestionConfig, parse_text, prompt, target


class Config(QuestionConfig):
    """Chart question answering."""

    name: str = "chartqa"
    """The task."""


TASK = Task(
    prompt=prompt,
    target=target,
    parse=parse_text,
    metrics=(relaxed_accuracy, exact_match, exact_match_lenient),
    reads_text=True,
)
