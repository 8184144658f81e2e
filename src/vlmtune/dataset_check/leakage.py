"""Images that occur in several rows: duplicates within a split, leaks and overlaps between splits."""

import itertools
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmtune.dataset_check.findings import Finding, RowLocation
from vlmtune.dataset_check.image_index import ImageIndex
from vlmtune.dataset_check.near_duplicates import ImageHashes, Indices, find_matches

Locate = Callable[[int, int], RowLocation]
"""(row, which of its images) -> location."""


class ImageOccurrences:
    """Which rows contain which images: 16 bytes a row and 10 an image."""

    def __init__(self) -> None:
        self.images = array("I")
        self.rows = array("I")
        self._positions = array("H")
        self._hashes = bytearray()

    def add(self, row: int, hashes: bytes, positions: Sequence[int], images: Sequence[int]) -> None:
        """Add the next row: hashes of its prompt and of its answers, 8 bytes each, the positions of its readable images
        in it, and their numbers.
        """
        self._hashes += hashes
        self._positions.extend(positions)
        self.images.extend(images)
        self.rows.extend([row] * len(images))

    def number(self, row: int, position: int) -> int | None:
        """The number of the image at a position of a row; None if it cannot be read."""
        for at in range(bisect_left(self.rows, row), bisect_right(self.rows, row)):
            if self._positions[at] == position:
                return self.images[at]
        return None

    def columns(self) -> tuple[Indices, Indices, Indices]:
        """(row, position in the row, image number) of every occurrence, [n] each."""
        return (
            np.array(self.rows, np.int64),
            np.array(self._positions, np.int64),
            np.array(self.images, np.int64),
        )

    def decodable(self, index: ImageIndex, locate: Locate) -> "RoleImages":
        """The occurrences of images that can be decoded, after all rows were added."""
        rows, positions, images = self.columns()
        good = ~np.isin(images, index.broken)
        rows, positions, images = rows[good], positions[good], images[good]
        hashes = np.array(np.frombuffer(self._hashes, np.uint64)).reshape(-1, 2)[rows]
        return RoleImages(rows, positions, images, index.pixel_hashes(images), hashes[:, 0], hashes[:, 1], locate)


@dataclass(frozen=True, slots=True)
class RoleImages:
    """All decodable images of one role in row order; arrays of [n].

    `pixels` identifies the decoded pixels, `prompt_hashes` the prompt of the row (0 if it has none), `answer_hashes`
    the answers that are right for it.
    """

    rows: Indices
    positions: Indices
    images: Indices
    pixels: NDArray[np.void]
    prompt_hashes: NDArray[np.uint64]
    answer_hashes: NDArray[np.uint64]
    _locate: Locate

    def location(self, at: int) -> RowLocation:
        """The row and image of an occurrence."""
        return self._locate(int(self.rows[at]), int(self.positions[at]))

    @property
    def row_starts(self) -> Indices:
        """The first occurrence of every row that has one."""
        return np.flatnonzero(np.diff(self.rows, prepend=-1))


def duplicates(role: RoleImages, contradiction: Callable[[int, int], str | None]) -> Iterator[Finding]:
    """Rows with the images and prompt of an earlier row.

    Args:
        role: all images of a role.
        contradiction: in words, how the answers of two rows exclude each other; None if they do not.
    """
    seen: dict[bytes, int] = {}
    for start, end in itertools.pairwise([*role.row_starts.tolist(), len(role.rows)]):
        if not role.prompt_hashes[start]:
            continue
        key = role.prompt_hashes[start].tobytes() + role.pixels[start:end].tobytes()
        first = seen.setdefault(key, start)
        if first != start:
            at, other = role.location(start), role.location(first)
            differ = role.answer_hashes[start] != role.answer_hashes[first]
            message = contradiction(at.row, other.row) if differ else None
            kind = "duplicate" if message is None else "contradiction"
            yield Finding(kind, at.role, message or f"asks the same about the same image as {other.id}", at, other)


def leaks(train: RoleImages, evaluated: RoleImages) -> Iterator[Finding]:
    """Train rows with an image of the evaluated rows, each row once."""
    return _same_pixels("leak", train, evaluated)


def validation_overlaps(validation: RoleImages, other: RoleImages) -> Iterator[Finding]:
    """Validation rows with an image of another role, each row once."""
    return _same_pixels("validation-overlap", validation, other)


def _same_pixels(kind: str, role: RoleImages, other: RoleImages) -> Iterator[Finding]:
    """Rows of a role with an image of the other one, each with the first row there."""
    pixels, first = np.unique(other.pixels, return_index=True)
    if not len(pixels):
        return
    at = np.minimum(np.searchsorted(pixels, role.pixels), len(pixels) - 1)
    last_row = -1
    for here in np.flatnonzero(pixels[at] == role.pixels):
        if role.rows[here] != last_row:
            last_row = role.rows[here]
            here_at, there_at = role.location(int(here)), other.location(int(first[at[here]]))
            message = f"shows the same pixels as {there_at.id} of the {there_at.role} rows"
            yield Finding(kind, here_at.role, message, here_at, there_at)


def near_duplicates(role: RoleImages, index: ImageIndex) -> tuple[list[Finding], int]:
    """Images that resemble an earlier one of their role, each once.

    Returns:
        The findings, and the number of images that were not compared with all similar ones.
    """
    first, hashes = _distinct(role, index)
    matches = find_matches(hashes, hashes)
    findings = []
    for n in np.flatnonzero(matches.partner >= 0):
        at, other = role.location(int(first[n])), role.location(int(first[matches.partner[n]]))
        findings.append(Finding("near-duplicate", at.role, f"resembles {other.id}", at, other))
    return findings, matches.skipped


def near_leaks(evaluated: RoleImages, train: RoleImages, index: ImageIndex) -> tuple[list[Finding], int]:
    """Evaluated images that resemble a train image, each once; those with equal pixels are leaks instead.

    Returns:
        As `near_duplicates`.
    """
    here, hashes = _distinct(evaluated, index, excluded=train.pixels)
    there, among = _distinct(train, index)
    matches = find_matches(hashes, among)
    findings = []
    for n in np.flatnonzero(matches.partner >= 0):
        at, other = evaluated.location(int(here[n])), train.location(int(there[matches.partner[n]]))
        findings.append(Finding("near-leak", at.role, f"resembles {other.id} of the {other.role} rows", at, other))
    return findings, matches.skipped


def _distinct(
    role: RoleImages, index: ImageIndex, excluded: NDArray[np.void] | None = None
) -> tuple[Indices, ImageHashes]:
    """The first occurrence of each distinct image in row order, and the hashes of these images."""
    pixels, first = np.unique(role.pixels, return_index=True)
    if excluded is not None:
        first = first[~np.isin(pixels, excluded)]
    first = np.sort(first)
    images = role.images[first]
    hashes = index.dhashes(images), role.rows[first], index.areas(images)
    return first, ImageHashes(*hashes, lambda some: index.thumbnails(images[some]))
