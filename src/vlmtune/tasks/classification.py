"""One label of a fixed set for an image."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from vlmtune.errors import DataError
from vlmtune.metrics.labels import accuracy, macro_f1
from vlmtune.tasks import Task
from vlmtune.tasks._labels import find_label
from vlmtune.tasks._prompts import PromptConfig, prompt, single_reference
from vlmtune.types import Example, Unparsed

LABELS = "{labels}"
"""Placeholder for the label set in a prompt."""


class Config(PromptConfig):
    """Classification."""

    name: str = "classification"
    """The task."""

    labels: Annotated[list[str], Field(min_length=2)]
    """The label set. Every row's reference is one of them, and scores are over all of them, even those no row has."""

    prompt: str = "Choose one of the labels and answer with the label only: {labels}."
    """What the model is asked, after the image; {labels} is the label set."""

    @property
    def filled_prompt(self) -> str:
        """The prompt with the label set."""
        return self.prompt.replace(LABELS, ", ".join(self.labels))


def target(config: Config, example: Example) -> str:
    """The row's label."""
    return _label(config, example)


def parse(config: Config, text: str) -> str | Unparsed:
    """The label that is the whole answer, or else the only one that it affirms."""
    return find_label(text, config.labels)


def truth(config: Config, example: Example) -> Mapping[str, Any]:
    """The row's label, alone and with the label set."""
    label = _label(config, example)
    return {**example.truth, "label": label, "class": {"label": label, "labels": config.labels}}


def _label(config: Config, example: Example) -> str:
    label = single_reference(example).strip()
    if label not in config.labels:
        raise DataError(f"{example.id}: {label!r} is not one of task.labels: {', '.join(config.labels)}")
    return label


TASK = Task(prompt=prompt, target=target, parse=parse, metrics=(accuracy, macro_f1), truth=truth)
