"""The text in an image, letter by letter."""

from vlmtune.metrics.transcripts import cer, wer
from vlmtune.tasks import Task, TaskConfig
from vlmtune.tasks._asking import conversation, taught_text
from vlmtune.types import Conversation, Example


class Config(TaskConfig):
    """Reading text."""

    name: str = "ocr"
    """The task."""

    prompt: str = "Read all the text in the image."
    """What the model is asked, behind the image."""


def ask(config: Config, example: Example) -> Conversation:
    """The image and the prompt, or the row's own conversation."""
    return conversation(config, example, config.prompt)


def teach(config: Config, example: Example) -> str:
    """The transcription."""
    return taught_text(example)


def read(config: Config, text: str) -> str:
    """A transcription is its text."""
    return text.strip()


TASK = Task(ask=ask, teach=teach, read=read, metrics=(cer, wer))
