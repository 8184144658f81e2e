"""Index of images by content: properties, and the three hashes by which duplicates are found.

Each distinct content is decoded once and appended to a file as one line. A later check, or one that resumes after a
crash, decodes new contents only. Memory holds about 200 bytes an image.
"""

import base64
import hashlib
import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import TypedDict

from vlmtune.dataset_check.near_duplicates import CHROMA_SIDE, SIDE, THUMBNAIL_BYTES
from vlmtune.errors import ImageError
from vlmtune.files import append_lines, cut_torn_line, translate_os_errors, whole_lines
from vlmtune.images import Header, clip_of, examine, in_memory, picture, pixel_hash, video_hash
from vlmtune.json_values import mismatch, parse_json
from vlmtune.prefetch import KeyLocks
from vlmtune.types import ImageRef, VideoRef

if TYPE_CHECKING:
    from PIL.Image import Image

VERSION = 4
"""Version of the lines; images with a line of another version are decoded again."""

PIXELS_BYTES = 16
"""Size of the hash of an image's pixels."""

TINY = 32
"""An image with a shorter side below this many pixels is tiny: about one token of most models."""

UNEVEN = "variable frame rate"
"""Property of a video some of whose frames are shown for longer than others."""

ROTATED = "EXIF-rotated"
"""Property of an image that its EXIF orientation turns upright."""

BRIGHTER = 1
"""Grey levels by which a mean must exceed the next one for its bit of the dHash; less is noise in even areas."""

NARROW = 10
"""An image is narrow if its longer side is more than this many times its shorter side."""


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """One image content: `digest` of its bytes, and either an `error` or its upright size, properties and hashes.

    `pixels` identifies the decoded pixels, and of a video, only some of whose frames are decoded, its content and rate.
    `dhash` has 64 bits, `thumbnail` THUMBNAIL_BYTES: SIDE x SIDE grey values, then Cb and Cr in CHROMA_SIDE x
    CHROMA_SIDE parts of the image.
    """

    digest: bytes
    error: str | None = None
    width: int = 0
    height: int = 0
    properties: tuple[str, ...] = ()
    pixels: bytes = b""
    dhash: int = 0
    thumbnail: bytes = b""

    @property
    def size(self) -> tuple[int, int]:
        """Upright width and height."""
        return self.width, self.height

    def to_line(self) -> str:
        """The line of the index file, JSON."""
        plain: dict[str, Any] = {"v": VERSION, "digest": self.digest.hex()}
        if self.error is not None:
            return json.dumps({**plain, "error": self.error})
        plain |= {"size": [self.width, self.height], "properties": self.properties, "pixels": self.pixels.hex()}
        return json.dumps(
            {**plain, "dhash": f"{self.dhash:016x}", "thumbnail": base64.b64encode(self.thumbnail).decode()}
        )


_Hex = Annotated[str, Field(pattern="^([0-9a-f]{2})+$")]


class _Broken(TypedDict):
    """A line about an image that cannot be decoded."""

    v: Literal[4]
    digest: _Hex
    error: str


class _Readable(TypedDict):
    """A line about any other image."""

    v: Literal[4]
    digest: _Hex
    size: Annotated[list[Annotated[int, Field(gt=0, lt=2**32)]], Field(min_length=2, max_length=2)]
    properties: Annotated[list[Annotated[str, Field(max_length=40)]], Field(max_length=20)]
    pixels: _Hex
    dhash: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
    thumbnail: str


def _parse(line: bytes) -> ImageFacts | None:
    """The facts in a line; None if it is damaged or of another version."""
    try:
        plain = parse_json(line)
        if mismatch(plain, _Broken) is None:
            return ImageFacts(bytes.fromhex(plain["digest"]), plain["error"])
        if mismatch(plain, _Readable) is not None:
            return None
        pixels, thumbnail = bytes.fromhex(plain["pixels"]), base64.b64decode(plain["thumbnail"], validate=True)
    except ValueError:
        return None
    if len(pixels) != PIXELS_BYTES or len(thumbnail) != THUMBNAIL_BYTES:
        return None
    digest, dhash, properties = bytes.fromhex(plain["digest"]), int(plain["dhash"], 16), tuple(plain["properties"])
    width, height = plain["size"]
    return ImageFacts(digest, None, width, height, properties, pixels, dhash, thumbnail)


