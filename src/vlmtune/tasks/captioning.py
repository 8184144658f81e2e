"""One sentence about an image, compared with any number of reference sentences."""

from vlmtune.metrics.captions import bleu_1, bleu_2, bleu_3, bleu_4, cider_d, keyword_recall, rouge_l
from vlmtune.metrics.ngrams import bleu, chrf, sacrebleu
from vlmtune.tasks import Task, TaskConfig
from vlmtune.tasks._asking import conversation, taught_text
from vlmtune.types import Conversation, Example


class Config(TaskConfig):
    """Captioning."""

    name: str = "captioning"
    """The task."""

    prompt: str = "Describe this image in one concise, informative sentence."
    """What the model is asked, behind the image."""


def ask(config: Config, example: Example) -> Conversation:
    """The image and the prompt, or the row's own conversation."""
    return conversation(config, example, config.prompt)


def teach(config: Config, example: Example) -> str:
    """The target caption."""
    return taught_text(example)


def read(config: Config, text: str) -> str:
    """A caption is its text; every answer can be read."""
    return text.strip()


TASK = Task(
    ask=ask,
    teach=teach,
    read=read,
    metrics=(bleu, sacrebleu, cider_d, rouge_l, chrf, bleu_1, bleu_2, bleu_3, bleu_4, keyword_recall),
)
