"""The values that travel between layers: data without behaviour, from the standard library alone."""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]

CombinationType = Literal["cat", "linear", "ties", "dare_linear", "dare_ties"]
"""How adapters are combined into one, by PEFT's names."""

QuantizationScheme = Literal["fp8", "int8", "awq", "gptq"]
"""In what an exported model is stored: 8 bits for weights and activations, or 4 bits for weights."""

OBJECT_MARKS = ("<ref-object>", "<bbox>")
"""Marks in ms-swift's texts that stand for the names and boxes of a row's objects."""


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image that has not been read yet.

    `where` names it in messages ("photos/12.jpg", "row 7, column 'image'") and must be unique in a dataset, across its
    splits: caches use it as their key. `read` returns encoded bytes, or a `PIL.Image.Image` if the source draws its
    images; only `images.py` decodes them. `size` is the upright width and height in pixels, if known already. `cached`
    is false for an image that is not used again.
    """

    where: str
    read: Callable[[], Any]
    size: tuple[int, int] | None = None
    cached: bool = True


@dataclass(frozen=True, slots=True)
class Clip:
    """A video before any of its frames is chosen: their number, how many are shown per second, and their upright size.

    `even` is false if some are shown for longer than others.
    """

    frames: int
    rate: float
    size: tuple[int, int]
    even: bool = True


@dataclass(frozen=True, slots=True)
class VideoRef(ImageRef):
    """A short clip that has not been read yet. Code that does not ask for its frames sees a picture of some of them.

    `read` returns the encoded file, and `size` is not known. `frames` are those of a clip that is given as a list of
    images, `rate` how many of them are shown per second.
    """

    frames: tuple[ImageRef, ...] = ()
    rate: float = 0.0


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a conversation: texts, images and videos in the order in which the model sees them.

    `trained` is false for an assistant's message that is only context. `reasoning` is what an assistant thinks before
    it answers. `more` holds keys that only chat templates read: `tool_calls` and `tool_call_id` of a message, and in
    the first one the `tools` that the model may call.
    """

    role: Role
    content: tuple[str | ImageRef, ...]
    trained: bool = True
    reasoning: str | None = None
    more: Mapping[str, Any] = field(default_factory=dict, hash=False)


Conversation = tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Objects:
    """What the marks in a row's texts stand for, in order: names, and boxes as x and y of one or two points in turn.

    `images` are the indices of the images that the boxes are of.
    """

    names: tuple[str, ...]
    boxes: tuple[tuple[float, ...], ...]
    images: tuple[int, ...]
    unit: Literal["pixels", "unit"]


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a dataset after reading.

    `messages` is the row's own conversation, if it has one; otherwise the task writes it. `target` is the text to train
    on, None in a split without targets, and `reasoning` what is thought before it. `truth` holds what metrics compare
    an answer with, by name: "references" always, "keywords" and "boxes" if the data has them. Rows with the same
    `cluster` are not independent; None if the data names no group, then rows with the same first image belong together.
    `box_scale` is what x and y count to in boxes that the model writes about the first image; None means 1000 for both.
    `dataset` is the name of the dataset of a mixture that the row is from, None for the main one. `objects` are those
    that marks in its texts still stand for.
    """

    id: str
    images: tuple[ImageRef, ...]
    target: str | None
    truth: Mapping[str, Any]
    cluster: str | None = None
    question: str | None = None
    messages: Conversation | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    box_scale: tuple[float, float] | None = None
    dataset: str | None = None
    reasoning: str | None = None
    objects: Objects | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What an engine answers: a conversation that ends with a message of a user or tool."""

    id: str
    conversation: Conversation


@dataclass(frozen=True, slots=True)
class Prediction:
    """An answer. `tokens` counts the generated tokens, including the end-of-turn token.

    `logprobs` are their natural log-probabilities under the model, None if the engine does not report them.
    """

    id: str
    text: str
    finish_reason: Literal["stop", "length"]
    tokens: int
    logprobs: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A request without an answer. It is counted, and never part of a score."""

    id: str
    stage: Literal["image", "prompt", "engine"]
    reason: str
    refused: bool = False
    """Whether a server rejected the request or withheld the answer, as opposed to not answering."""


Outcome = Prediction | Failure

Outcomes = Generator[Outcome, None, None]
"""Outcomes in the order in which they finish; closing the generator cancels the rest."""


@dataclass(frozen=True, slots=True)
class Unparsed:
    """An answer that the task cannot parse. It is scored as wrong, and counted."""

    reason: str
