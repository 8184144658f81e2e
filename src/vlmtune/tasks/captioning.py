"""One sentence about an image, compared with any number of reference sentences."""

from vlmtune.metrics.captions import bleu_1, bleu_2, bleu_3, bleu_4, cider_d, keyword_recall, rouge_l
from vlmtune.metrics.coco_java import meteor, spice
from vlmtune.metrics.ngrams import bleu, chrf, sacrebleu
from vlmtune.tasks import Task
from vlmtune.tasks._prompts import PromptConfig, ask, parse_text, target


class Config(PromptConfig):
    """Captioning."""

    name: str = "captioning"
    """The task."""

    prompt: str = "Describe this image in one concise, informative sentence."
    """What the model is asked, after the image."""


TASK = Task(
    ask=ask,
    target=target,
    parse=parse_text,
    metrics=(bleu, sacrebleu, cider_d, rouge_l, chrf, bleu_1, bleu_2, bleu_3, bleu_4, keyword_recall, meteor, spice),
)
