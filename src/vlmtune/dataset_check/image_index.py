"""Pictures decoded once, by their content: what they are, and the three hashes that tell copies.

What was found is appended to a file, a line for each content; a later check, or one that goes on after a crash, decodes
what is new. In memory stay about 200 bytes a picture.
"""

import base64
import hashlib
import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlmtune.errors import ImageError
from vlmtune.files import append_lines, cut_torn_line, os_errors_named, whole_lines
from vlmtune.images import Header, examine, in_memory, pixel_hash
from vlmtune.prefetch import KeyLocks
from vlmtune.types import ImageRef

if TYPE_CHECKING:
    from PIL.Image import Image

VERSION = 1
"""Of the lines; another one is decoded again."""

SIDE = 16
"""Sides of the small grey copy."""

TINY = 32
"""Pixels; a picture whose shorter side is below it is tiny: about one token of most models."""

NARROW = 10
"""A picture is narrow when one side is more than so many times the other."""


@dataclass(frozen=True, slots=True)
class Facts:
    """One content: `digest` of its bytes; either `error`, or size after turning, what its file said and three hashes.

    `pixels` is the identity of its pixels, `gradient` 64 signs (dHash), `small` SIDE x SIDE grey values.
    """

    digest: bytes
    error: str | None = None
    width: int = 0
    height: int = 0
    traits: tuple[str, ...] = ()
    pixels: bytes = b""
    gradient: int = 0
    small: bytes = b""

    def to_line(self) -> str:
        """As JSON."""
        plain: dict[str, Any] = {"v": VERSION, "digest": self.digest.hex()}
        if self.error is not None:
            return json.dumps({**plain, "error": self.error})
        plain |= {"size": [self.width, self.height], "traits": self.traits, "pixels": self.pixels.hex()}
        return json.dumps(
            {**plain, "gradient": f"{self.gradient:016x}", "small": base64.b64encode(self.small).decode()}
        )


def _read(line: bytes) -> Facts | None:
    """Facts of a line; None where another version wrote it, or it is none."""
    try:
        plain = json.loads(line)
        digest = bytes.fromhex(plain["digest"])
        if plain["v"] != VERSION:
            return None
        if "error" in plain:
            return Facts(digest, plain["error"])
        width, height = plain["size"]
        pixels, small = bytes.fromhex(plain["pixels"]), base64.b64decode(plain["small"])
        return Facts(digest, None, width, height, tuple(plain["traits"]), pixels, int(plain["gradient"], 16), small)
    except (ValueError, KeyError, TypeError):
        return None


