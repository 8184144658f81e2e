"""Mutated images of every kind are decoded or raise one named error; nothing else, and never slowly."""

import random
from collections.abc import Callable

import numpy as np
import pillow_heif
import pytest
from builders import encoded, make_image, ref
from clips import clip_file, drawn_frames
from fuzzing import hunt, mutated
from PIL import Image

from vlmtune.errors import ImageError
from vlmtune.images import clip_of, decode_rgb, examine, page_count, read_page, size_of
from vlmtune.types import VideoRef

ROUNDS, SOAKED = 20, 100
"""Of each of the 36 kinds."""


def exif(orientation: int) -> Image.Exif:
    made = Image.Exif()
    made[0x0112] = orientation
    return made


SMALL = make_image(40, 24)
DEEP = Image.fromarray(np.arange(960, dtype=np.uint16).reshape(24, 40) * 68)
FLOAT = Image.fromarray(np.asarray(SMALL.convert("L"), np.float32))
pillow_heif.register_heif_opener()
FRAMES = {"save_all": True, "append_images": [make_image(40, 24, seed=n) for n in (1, 2)]}
KINDS: dict[str, bytes] = {
    "png": encoded(SMALL),
    "png palette": encoded(SMALL.quantize(16), transparency=3),
    "png alpha": encoded(SMALL.convert("RGBA")),
    "png grey alpha": encoded(SMALL.convert("LA")),
    "png 1": encoded(SMALL.convert("1")),
    "png 16": encoded(DEEP),
    "png lying": encoded(SMALL, exif=exif(6)),
    "apng": encoded(SMALL, **FRAMES),
    "jpeg": encoded(SMALL, "JPEG"),
    "jpeg progressive": encoded(SMALL, "JPEG", progressive=True),
    "jpeg cmyk": encoded(SMALL.convert("CMYK"), "JPEG"),
    "jpeg grey": encoded(SMALL.convert("L"), "JPEG"),
    "jpeg lying": encoded(SMALL, "JPEG", exif=exif(8)),
    "gif": encoded(SMALL, "GIF"),
    "gif animated": encoded(SMALL, "GIF", duration=20, **FRAMES),
    "bmp": encoded(SMALL, "BMP"),
    "bmp palette": encoded(SMALL.quantize(16), "BMP"),
    "ppm": encoded(SMALL, "PPM"),
    "pgm 16": encoded(DEEP, "PPM"),
    "pbm": encoded(SMALL.convert("1"), "PPM"),
    "ppm in words": b"P3\n3 2\n255\n" + b"255 0 0  0 255 0  0 0 255\n" * 2,
    "webp": encoded(SMALL, "WEBP"),
    "webp lossless": encoded(SMALL.convert("RGBA"), "WEBP", lossless=True, exif=exif(5)),
    "webp animated": encoded(SMALL, "WEBP", **FRAMES),
    "tiff": encoded(SMALL, "TIFF", exif=exif(7)),
    "tiff lzw": encoded(SMALL, "TIFF", compression="tiff_lzw"),
    "tiff deflate": encoded(SMALL.convert("RGBA"), "TIFF", compression="tiff_adobe_deflate"),
    "tiff jpeg": encoded(SMALL, "TIFF", compression="jpeg"),
    "tiff fax": encoded(SMALL.convert("1"), "TIFF", compression="group4"),
    "tiff float": encoded(FLOAT, "TIFF"),
    "tiff 16": encoded(DEEP, "TIFF"),
    "tiff cmyk": encoded(SMALL.convert("CMYK"), "TIFF"),
    "tiff frames": encoded(SMALL, "TIFF", **FRAMES),
    "avif": encoded(SMALL, "AVIF"),
    "avif lying": encoded(SMALL, "AVIF", exif=exif(6)),
    "heic": encoded(SMALL, "HEIF"),
}
PDF = encoded(SMALL.copy(), "PDF", save_all=True, append_images=[make_image(40, 24)] * 2)
DOCUMENTS = {"pdf": PDF, "tiff": KINDS["tiff frames"]}


def broken(good: bytes) -> Callable[[random.Random], None]:
    """One fuzzing case: every function that reads an image file, on a damaged file."""

    def case(rng: random.Random) -> None:
        data = mutated(good, rng, binary=True)
        image = decoded = None
        try:
            decoded = decode_rgb(ref(data))
            image, _ = examine(ref(data))
        finally:
            assert (decoded is None) == (image is None), "both read it, or neither"
            try:
                size = size_of(ref(data))
            except ImageError:
                size = None
            if decoded is not None:
                assert decoded.mode == "RGB"
                assert size == decoded.size, "the size that plans are made with"

    return case


@pytest.mark.parametrize("kind", KINDS)
def test_broken_images_are_decoded_or_a_named_error(kind: str, soak: bool) -> None:
    assert decode_rgb(ref(KINDS[kind])).mode == "RGB", "it is whole before it is broken"
    ends = hunt(kind, SOAKED if soak else ROUNDS, broken(KINDS[kind]))
    assert sum(ends.values()) > 0


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_pages_of_broken_documents_are_read_or_a_named_error(kind: str, soak: bool) -> None:
    assert page_count(DOCUMENTS[kind], "whole") == 3

    def case(rng: random.Random) -> None:
        data = mutated(DOCUMENTS[kind], rng, binary=True)
        for page in range(1, min(page_count(data, "x"), 5) + 1):
            assert read_page(data, page, "x").mode == "RGB"

    assert sum(hunt(kind, SOAKED if soak else ROUNDS, case).values()) > 0


FILM = drawn_frames(5, (32, 24))
CLIPS = {
    "mp4": clip_file(FILM, 5),
    "mkv": clip_file(FILM, 5, "matroska", "ffv1"),
    "webm": clip_file(FILM, 5, "webm", "libvpx"),
    "avi": clip_file(FILM, 5, "avi", "mpeg4"),
    "gif": clip_file(FILM, 5, "gif", "gif", pix_fmt="rgb8"),
}


@pytest.mark.parametrize("kind", CLIPS)
def test_broken_videos_are_decoded_or_a_named_error(kind: str, soak: bool) -> None:
    assert clip_of(VideoRef("whole", lambda: CLIPS[kind])).frames == 5

    def case(rng: random.Random) -> None:
        data = mutated(CLIPS[kind], rng, binary=True)
        clip = VideoRef("broken", lambda: data)
        assert decode_rgb(clip).mode == "RGB"
        assert min(size_of(clip)) > 0

    assert sum(hunt(kind, SOAKED if soak else ROUNDS, case).values()) > 0
