"""Tasks: the prompt, the target, and the metrics. Each is a file here with `Config` (extends `TaskConfig`) and `TASK`.

A task is four pure functions and its metrics: `prompt` (example -> conversation that ends with a user message),
`target` (example -> the text a perfect model would answer), `parse` (model text -> answer or Unparsed) and `truth`
(example -> what metrics compare answers with, by name).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vlmtune.boxes import NORM1000, Box, is_scale, labelled, rescale
from vlmtune.errors import DataError
from vlmtune.metrics import Metric
from vlmtune.registry import BaseConfig
from vlmtune.tasks._parsing import json_value as json_value
from vlmtune.tasks._parsing import unwrap
from vlmtune.types import Conversation, Example, Unparsed

BOX_SCALE = "box_scale"
"""Key of a row's truth: `Example.box_scale`."""


class TaskConfig(BaseConfig):
    """Settings of every task."""

    name: str
    """The task: a file in `vlmtune/tasks`, or the dotted name of a custom module."""

    system: str | None = None
    """System prompt; null sends none."""


def given_truth(config: Any, example: Example) -> Mapping[str, Any]:
    """The row's own truth: its references, keywords and boxes."""
    return example.truth


@dataclass(frozen=True, slots=True)
class Task:
    """What a task does.

    `metrics` are those that a config may name. Reported by default are those that `suited` chooses by the rows' truths,
    or all but those that need more than numpy (`Metric.check`); the first is the primary one unless the config names
    another.
    """

    prompt: Callable[[Any, Example], Conversation]
    target: Callable[[Any, Example], str]
    parse: Callable[[Any, str], Any | Unparsed]
    metrics: tuple[Metric, ...]
    truth: Callable[[Any, Example], Mapping[str, Any]] = given_truth
    suited: Callable[[Sequence[Mapping[str, Any]]], Sequence[Metric]] | None = None

    one_answer: bool = True
    """Whether two right answers to one question mean the same. Captions of an image may say different things."""

    with_boxes: Callable[[Any, Example, Sequence[Box]], Example] | None = None
    """The example with other boxes, from 0 to 1000 as those of `truth`; None if boxes cannot be moved."""

    reads_text: bool = False
    """Whether answers repeat text in the image, which must be neither mirrored nor cut off."""

    boxes: bool = False
    """Whether answers are lists of boxes. `target` then writes them on `example.box_scale`, `truth` passes that scale
    on as `BOX_SCALE`, and `parse` returns boxes, or `LabelledBox`es, with the numbers as they are written."""

    prose: bool = False
    """Whether answers are running text, of which a `\\boxed{…}` is part; elsewhere it holds the answer."""

    def default_metrics(self, truths: Sequence[Mapping[str, Any]]) -> Sequence[Metric]:
        """The metrics that are reported where none is named, for rows with these truths; the primary one first."""
        chosen = [metric for metric in self.suited(truths) if metric in self.metrics] if self.suited else ()
        return chosen or [metric for metric in self.metrics if metric.check is None]


def for_model(
    task: Task, with_box_scale: Callable[[Example], Example], with_objects: Callable[[Example], Example]
) -> Task:
    """The task with boxes as a model writes them, in objects and in targets of boxes, by two functions of `Encoder`."""

    def scaled(step: Callable[[Any, Example], Any]) -> Callable[[Any, Example], Any]:
        return lambda config, example: step(config, with_objects(with_box_scale(example) if task.boxes else example))

    prompt, target, truth = task.prompt, scaled(task.target), scaled(task.truth)
    return replace(task, prompt=lambda config, row: prompt(config, with_objects(row)), target=target, truth=truth)


def parse_answer(task: Task, config: Any, text: str, truth: Mapping[str, Any]) -> Any | Unparsed:
    """The answer in a model's text; boxes are from 0 to 1000, whatever scale the model wrote them on.

    Thinking, answer tags and the like are removed first, the same for all tasks (`_parsing.unwrap`).
    `truth` is the row's, as `task.truth` gave it or as a prediction file holds it.

    Raises:
        DataError: the scale in the truth is invalid.
    """
    unwrapped = unwrap(text, task.prose)
    if isinstance(unwrapped, Unparsed):
        return unwrapped
    answer = task.parse(config, unwrapped)
    scale = truth.get(BOX_SCALE)
    if not task.boxes or isinstance(answer, Unparsed):
        return answer
    if scale is not None and not is_scale(scale):
        raise DataError(f"{BOX_SCALE!r} must be two positive numbers, a width and a height (got {scale!r:.80})")
    boxes = [labelled(box) for box in answer]
    scales = [box.scale or scale or NORM1000 for box in boxes]
    return [box._replace(box=rescale(box.box, own, NORM1000)).plain() for box, own in zip(boxes, scales, strict=True)]


def unwrap_references(task: Task, references: Sequence[str]) -> list[str]:
    """References without thinking and answer tags, as answers are read: a model trained on such references writes them,
    and one that was not must not lose for writing the bare answer.
    """
    unwrapped = [unwrap(text, task.prose) for text in references]
    return [text if isinstance(plain, Unparsed) else plain for text, plain in zip(references, unwrapped, strict=True)]
