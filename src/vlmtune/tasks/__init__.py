"""What is asked and what counts. A task is a file here with `Config` (extends `TaskConfig`) and a value `TASK`.

A task is four pure functions and its metrics: `ask` (example -> conversation that ends with a user turn), `teach`
(example -> the text a perfect model would answer), `read` (model text -> answer or Unparsed) and `truth` (example ->
what metrics compare answers with, by name).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vlmtune.metrics import Metric
from vlmtune.registry import BaseConfig
from vlmtune.types import Conversation, Example, Unparsed


class TaskConfig(BaseConfig):
    """What every task lets the user choose."""

    name: str
    """The task: a file in `vlmtune/tasks`, or the dotted name of a custom module."""

    system: str | None = None
    """System prompt; null sends none."""


def given_truth(config: Any, example: Example) -> Mapping[str, Any]:
    """What the row itself brings: its references, keywords and boxes."""
    return example.truth


@dataclass(frozen=True, slots=True)
class Task:
    """A task's behaviour. The first metric is primary unless the config names another."""

    ask: Callable[[Any, Example], Conversation]
    teach: Callable[[Any, Example], str]
    read: Callable[[Any, str], Any | Unparsed]
    metrics: tuple[Metric, ...]
    truth: Callable[[Any, Example], Mapping[str, Any]] = given_truth
