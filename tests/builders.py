"""Builders that tests share: the tiny model's config, images, image references, messages, prediction lines."""

import importlib.util
import io
import random
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from commands import ROOT
from PIL import Image

from vlmtune.modeling.loading import ModelConfig
from vlmtune.predictions import Line
from vlmtune.progress import Silent
from vlmtune.scoring import EvaluationConfig, StatisticsConfig
from vlmtune.scoring.comparison import Comparison, compare
from vlmtune.scoring.pairing import PredictionFile
from vlmtune.tasks import captioning
from vlmtune.types import ImageRef, Message

TINY = ModelConfig(name="tiny", device="cpu")

SAME_BOX: list[tuple[str, str, list[float]]] = [
    ("pixels", "xyxy", [20, 10, 60, 90]),
    ("pixels", "xywh", [20, 10, 40, 80]),
    ("norm1000", "xyxy", [100, 100, 300, 900]),
    ("unit", "xywh", [0.1, 0.1, 0.2, 0.8]),
]
"""One box of an image of 200 x 100 pixels, by unit and corners; from 0 to 1000 it is [100, 100, 300, 900]."""


def make_image(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth noise. Neighboring pixels are similar, as in a photo, so that a wrong resize is noticed."""
    small = np.random.default_rng(seed).integers(0, 256, (height // 4 + 2, width // 4 + 2, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def ref(image: Image.Image | bytes, where: str = "test image") -> ImageRef:
    return ImageRef(where, lambda: image)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def user(*content: str | ImageRef) -> Message:
    return Message("user", content)


def assistant(text: str) -> Message:
    return Message("assistant", (text,))


class Notes(Silent):
    """A progress listener that records notes."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


WORDS = "a the red blue green ball tree house car boat on grass street sand two three big small is are and near".split()
QUICK = EvaluationConfig(statistics=StatisticsConfig(resamples=1000))


def lines(count: int, noise: float, extra: int = 0, seed: int = 1) -> list[Line]:
    """Answers equal to the first reference, with a share of the words replaced and `extra` words appended."""
    made = []
    for n in range(count):
        own, other = random.Random(n), random.Random(f"{seed}/{n}")
        references = [" ".join(own.choice(WORDS) for _ in range(9)) for _ in range(3)]
        words = [word if other.random() > noise else other.choice(WORDS) for word in references[0].split()]
        text = " ".join([*words, *(other.choice(WORDS) for _ in range(extra))])
        made.append(Line(f"row {n}", text, {"references": references}, finish_reason="stop", cluster=f"row {n}"))
    return made


def judged(a: Sequence[Line], b: Sequence[Line], evaluation: EvaluationConfig = QUICK, **more: Any) -> Comparison:
    sides = (
        PredictionFile("base", a, more.get("manifest_a"), more.get("controls_a")),
        PredictionFile("tuned", b, more.get("manifest_b")),
    )
    return compare(*sides, captioning.TASK, captioning.Config(), evaluation)


def planting() -> Any:
    """The module of the data benchmark that writes datasets with planted faults."""
    return data_benchmark("planting")


def data_benchmark(name: str) -> Any:
    """A module of the data benchmark; `run` imports the others by their names."""
    unique = "run_data_benchmark" if name == "run" else name
    if unique not in sys.modules:
        for other in ("planting", "alike") if name == "run" else ("planting",) if name == "alike" else ():
            data_benchmark(other)
        spec = importlib.util.spec_from_file_location(unique, ROOT / "benchmarks" / "data" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[unique] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[unique])
    return sys.modules[unique]
