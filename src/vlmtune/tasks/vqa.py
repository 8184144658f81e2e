"""A question about an image, answered in a word or a few."""

from collections.abc import Mapping, Sequence
from typing import Any

from vlmtune.metrics import Metric
from vlmtune.metrics.short_answers import exact_match, exact_match_lenient, textvqa_accuracy, vqa_accuracy
from vlmtune.tasks import Task
from vlmtune.tasks._prompts import QuestionConfig, parse_text, prompt, target


class Config(QuestionConfig):
    """Visual question answering."""

    name: str = "vqa"
    """The task."""


PEOPLE = 4
"""References of a row with which an answer can reach 1 in VQA accuracy."""


def suited(truths: Sequence[Mapping[str, Any]]) -> Sequence[Metric]:
    """VQA accuracy first where every row has the answers of several people, else exact match."""
    several = all(len(truth["references"]) >= PEOPLE for truth in truths)
    first = (vqa_accuracy, textvqa_accuracy) if several else (exact_match,)
    return tuple(dict.fromkeys((*first, *TASK.metrics)))


TASK = Task(
    prompt=prompt,
    target=target,
    parse=parse_text,
    metrics=(exact_match, vqa_accuracy, textvqa_accuracy, exact_match_lenient),
    suited=suited,
)
