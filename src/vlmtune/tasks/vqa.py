"""A question about an image, answered in a word or a few."""

from vlmtune.metrics.short_answers import exact_match, exact_match_lenient, textvqa_accuracy, vqa_accuracy
from vlmtune.tasks import Task
from vlmtune.tasks._prompts import QuestionConfig, parse_text, prompt, target


class Config(QuestionConfig):
    """Visual question answering."""

    name: str = "vqa"
    """The task."""


TASK = Task(
    prompt=prompt,
    target=target,
    parse=parse_text,
    metrics=(exact_match, vqa_accuracy, textvqa_accuracy, exact_match_lenient),
)
"""`vqa_accuracy` wants ten answers a row: with fewer than four none reaches 1, so `exact_match` comes first."""
