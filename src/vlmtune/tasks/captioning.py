"""One sentence about an image, compared with any number of reference sentences."""

from collections.abc import Mapping, Sequence
from typing import Any

from vlmtune.metrics import Metric
from vlmtune.metrics.captions import bleu_1, bleu_2, bleu_3, bleu_4, cider_d, keyword_recall, rouge_l
from vlmtune.metrics.coco_java import meteor, spice
from vlmtune.metrics.ngrams import bleu, chrf, sacrebleu
from vlmtune.metrics.short_answers import exact_match
from vlmtune.tasks import Task
from vlmtune.tasks._prompts import PromptConfig, parse_text, prompt, target
from vlmtune.text_units import count_short


class Config(PromptConfig):
    """Captioning."""

    name: str = "captioning"
    """The task."""

    prompt: str = "Describe this image in one concise, informative sentence."
    """What the model is asked, after the image."""


_METRICS = (bleu, sacrebleu, cider_d, rouge_l, chrf, bleu_1, bleu_2, bleu_3, bleu_4, keyword_recall)


def suited(truths: Sequence[Mapping[str, Any]]) -> Sequence[Metric]:
    """BLEU first; for references mostly too short for its 4-grams, exact match, chrF and CIDEr-D come before it."""
    short = count_short([text for truth in truths for text in truth["references"]])
    return tuple(dict.fromkeys((exact_match, chrf, cider_d, *_METRICS))) if short else _METRICS


TASK = Task(
    prompt=prompt,
    target=target,
    parse=parse_text,
    metrics=(*_METRICS, exact_match, meteor, spice),
    suited=suited,
    one_answer=False,
    prose=True,
)
