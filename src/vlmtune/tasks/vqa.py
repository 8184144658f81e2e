"""A question about an image, answered in a word or a few."""

from vlmtune.metrics.shortanswers import exact_match, vqa_accuracy
from vlmtune.tasks import Task
from vlmtune.tasks._questions import QuestionConfig, ask, read, teach


class Config(QuestionConfig):
    """Visual question answering."""

    name: str = "vqa"
    """The task."""


TASK = Task(ask=ask, teach=teach, read=read, metrics=(exact_match, vqa_accuracy))
"""`vqa_accuracy` wants ten answers a row: with fewer than four none reaches 1, so `exact_match` comes first."""
