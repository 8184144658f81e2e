"""One label of a fixed set for an image."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from vlmtune.errors import DataError
from vlmtune.metrics.labels import accuracy, macro_f1
from vlmtune.tasks import Task, TaskConfig
from vlmtune.tasks._parsing import short_answer
from vlmtune.tasks._prompts import conversation, one_reference
from vlmtune.types import Conversation, Example, Unparsed

LABELS = "{labels}"
"""Stands in a prompt where the label set belongs."""


class Config(TaskConfig):
    """Classification."""

    name: str = "classification"
    """The task."""

    labels: Annotated[list[str], Field(min_length=2)]
    """The label set; scores are over all of it, whatever occurs. A row's reference is one of them."""

    prompt: str = "Choose one of the labels and answer with the label only: {labels}."
    """What the model is asked, behind the image; {labels} is the label set."""


def ask(config: Config, example: Example) -> Conversation:
    """The image and the label set, or the row's own conversation."""
    return conversation(config, example, config.prompt.replace(LABELS, ", ".join(config.labels)))


def teach(config: Config, example: Example) -> str:
    """The row's label."""
    return _label(config, example)


def read(config: Config, text: str) -> str | Unparsed:
    """The label an answer names: as the whole answer, or as the only label in it. Case does not matter."""
    known = {label.casefold(): label for label in config.labels}
    said = short_answer(text).casefold()
    if said in known:
        return known[said]
    padded = f" {' '.join(''.join(c if c.isalnum() else ' ' for c in text.casefold()).split())} "
    named = [label for label in config.labels if f" {_spaced(label)} " in padded]
    # "night street" names "night", too: of nested labels the longest counts.
    named = [
        label for label in named if not any(label != other and _spaced(label) in _spaced(other) for other in named)
    ]
    return named[0] if len(named) == 1 else Unparsed("names no label" if not named else f"names {len(named)} labels")


def _spaced(label: str) -> str:
    return " ".join("".join(c if c.isalnum() else " " for c in label.casefold()).split())


def truth(config: Config, example: Example) -> Mapping[str, Any]:
    """The row's label, and with it the label set."""
    label = _label(config, example)
    return {**example.truth, "label": label, "class": {"label": label, "labels": config.labels}}


def _label(config: Config, example: Example) -> str:
    label = one_reference(example).strip()
    if label not in config.labels:
        raise DataError(f"{example.id}: {label!r} is not one of task.labels: {', '.join(config.labels)}")
    return label


TASK = Task(ask=ask, teach=teach, read=read, metrics=(accuracy, macro_f1), truth=truth)
