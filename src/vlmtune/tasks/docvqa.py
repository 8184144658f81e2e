"""A question about a document, answered with text from it."""

from vlmtune.metrics.short_answers import anls, exact_match, exact_match_lenient
from vlmtune.tasks import Task
from vlmtune.tasks._prompts import QuestionConfig, parse_text, prompt, target


class Config(QuestionConfig):
    """Document question answering."""

    name: str = "docvqa"
    """The task."""


TASK = Task(
    prompt=prompt, target=target, parse=parse_text, metrics=(anls, exact_match, exact_match_lenient), reads_text=True
)
