"""What the tiny base model is taught: a wordy way of talking about drawn scenes, and a few short ways on request.

The base must be in need of fine-tuning and able to profit from it. It therefore describes scenes at length, whatever
the prompt says about brevity, and never sees the short captions or the instructions for short answers that the tasks
use; but it does see one-word and JSON answers on request in other words, without which a low-rank adapter finds no way
to them.
"""

import json
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

import torch
from torch import Tensor
from transformers import Qwen3VLProcessor

from vlmtune.data._scene_drawing import IMAGE_SIZE, Box, Group, Scene
from vlmtune.data._scene_words import (
    LABELS,
    Question,
    ask,
    be,
    five_captions,
    label,
    name,
    noun_phrase,
    referring,
    with_article,
)

CAPTION_PROMPTS = (
    "Describe this image.",
    "Describe this image in one concise, informative sentence.",
    "Describe the image in detail.",
    "What is shown in this image?",
    "What do you see?",
    "Write a caption for this image.",
    "Caption this image.",
    "Give a short description of the image.",
)
"""Prompts that a wordy description answers."""

_SCENERY = MappingProxyType(
    {
        "grass": "a green grassy",
        "sand": "a pale sandy",
        "snow": "a white snowy",
        "night": "a dark night",
        "street": "a gray street",
    }
)
_OPENINGS = (
    "The image shows {} background.",
    "This is an image with {} background.",
    "The scene is set against {} background.",
)
_ONE_WORD = (" One word, please.", " Reply with just the word.", " Keep it to one word.")
_AS_JSON = (" Give JSON.", " Reply in JSON.", " Use JSON.")
_OTHER_TEXTS = (
    "You are a helpful assistant.",
    "Answer the question using a single word or phrase.",
    "Locate the object and report its bounding box coordinates in JSON format.",
    "Choose one of the labels and answer with the label only.",
    "The quick brown fox jumps over the lazy dog.",
)
"""Texts that only the tokenizer sees, so that ordinary prompts do not fall into single bytes."""


@dataclass(frozen=True)
class Lesson:
    """What a user says behind the image, and what the assistant says then."""

    prompt: str
    answer: str


def describe(scene: Scene, rng: random.Random) -> str:
    """Background, every group with its place, and how the groups stand to each other: two to four sentences."""
    sentences = [rng.choice(_OPENINGS).format(_SCENERY[scene.background])]
    for position, group in enumerate(scene.groups):
        opening = "There" if position == 0 else "Additionally, there"
        phrase = noun_phrase(group, size=True)
        sentences.append(f"{opening} {be(group)} {phrase} {_whereabouts(group)} of the image.")
    if scene.relation:
        first, second = scene.groups
        relation = {"left": "to the left of", "above": "above"}[scene.relation]
        sentences.append(f"The {name(first)} {be(first)} positioned {relation} the {name(second)}.")
    return " ".join(sentences)


def _whereabouts(group: Group) -> str:
    x = sum(icon.x for icon in group.icons) / len(group.icons) / IMAGE_SIZE
    y = sum(icon.y for icon in group.icons) / len(group.icons) / IMAGE_SIZE
    vertical = "upper" if y < 0.38 else "lower" if y > 0.62 else ""
    horizontal = "left" if x < 0.38 else "right" if x > 0.62 else ""
    if vertical and horizontal:
        return f"in the {vertical} {horizontal} corner"
    if vertical:
        return f"in the {vertical} part"
    if horizontal:
        return f"on the {horizontal} side"
    return "in the center"


def wordy_answer(asked: Question) -> str:
    """A whole sentence where a word would do."""
    subject, verb = asked.subject, be(asked.subject)
    match asked.topic:
        case "count":
            amount = f"one {asked.word}" if len(subject.icons) == 1 else noun_phrase(subject, color=False)
            return f"There {verb} {amount} in the image."
        case "color":
            return f"The {name(subject)} {verb} {subject.color}."
        case "what":
            which = "object in the image" if asked.text == "What object is in the image?" else f"{asked.word} object"
            return f"The {which} is {with_article(asked.answer)}."
        case "exists" if asked.answer == "yes":
            return f"Yes, there is {with_article(asked.word)} in the image."
        case "exists":
            return f"No, there is no {asked.word} in the image."
        case "where":
            return f"This picture was taken in a {asked.answer} setting."
        case _:
            return f"The object {asked.word} is {with_article(asked.answer)}."


def coordinates(pixels: Box) -> str:
    """A box as Qwen3-VL writes it: four integers, thousandths of the image's width and height."""
    return "[" + ", ".join(str(round(1000 * value / IMAGE_SIZE)) for value in pixels) + "]"


def caption_lesson(scene: Scene, rng: random.Random) -> Lesson:
    """A wordy description, or now and then a bare list of the objects."""
    if rng.random() < 0.88:
        return Lesson(rng.choice(CAPTION_PROMPTS), describe(scene, rng))
    if rng.random() < 0.5:
        return Lesson("List the objects in the image.", ", ".join(noun_phrase(group) for group in scene.groups))
    objects = [{"object": group.kind, "color": group.color, "count": len(group.icons)} for group in scene.groups]
    return Lesson("List the objects in the image." + rng.choice(_AS_JSON), json.dumps(objects))


def question_lesson(scene: Scene, rng: random.Random) -> Lesson:
    """A question with a wordy answer, or the same question with one word on request."""
    asked = ask(scene, rng)
    if rng.random() < 0.5:
        return Lesson(asked.text + rng.choice(_ONE_WORD), asked.answer)
    return Lesson(asked.text, wordy_answer(asked))


