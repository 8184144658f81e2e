"""Settings that follow from the size of the data: lengths of answers and examples, the area of images, metrics.

Text lengths are counted in the model's own tokens if its tokenizer is on this machine. Otherwise they are estimated, on
the safe side: see `estimate_tokens`.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlmtune import registry
from vlmtune.config import Config
from vlmtune.data import open_role
from vlmtune.engines import InferenceConfig
from vlmtune.errors import DataError
from vlmtune.images import clip_of, size_of
from vlmtune.modeling.loading import TINY, ModelConfig, find_checkpoint
from vlmtune.training.config import TrainingConfig
from vlmtune.types import Clip, Example, VideoRef

MEASURED_ROWS = 1000
MEASURED_IMAGES = 300
"""Rows of the train role whose texts, and whose image headers, are read; evenly spaced."""

TOKEN_AREA = 28 * 28
"""Pixels of an image token: 28 x 28 in Qwen2.5-VL. Qwen3-VL needs fewer tokens, with 32 x 32."""

READING = {"docvqa", "chartqa", "ocr", "extraction"}
"""Tasks that read small text."""

AREAS = {"reading": 2_359_296, "grounding": 1_605_632, "looking": 1_003_520}
"""Largest image area in pixels: 1536 x 1536 to read, 1280 tokens of 28 x 28 to look."""

VIDEO_AREA, VIDEO_TOKEN_AREA = 4_194_304, 2 * 32 * 32
"""Largest area of all frames of a video in pixels, and the pixels of one token, of two frames in Qwen3-VL."""

MOMENT_TOKENS = 12
"""Tokens of the time that is written for two frames of a video."""

LEAST_AREA = 200_704
SPARE_TOKENS = 96
"""Tokens of roles, separators and the task's prompt around the texts of a row."""

SPACELESS = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x3400, 0x9FFF))
"""Code points of scripts without spaces between words: Thai, Lao, Burmese, Khmer, Japanese, Chinese."""

Blocks = dict[str, dict[str, Any]]
Reasons = dict[tuple[str, str], str]


@dataclass(frozen=True)
class _Measured:
    """Some train rows: tokens of each answer and of all texts of each row, areas of their images in pixels.

    `clips` are the pixels of all frames of each video that are taken at 2 per second, and the number of the frames.
    """

    answers: Sequence[int]
    texts: Sequence[int]
    clips: Sequence[tuple[int, int]]
    areas: Sequence[Sequence[int]]
    largest: tuple[int, int]
    spaceless: bool


def infer_settings(config: Config, given: Mapping[str, Any], local: bool) -> tuple[Blocks, Reasons]:
    """Blocks `model`, `inference`, `training` and `evaluation` as far as the data decides them, and the reasons.

    Args:
        config: a valid config for the data.
        given: blocks that the user set; their keys are not inferred.
        local: whether image headers can be read without a download.
    """
    count, how = token_counter(config.model.name)
    measured = _measure(config, count, local)
    blocks: Blocks = {}
    reasons: Reasons = {}

    def infer(block: str, key: str, value: Any, reason: str) -> None:
        known = given.get(block)
        if not (isinstance(known, Mapping) and key in known):
            blocks.setdefault(block, {})[key] = value
            reasons[block, key] = reason

    area = _area(config, measured)
    if area is not None:
        size = "x".join(map(str, measured.largest))
        infer("model", "max_pixels", area, f"shrinks images, which have up to {size}; more shows more and costs more")
    if measured.answers:
        most = int(np.percentile(measured.answers, 99, method="higher"))
        tokens = max(InferenceConfig().answer_limit, _rounded(most * 1.1 + 8, 16))
        infer("inference", "max_new_tokens", tokens, f"99 % of the references have at most {most} tokens, {how}")
    if any(pixels > VIDEO_AREA for pixels, _ in measured.clips):
        why = f"shrinks videos to {VIDEO_AREA // VIDEO_TOKEN_AREA:,} tokens each; more shows more and costs more"
        infer("model", "video", {"max_pixels": VIDEO_AREA}, why)
    longest = _longest(measured, area if area is not None else config.model.max_pixels)
    needed = longest * 1.1 + SPARE_TOKENS
    if needed > TrainingConfig().max_tokens:
        reason = f"the longest of {len(measured.texts):,} rows has about {longest:,} tokens, {how}"
        infer("training", "max_tokens", _rounded(needed, 1024), reason)
    if measured.spaceless and config.task.name == "captioning":
        infer("evaluation", "primary", "chrf", "compares characters: the texts have no spaces between words")
    return blocks, reasons


def token_counter(model: str) -> tuple[Callable[[str], int], str]:
    """Counts the tokens of a text as a model does, without a download; and how it counts."""
    file = _tokenizer_file(model)
    if file is None:
        return estimate_tokens, "as estimated without the tokenizer of the model"
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))

    def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    if model == TINY:  # a stand-in: the config must fit it, and the model that takes its place
        return lambda text: max(count(text), estimate_tokens(text)), "as counted or estimated, whichever is more"
    return count, "as the model counts"


