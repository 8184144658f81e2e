"""A question behind an image, a short answer: what visual, document and chart question answering share."""

from typing import Annotated

from pydantic import AfterValidator

from vlmtune.tasks import TaskConfig
from vlmtune.tasks._asking import QUESTION, conversation, taught_text
from vlmtune.tasks._reading import short_answer
from vlmtune.types import Conversation, Example


def _with_a_place(prompt: str) -> str:
    if QUESTION not in prompt:
        raise ValueError(f"must hold {QUESTION}, where the row's question goes")
    return prompt


class QuestionConfig(TaskConfig):
    """A task that puts the row's question to the model."""

    prompt: Annotated[str, AfterValidator(_with_a_place)] = (
        "{question}\nAnswer the question using a single word or phrase."
    )
    """What the model is asked, behind the image; {question} is the row's."""


def ask(config: QuestionConfig, example: Example) -> Conversation:
    """The image and the question, or the row's own conversation."""
    return conversation(config, example, config.prompt)


def teach(config: QuestionConfig, example: Example) -> str:
    """The target answer."""
    return taught_text(example)


def read(config: QuestionConfig, text: str) -> str:
    """The answer without quotes and full stop."""
    return short_answer(text)
