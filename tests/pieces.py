"""Pieces that tests build on: the tiny model's config, pictures, image references, turns."""

import io

import numpy as np
from PIL import Image

from vlmtune.models import ModelConfig
from vlmtune.types import ImageRef, Turn

TINY = ModelConfig(name="tiny", device="cpu")


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