def _tokenizer_file(model: str) -> Path | None:
    """The tokenizer of a model; None unless it is on this machine."""
    if model == TINY:
        return find_checkpoint(ModelConfig(name=TINY)).folder / "tokenizer.json"
    if Path(model).is_dir():
        file = Path(model, "tokenizer.json")
        return file if file.is_file() else None
    from huggingface_hub import try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(model, "tokenizer.json")
    except (ValueError, OSError):  # no name of a model, or a damaged cache
        return None
    return Path(cached) if isinstance(cached, str) else None


def estimate_tokens(text: str) -> int:
    """A number of tokens that tokenizers of the Qwen family rarely exceed.

    Three letters or spaces are a token, a digit is one (Qwen splits numbers into digits), a punctuation mark is one,
    and so are two bytes of any other character.

    >>> estimate_tokens("a dog runs"), estimate_tokens("12.50"), estimate_tokens("café")
    (4, 5, 2)
    """
    letters = sum(char.isascii() and (char.isalpha() or char.isspace()) for char in text)
    others = sum(len(char.encode(errors="replace")) for char in text if not char.isascii())
    single = sum(char.isascii() for char in text) - letters
    return math.ceil(letters / 3 + single + others / 2)


def _measure(config: Config, count: Callable[[str], int], local: bool) -> _Measured:
    rows = open_role(config.dataset, "train")
    answers: list[int] = []
    texts: list[int] = []
    areas: list[list[int]] = []
    clips: list[tuple[int, int]] = []
    largest, spaceless, letters = (0, 0), 0, 0
    headers = set(_spread(len(rows), MEASURED_IMAGES if local else 0))
    for index in sorted({*_spread(len(rows), MEASURED_ROWS), *headers}):
        try:
            example = rows[index]
            written = list(_answers(config, example))
            shown = example.images if index in headers else ()
            sizes = [size_of(ref) for ref in shown if not isinstance(ref, VideoRef)]
            clips += [_frames(clip_of(ref)) for ref in shown if isinstance(ref, VideoRef)]
        except DataError:  # `data check` lists bad rows
            continue
        answers += map(count, written)
        texts.append(sum(map(count, _all_texts(example, written))))
        areas.append([width * height for width, height in sizes])
        largest = max([largest, *sizes], key=lambda size: size[0] * size[1])
        letters += sum(len(text) for text in written)
        spaceless += sum(any(low <= ord(char) <= high for low, high in SPACELESS) for text in written for char in text)
    return _Measured(answers, texts, clips, areas, largest, spaceless * 2 > letters > 0)


def _frames(clip: Clip) -> tuple[int, int]:
    """Pixels of the frames of a video that are taken, and their number."""
    count = min(clip.frames, max(4, int(2 * clip.frames / clip.rate)))
    return count * clip.size[0] * clip.size[1], count


def _spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` indices, evenly spaced."""
    return list(range(0, count, max(1, -(-count // wanted)))) if wanted else []


def _answers(config: Config, example: Example) -> Iterator[str]:
    """What a model should write for a row: all references, and the training target."""
    task = registry.load("tasks", config.task.name).TASK
    if not task.boxes:
        yield from example.truth["references"]
    if example.messages is not None and example.target is not None:
        yield example.target
    elif example.messages is None:
        yield task.target(config.task, example)


def _all_texts(example: Example, answers: Sequence[str]) -> Iterator[str]:
    """Texts of the longest training example of a row."""
    yield max(answers, key=len, default="")
    if example.question is not None:
        yield example.question
    for message in example.messages or ():
        yield from (part for part in message.content if isinstance(part, str))


def _area(config: Config, measured: _Measured) -> int | None:
    """The largest image area that suits the task, if some image is larger."""
    name = config.task.name
    limit = AREAS["reading" if name in READING else "grounding" if name == "grounding" else "looking"]
    per_row = max((len(areas) for areas in measured.areas), default=0)
    limit = max(LEAST_AREA, limit // max(1, per_row))
    return limit if any(area > limit for areas in measured.areas for area in areas) else None


def _longest(measured: _Measured, area: int | None) -> int:
    """Tokens of the longest texts and most images of the measured rows, with images no larger than `area`."""
    limit = area or math.inf
    images = (sum(math.ceil(min(each, limit) / TOKEN_AREA) for each in areas) for areas in measured.areas)
    clips = (min(each, VIDEO_AREA) // VIDEO_TOKEN_AREA + frames // 2 * MOMENT_TOKENS for each, frames in measured.clips)
    return max(measured.texts, default=0) + max(images, default=0) + max(clips, default=0)


def _rounded(number: float, step: int) -> int:
    """Rounded up to a multiple of `step`."""
    return math.ceil(number / step) * step