class Pictures:
    """All pictures of a check. `look` may be called from any thread, everything else from one.

    Args:
        file: where facts are kept from check to check.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._numbers: dict[bytes, int] = {}
        self._errors: dict[int, str] = {}
        self._places = array("q")
        self._sides, self._pixels, self._gradients = array("I"), bytearray(), array("Q")
        self._traits = array("H")
        self._trait_sets: list[tuple[str, ...]] = []
        self._fresh: dict[bytes, Facts] = {}
        self._describing = KeyLocks()
        self.decoded = 0
        cut_torn_line(file)
        lines, place = whole_lines(file), 0
        for line in lines:
            facts = _read(line)
            if facts is not None:
                self._take(facts, place)
            place += len(line) + 1
        self._end = place

    def __len__(self) -> int:
        return len(self._places)

    def look(self, ref: ImageRef) -> Facts | int:
        """What a picture is: its number where that is known, facts that `keep` shall be given where it is new.

        Raises:
            ImageError: it cannot be read at all; nothing is kept of that.
        """
        held = in_memory(ref)
        digest = _digest(held.read())
        with self._describing.hold(digest):
            # In this order: `keep` makes a fresh one known before it forgets that it is fresh.
            found = self._fresh.get(digest) or self._numbers.get(digest)
            if found is None:
                found = self._fresh[digest] = describe(held, digest)
            return found

    def keep(self, looked: Sequence[Facts | int]) -> list[int]:
        """Numbers of pictures; new ones are written to the file first."""
        new = {one.digest: one for one in looked if isinstance(one, Facts) and one.digest not in self._numbers}
        lines = [facts.to_line() for facts in new.values()]
        if lines:
            append_lines(self._file, lines)
        for facts, line in zip(new.values(), lines, strict=True):
            self._take(facts, self._end)
            self._end += len(line) + 1
            self.decoded += 1
            self._fresh.pop(facts.digest, None)
        return [one if isinstance(one, int) else self._numbers[one.digest] for one in looked]

    def _take(self, facts: Facts, place: int) -> None:
        if facts.digest in self._numbers:
            return
        number = self._numbers[facts.digest] = len(self._places)
        self._places.append(place)
        self._sides.extend((facts.width, facts.height))
        self._pixels += facts.pixels or bytes(16)
        self._gradients.append(facts.gradient)
        if facts.traits not in self._trait_sets:
            self._trait_sets.append(facts.traits)
        self._traits.append(self._trait_sets.index(facts.traits))
        if facts.error is not None:
            self._errors[number] = facts.error

    @property
    def broken(self) -> list[int]:
        """Pictures that cannot be decoded."""
        return list(self._errors)

    def error(self, number: int) -> str | None:
        """Why a picture cannot be decoded."""
        return self._errors.get(number)

    def size(self, number: int) -> tuple[int, int]:
        """Width and height."""
        return self._sides[2 * number], self._sides[2 * number + 1]

    def traits(self, number: int) -> tuple[str, ...]:
        """Format, mode, and what is odd about it."""
        return self._trait_sets[self._traits[number]]

    def pixels(self, numbers: NDArray[np.int64]) -> NDArray[np.void]:
        """Identity of the pixels [n], 16 bytes each."""
        return np.array(np.frombuffer(self._pixels, "V16"))[numbers] if len(self) else np.empty(0, "V16")

    def gradients(self, numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Signs (dHash) [n]."""
        return np.array(self._gradients, np.uint64)[numbers]

    def small(self, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Small grey copies [n, SIDE * SIDE], read from the file."""
        made = np.zeros((len(numbers), SIDE * SIDE), np.uint8)
        with os_errors_named(self._file), self._file.open("rb") as stream:
            for row, number in enumerate(numbers):
                stream.seek(self._places[number])
                facts = _read(stream.readline())
                if facts is not None:
                    made[row] = np.frombuffer(facts.small, np.uint8)
        return made


def describe(ref: ImageRef, digest: bytes) -> Facts:
    """Decode a picture, all of it, and say what it is."""
    try:
        image, header = examine(ref)
    except ImageError as error:
        return Facts(digest, error.reason)
    grey = image.convert("L")
    return Facts(
        digest,
        None,
        *image.size,
        _traits(header, *image.size),
        bytes.fromhex(pixel_hash(image))[:16],
        _gradient(grey),
        grey.resize((SIDE, SIDE), _BOX).tobytes(),
    )


_BOX = 4
"""PIL's Resampling.BOX: the mean of an area, which other sizes and compressions change least."""


def _gradient(grey: "Image") -> int:
    """64 signs: whether each of 8 x 9 means is brighter than the next one in its row (dHash)."""
    cells = np.asarray(grey.resize((9, 8), _BOX), np.int16)
    return int.from_bytes(np.packbits(cells[:, :-1] > cells[:, 1:]).tobytes())


def _traits(header: Header, width: int, height: int) -> tuple[str, ...]:
    """Format and mode first, then what is odd."""
    odd = {
        "EXIF-turned": header.turned,
        "animated": header.animated,
        "transparent": header.alpha,
        "16 bit": header.sixteen_bit,
        "CMYK": header.mode == "CMYK",
        "tiny": min(width, height) < TINY,
        "narrow": max(width, height) > NARROW * min(width, height),
    }
    return (header.format or "drawn", header.mode, *(name for name, is_so in odd.items() if is_so))


def _digest(data: Any) -> bytes:
    """Identity of a picture's bytes; of one that is in no file, of its pixels."""
    content = data if isinstance(data, bytes) else pixel_hash(data.convert("RGB")).encode()
    return hashlib.blake2b(content, digest_size=16).digest()