class ImageIndex:
    """All images of a check, numbered. `examine` may be called from any thread, everything else from one.

    Args:
        file: the index file, kept from check to check.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._numbers: dict[bytes, int] = {}
        self._errors: dict[int, str] = {}
        self._offsets = array("q")
        self._sides, self._pixels, self._dhashes = array("I"), bytearray(), array("Q")
        self._property_sets = array("H")
        self._distinct_sets: list[tuple[str, ...]] = []
        self._pending: dict[bytes, ImageFacts] = {}
        self._content_locks = KeyLocks()
        self.decoded = 0
        cut_torn_line(file)
        offset = 0
        for line in whole_lines(file):
            facts = _parse(line)
            if facts is not None:
                self._add(facts, offset)
            offset += len(line) + 1
        self._end = offset

    def __len__(self) -> int:
        return len(self._offsets)

    def examine(self, ref: ImageRef) -> ImageFacts | int:
        """The number of an indexed image, or the facts about a new one, which `store` takes.

        Raises:
            ImageError: its bytes cannot be read; this is not indexed.
        """
        image = in_memory(ref)
        digest = _digest(image)
        with self._content_locks.hold(digest):
            # In this order: `store` adds a content to `_numbers` before it removes it from `_pending`.
            known = self._pending.get(digest) or self._numbers.get(digest)
            if known is None:
                known = self._pending[digest] = describe(image, digest)
            return known

    def store(self, examined: Sequence[ImageFacts | int]) -> list[int]:
        """The numbers of examined images; new ones are first written to the file."""
        new = {one.digest: one for one in examined if isinstance(one, ImageFacts) and one.digest not in self._numbers}
        lines = [facts.to_line() for facts in new.values()]
        if lines:
            append_lines(self._file, lines)
        for facts, line in zip(new.values(), lines, strict=True):
            self._add(facts, self._end)
            self._end += len(line) + 1
            self.decoded += 1
            self._pending.pop(facts.digest, None)
        return [one if isinstance(one, int) else self._numbers[one.digest] for one in examined]

    def _add(self, facts: ImageFacts, offset: int) -> None:
        if facts.digest in self._numbers:
            return
        number = self._numbers[facts.digest] = len(self._offsets)
        self._offsets.append(offset)
        self._sides.extend((facts.width, facts.height))
        self._pixels += facts.pixels or bytes(PIXELS_BYTES)
        self._dhashes.append(facts.dhash)
        if facts.properties not in self._distinct_sets:
            self._distinct_sets.append(facts.properties)
        self._property_sets.append(self._distinct_sets.index(facts.properties))
        if facts.error is not None:
            self._errors[number] = facts.error

    @property
    def broken(self) -> list[int]:
        """Numbers of the images that cannot be decoded."""
        return list(self._errors)

    def error(self, number: int) -> str | None:
        """Why an image cannot be decoded; None if it can."""
        return self._errors.get(number)

    def size(self, number: int) -> tuple[int, int]:
        """Upright width and height."""
        return self._sides[2 * number], self._sides[2 * number + 1]

    def properties(self, number: int) -> tuple[str, ...]:
        """Format, mode, and anything unusual."""
        return self._distinct_sets[self._property_sets[number]]

    def pixel_hashes(self, numbers: NDArray[np.int64]) -> NDArray[np.void]:
        """Hashes of the decoded pixels [n], 16 bytes each."""
        return np.array(np.frombuffer(self._pixels, "V16"))[numbers] if len(self) else np.empty(0, "V16")

    def dhashes(self, numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
        """DHashes [n]."""
        return np.array(self._dhashes, np.uint64)[numbers]

    def areas(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Pixels of each image [n]."""
        sides = np.array(self._sides, np.int64).reshape(-1, 2)[numbers]
        return sides[:, 0] * sides[:, 1]

    def thumbnails(self, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Thumbnails [n, THUMBNAIL_BYTES], read from the file."""
        thumbnails = np.zeros((len(numbers), THUMBNAIL_BYTES), np.uint8)
        with translate_os_errors(self._file), self._file.open("rb") as stream:
            for row, number in enumerate(numbers):
                stream.seek(self._offsets[number])
                facts = _parse(stream.readline())
                if facts is not None:
                    thumbnails[row] = np.frombuffer(facts.thumbnail, np.uint8)
        return thumbnails


def describe(ref: ImageRef, digest: bytes) -> ImageFacts:
    """Decode a whole image and compute its properties and hashes."""
    try:
        if isinstance(ref, VideoRef):
            clip = clip_of(ref)
            image, size, pixels = picture(ref, clip), clip.size, digest
            properties: tuple[str, ...] = ("video", *(() if clip.even else (UNEVEN,)))
        else:
            image, header = examine(ref)
            size, pixels = image.size, bytes.fromhex(pixel_hash(image))[:16]
            properties = _properties(header, *size)
    except ImageError as error:
        return ImageFacts(digest, error.reason)
    dhash, small = fingerprint(image)
    return ImageFacts(digest, None, *size, properties, pixels, dhash, small)


_BOX, _BILINEAR = 4, 2
"""PIL's Resampling: means over areas, also overlapping ones, which change least with size and compression."""


def fingerprint(image: "Image") -> tuple[int, bytes]:
    """The dHash and the thumbnail of an RGB image.

    The dHash says for 8 rows of 9 means, whether each mean is clearly brighter than the next one in its row; 64 bits.
    """
    from PIL import ImageFilter

    grey, *chroma = image.resize((SIDE, SIDE), _BILINEAR, reducing_gap=2.0).convert("YCbCr").split()
    grey = grey.filter(ImageFilter.Kernel((3, 3), (1, 2, 1, 2, 4, 2, 1, 2, 1)))  # forgives shifts by parts of a cell
    means = np.asarray(grey.resize((9, 8), _BOX), np.int16)
    brighter = means[:, :-1] > means[:, 1:] + BRIGHTER
    colours = (part.resize((CHROMA_SIDE, CHROMA_SIDE), _BOX) for part in chroma)
    thumbnail = b"".join(part.tobytes() for part in (grey, *colours))
    return int.from_bytes(np.packbits(brighter).tobytes()), thumbnail


def _properties(header: Header, width: int, height: int) -> tuple[str, ...]:
    """Format and mode, then anything unusual."""
    unusual = {
        ROTATED: header.rotated,
        "animated": header.animated,
        "transparent": header.alpha,
        "16 bit": header.sixteen_bit,
        "CMYK": header.mode == "CMYK",
        "tiny": min(width, height) < TINY,
        "narrow": max(width, height) > NARROW * min(width, height),
    }
    return (header.format or "drawn", header.mode, *(name for name, applies in unusual.items() if applies))


def _digest(image: ImageRef) -> bytes:
    """Hash of an image's bytes, or of its pixels if the source draws it; of a video its identity."""
    if isinstance(image, VideoRef):
        return bytes.fromhex(video_hash(image))[:16]
    data = image.read()
    content = data if isinstance(data, bytes) else pixel_hash(data.convert("RGB")).encode()
    return hashlib.blake2b(content, digest_size=16).digest()
