"""Shared parts of tasks: prompts, conversations, targets, and answers that are plain text.

Visual, document and chart question answering share `QuestionConfig`; all tasks whose answers are plain text share
`parse_text`.
"""

from typing import Annotated

from pydantic import AfterValidator

from vlmtune.errors import DataError
from vlmtune.tasks import TaskConfig
from vlmtune.types import Conversation, Example, Message

QUESTION = "{question}"
"""Placeholder for the row's question in a prompt."""


class PromptConfig(TaskConfig):
    """A task with one prompt for all rows."""

    prompt: str
    """What the model is asked, after the image."""

    @property
    def filled_prompt(self) -> str:
        """The prompt with the task's own placeholders replaced; the row's question is not among them."""
        return self.prompt


def _with_question(prompt: str) -> str:
    if QUESTION not in prompt:
        raise ValueError(f"must contain {QUESTION}, which stands for the row's question")
    return prompt


class QuestionConfig(PromptConfig):
    """A task that asks the model the row's question."""

    prompt: Annotated[str, AfterValidator(_with_question)] = (
        "{question}\nAnswer the question using a single word or phrase."
    )
    """What the model is asked, after the image; {question} is the row's."""


def prompt(config: PromptConfig, example: Example) -> Conversation:
    """The row's own messages if it has any, else its images and the prompt.

    A system message of the row takes precedence over the configured one.

    Raises:
        DataError: the prompt asks the row's question, and the row has none.
    """
    messages = example.messages
    if messages is None:
        text = config.filled_prompt
        if QUESTION in text:
            if example.question is None:
                raise DataError(f"{example.id}: no question; set dataset.question to the column that holds it")
            text = text.replace(QUESTION, example.question)
        messages = (Message("user", (*example.images, text)),)
    if config.system is not None and messages[0].role != "system":
        messages = (Message("system", (config.system,)), *messages)
    return messages


def target(config: PromptConfig, example: Example) -> str:
    """The row's target, without white space around it where it is no turn of a conversation.

    Raises:
        DataError: the row has no target, or an empty one.
    """
    if example.target is None:
        ends = "its messages end with no answer, and there is " if example.messages is not None else ""
        raise DataError(f"{example.id}: {ends}no target to train on; set dataset.target or dataset.references")
    if not example.target.strip():
        raise DataError(f"{example.id}: the target is empty; repair or remove the row")
    return example.target.strip() if example.messages is None else example.target


def single_reference(example: Example) -> str:
    """The reference of a row in a task with one right answer.

    Raises:
        DataError: the row has none, or several.
    """
    references = example.truth["references"]
    if len(references) != 1:
        raise DataError(f"{example.id}: needs exactly one reference (has {len(references)}); see dataset.references")
    text: str = references[0]
    return text


def parse_text(config: PromptConfig, text: str) -> str:
    """The answer as it is, which is what the official scripts of the metrics see; every text is valid."""
    return text
