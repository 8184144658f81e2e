"""The conversation of a row: its own turns where the row brings them, else the task's prompt behind its images."""

from vlmtune.errors import DataError
from vlmtune.tasks import TaskConfig
from vlmtune.types import Conversation, Example, Turn


def conversation(config: TaskConfig, example: Example, prompt: str) -> Conversation:
    """Turns up to the one the model must answer. A row's own system turn wins over the configured one."""
    if example.turns is not None:
        turns = example.turns
    else:
        turns = (Turn("user", (*example.images, prompt)),)
    if config.system is not None and turns[0].role != "system":
        turns = (Turn("system", (config.system,)), *turns)
    return turns


def taught_text(example: Example) -> str:
    """The row's target.

    Raises:
        DataError: the row has no target, or an empty one.
    """
    if example.target is None:
        raise DataError(f"{example.id}: no target to learn from; set dataset.target or dataset.references")
    if not example.target.strip():
        raise DataError(f"{example.id}: the target is empty; repair or remove the row")
    return example.target
