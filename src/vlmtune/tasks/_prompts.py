"""The conversation of a row: its own turns where the row brings them, else the task's prompt after its images.

Visual, document and chart question answering share `QuestionConfig` and `read_short_answer`; captioning and reading
text share `PromptConfig` and `read_text`.
"""

from typing import Annotated

from pydantic import AfterValidator

from vlmtune.errors import DataError
from vlmtune.tasks import TaskConfig
from vlmtune.tasks._parsing import short_answer
from vlmtune.types import Conversation, Example, Turn

QUESTION = "{question}"
"""Stands in a prompt where the row's question belongs."""


def conversation(config: TaskConfig, example: Example, prompt: str) -> Conversation:
    """Turns up to the one the model must answer. A row's own system turn wins over the configured one.

    Raises:
        DataError: the prompt wants a question, and the row has none.
    """
    if example.turns is not None:
        turns = example.turns
    else:
        turns = (Turn("user", (*example.images, _filled(prompt, example))),)
    if config.system is not None and turns[0].role != "system":
        turns = (Turn("system", (config.system,)), *turns)
    return turns


def _filled(prompt: str, example: Example) -> str:
    if QUESTION not in prompt:
        return prompt
    if example.question is None:
        raise DataError(f"{example.id}: no question; set dataset.question to the column that holds it")
    return prompt.replace(QUESTION, example.question)


def taught_text(example: Example) -> str:
    """The row's target, white space around it removed.

    Raises:
        DataError: the row has no target, or an empty one.
    """
    if example.target is None:
        raise DataError(f"{example.id}: no target to learn from; set dataset.target or dataset.references")
    if not example.target.strip():
        raise DataError(f"{example.id}: the target is empty; repair or remove the row")
    return example.target.strip()


def one_reference(example: Example) -> str:
    """The row's only reference, for tasks with one right answer.

    Raises:
        DataError: it has none, or several.
    """
    references = example.truth["references"]
    if len(references) != 1:
        raise DataError(f"{example.id}: needs exactly one reference (has {len(references)}); see dataset.references")
    text: str = references[0]
    return text


def _with_a_place(prompt: str) -> str:
    if QUESTION not in prompt:
        raise ValueError(f"must hold {QUESTION}, where the row's question goes")
    return prompt


class PromptConfig(TaskConfig):
    """A task with one prompt for every row."""

    prompt: str
    """What the model is asked, after the image."""


class QuestionConfig(PromptConfig):
    """A task that puts the row's question to the model."""

    prompt: Annotated[str, AfterValidator(_with_a_place)] = (
        "{question}\nAnswer the question using a single word or phrase."
    )
    """What the model is asked, after the image; {question} is the row's."""


def ask(config: PromptConfig, example: Example) -> Conversation:
    """The image and the filled prompt, or the row's own conversation."""
    return conversation(config, example, config.prompt)


def teach(config: PromptConfig, example: Example) -> str:
    """The target text, whatever the config says."""
    return taught_text(example)


def read_short_answer(config: QuestionConfig, text: str) -> str:
    """The answer without quotes and full stop."""
    return short_answer(text)


def read_text(config: PromptConfig, text: str) -> str:
    """The text without surrounding white space; every answer can be read."""
    return text.strip()