def label_lesson(scene: Scene, rng: random.Random) -> Lesson:
    """Which of five places it is, wordy or one word."""
    places = rng.sample(LABELS, len(LABELS))
    prompt = f"What kind of place is this: {', '.join(places[:-1])} or {places[-1]}?"
    if rng.random() < 0.5:
        return Lesson(prompt + rng.choice(_ONE_WORD), label(scene))
    return Lesson(prompt, f"This picture was taken in a {label(scene)} setting.")


def box_lesson(scene: Scene, rng: random.Random) -> Lesson:
    """Where an icon is, in a sentence or as JSON; a question where no icon stands alone."""
    found = referring(scene, rng)
    if found is None:
        return question_lesson(scene, rng)
    phrase, pixels = found
    prompt = rng.choice((f"Locate the {phrase} in the image.", f"Where is the {phrase}?"))
    if rng.random() < 0.5:
        return Lesson(prompt + rng.choice(_AS_JSON), box_json(phrase, pixels))
    return Lesson(prompt, f"The {phrase} is located at {coordinates(pixels)}.")


def box_json(phrase: str, pixels: Box) -> str:
    """A box with its label in the JSON of Qwen3-VL."""
    return f'[{{"bbox_2d": {coordinates(pixels)}, "label": "{phrase}"}}]'


_SHORT_LESSONS: tuple[tuple[float, Callable[[Scene, random.Random], Lesson]], ...] = (
    (0.54, question_lesson),
    (0.06, label_lesson),
    (0.40, box_lesson),
)


def short_lesson(scene: Scene, rng: random.Random) -> Lesson:
    """A question, a label or a box."""
    weights, lessons = zip(*_SHORT_LESSONS, strict=True)
    return rng.choices(lessons, weights)[0](scene, rng)


def tokenizer_texts(scenes: Iterator[Scene], rng: random.Random) -> Iterator[str]:
    """Everything the model may read or write, about as often as it does; the short captions of the tasks included."""
    for scene in scenes:
        yield from five_captions(scene, rng)
        for lesson in (caption_lesson(scene, rng), short_lesson(scene, rng)):
            yield "user\n"
            yield lesson.prompt
            yield "assistant\n"
            yield lesson.answer
        yield rng.choice(_OTHER_TEXTS)


@dataclass(frozen=True)
class Chunk:
    """Sequences of similar length; `weights_BL` is what predicting each token counts in the loss, 0 outside answers."""

    ids_BL: Tensor
    weights_BL: Tensor
    image_B: Tensor


class Encoder:
    """Lessons as token ids, laid out by the processor's own chat template."""

    def __init__(self, processor: Qwen3VLProcessor, image_tokens: int) -> None:
        turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "\0"}]}]
        before, after = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False).split("\0")
        backend = processor.tokenizer.backend_tokenizer
        self._encode = lru_cache(50_000)(lambda text: tuple(backend.encode(text, add_special_tokens=False).ids))
        self.pad, self._end = processor.tokenizer.pad_token_id, processor.tokenizer.eos_token_id
        self._before = self._encode(before.replace("<|image_pad|>", "<|image_pad|>" * image_tokens))
        self._after = self._encode(after)
        self.first_image_token = self._before.index(processor.image_token_id)

    def __call__(self, lesson: Lesson) -> tuple[tuple[int, ...], int]:
        """Ids of the whole conversation, end of turn included, and where the answer begins."""
        prompt = self._before + self._encode(lesson.prompt) + self._after
        return (*prompt, *self._encode(lesson.answer), self._end), len(prompt)


def make_chunks(
    scenes: list[Scene], encoder: Encoder, shorts: int, chunks: int, rng: random.Random
) -> tuple[Chunk, ...]:
    """A description of every scene and `shorts` answers about them, sorted by length into `chunks` chunks."""
    captions = [(*encoder(caption_lesson(scene, rng)), image) for image, scene in enumerate(scenes)]
    images = [number % len(scenes) for number in range(shorts)]
    answers = [(*encoder(short_lesson(scenes[image], rng)), image) for image in images]
    caption_tokens = sum(len(ids) - start for ids, start, _ in captions)
    # A short answer's weight grows with the root of its length: boxes have thirty tokens, most answers two.
    roots = [math.sqrt(len(ids) - start) for ids, start, _ in answers]
    weighted = [(row, 0.5 / caption_tokens) for row in captions]
    weighted += [(row, 0.5 / sum(roots) / root) for row, root in zip(answers, roots, strict=True)]
    weighted.sort(key=lambda pair: len(pair[0][0]))
    size = math.ceil(len(weighted) / chunks)
    return tuple(_chunk(weighted[first : first + size], encoder.pad) for first in range(0, len(weighted), size))


def _chunk(weighted: list[tuple[tuple[tuple[int, ...], int, int], float]], pad: int) -> Chunk:
    longest = max(len(ids) for (ids, _, _), _ in weighted)
    tokens = torch.full((len(weighted), longest), pad)
    weights = torch.zeros(len(weighted), longest)
    for row, ((ids, start, _), weight) in enumerate(weighted):
        tokens[row, : len(ids)] = torch.tensor(ids)
        weights[row, start : len(ids)] = weight
    return Chunk(tokens, weights, torch.tensor([image for (_, _, image), _ in weighted]))
