"""A prompt behind an image, a text as the answer: what captioning and reading text share."""

from vlmtune.tasks import TaskConfig
from vlmtune.tasks._asking import conversation, taught_text
from vlmtune.types import Conversation, Example


class TextConfig(TaskConfig):
    """A task with one prompt for every row."""

    prompt: str
    """What the model is asked, behind the image."""


def ask(config: TextConfig, example: Example) -> Conversation:
    """The image and the prompt, or the row's own conversation."""
    return conversation(config, example, config.prompt)


def teach(config: TextConfig, example: Example) -> str:
    """The target text."""
    return taught_text(example)


def read(config: TextConfig, text: str) -> str:
    """The text as it is; every answer can be read."""
    return text.strip()
