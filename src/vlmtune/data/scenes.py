"""Drawn scenes with five captions each, and questions, labels and boxes: a dataset without a download.

Columns and splits are those of `jxie/flickr8k` (image, caption_0 ... caption_4; train, validation, test), with further
columns for other tasks. Row n of a split is a pure function of (split, n): nothing is stored.
"""

import random
from itertools import islice
from typing import Any

from vlmtune.data import DatasetConfig
from vlmtune.data._records import Records
from vlmtune.data._rows import MappedRows
from vlmtune.data._scene_drawing import Scene, draw, make_scene
from vlmtune.data._scene_words import five_captions, keywords, label, question, referring
from vlmtune.errors import DataError
from vlmtune.types import ImageRef

SIZES = {"train": 6000, "validation": 1000, "test": 1000}
"""Rows per split, as in Flickr8k."""


class Config(DatasetConfig):
    """Drawn scenes."""

    source: str = "scenes"
    """The source."""

    identifiable: bool = False
    """Only scenes with an icon that a phrase can identify; the others have neither `phrase` nor `box`."""


def open(config: Config, split: str, limit: int | None = None) -> MappedRows:
    """The first `limit` scenes of a split.

    Raises:
        DataError: no such split.
    """
    if split not in SIZES:
        raise DataError(f"scenes have no split {split!r}; there are: {', '.join(SIZES)}")
    scenes = (n for n in range(SIZES[split]) if not config.identifiable or record(split, n)["box"] is not None)
    numbers = list(islice(scenes, limit))
    records = Records(f"scenes [{split}]", len(numbers), lambda index: record(split, numbers[index]), _image)
    return MappedRows(config, records)


def record(split: str, index: int) -> dict[str, Any]:
    """All columns of one row; the image as a name, drawn when it is read."""
    scene, rng = _scene(split, index)
    question_text, answer = question(scene, rng)
    phrase_and_box = referring(scene, rng)
    return {
        "id": f"{split}-{index:05d}",
        "image": f"{split}/{index}",
        **{f"caption_{n}": caption for n, caption in enumerate(five_captions(scene, rng))},
        "keywords": keywords(scene),
        "question": question_text,
        "answer": answer,
        "label": label(scene),
        "phrase": phrase_and_box[0] if phrase_and_box else None,
        "box": list(phrase_and_box[1]) if phrase_and_box else None,
    }


def _scene(split: str, index: int) -> tuple[Scene, random.Random]:
    rng = random.Random(f"{split}/{index}")
    return make_scene(rng), rng


def _image(value: str, where: str) -> ImageRef:
    split, index = value.split("/")
    return ImageRef(where, lambda: draw(_scene(split, int(index))[0]))
