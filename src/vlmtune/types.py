"""The values that travel between layers. No behaviour beyond derived properties; standard library only."""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image not read yet.

    `where` names it for messages ("photos/12.jpg", "row 7, column 'image'") and must differ for every image of a
    dataset, splits included: what was made from an image is kept under this name. `read` returns encoded bytes, or a
    `PIL.Image.Image` where a source draws its images. Only `images` calls `read`. `size` is the upright width and
    height in pixels, where they are known already.
    """

    where: str
    read: Callable[[], Any]
    size: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """One speaker's turn; texts and images in the order in which the model sees them."""

    role: Role
    content: tuple[str | ImageRef, ...]


Conversation = tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a dataset after reading.

    `turns` is set where the row brings its own conversation; otherwise the task writes one. `target` is what training
    teaches, None where the split has none. `truth` holds what metrics compare an answer with, by name: "references"
    always, "keywords", "labels", "boxes" where the data has them. Rows with the same `cluster` are not independent;
    None where the data names no group: then rows that show the same first picture belong together. `box_scale` is what
    x and y count to in boxes that the model writes about the first image; None is 1000 for both.
    """

    id: str
    images: tuple[ImageRef, ...]
    target: str | None
    truth: Mapping[str, Any]
    cluster: str | None = None
    question: str | None = None
    turns: Conversation | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    box_scale: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What an engine is asked: a conversation that ends with a user turn."""

    id: str
    conversation: Conversation


@dataclass(frozen=True, slots=True)
class Prediction:
    """An answer came back. `tokens` counts the generated tokens, the end-of-turn token included.

    `logprobs` holds the natural log-probability of each of them under the model, None where an engine cannot tell.
    """

    id: str
    text: str
    finish_reason: Literal["stop", "length"]
    tokens: int
    logprobs: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """No answer came back; never a number, never part of a score."""

    id: str
    stage: Literal["image", "prompt", "engine"]
    reason: str


Outcome = Prediction | Failure

Outcomes = Generator[Outcome, None, None]
"""Outcomes as they are ready; closing it ends the work on the others."""


@dataclass(frozen=True, slots=True)
class Unparsed:
    """An answer came back and cannot be read: it is scored wrong, and counted."""

    reason: str
