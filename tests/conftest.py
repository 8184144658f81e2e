"""Shared pieces: the embedded tiny checkpoint, small images, conversations of every shape."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two threads on a busy two-core machine are slower for a tiny model
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlmtune.inputs import Inputs
from vlmtune.models import ModelConfig, find_checkpoint
from vlmtune.types import ImageRef, Turn

TINY = ModelConfig(name="tiny", device="cpu")


@pytest.fixture(scope="session")
def inputs() -> Inputs:
    return Inputs(find_checkpoint(TINY), TINY)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth noise: neighbouring pixels are alike, as in a photo, so that a wrong resize shows."""
    small = np.random.default_rng(seed).integers(0, 256, (height // 4 + 2, width // 4 + 2, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def ref(image: Image.Image | bytes, where: str = "test image") -> ImageRef:
    return ImageRef(where, lambda: image)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def user(*content: str | ImageRef) -> Turn:
    return Turn("user", content)


def assistant(text: str) -> Turn:
    return Turn("assistant", (text,))


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Write rows (dicts, or raw text for broken lines) to a file of the dataset folder."""
    import json

    def write(name: str, *rows: object) -> Path:
        file = tmp_path / name
        file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
        return file

    return write
