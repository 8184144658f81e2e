"""Facts about a model family, as data. A family is a file here with a value `FAMILY`.

Everything that differs between architectures stands in a `Family`; a test for a family's name elsewhere in the code is
a missing field here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Grid = tuple[int, int, int]
"""Patches of one image: (time, rows, columns); time is 1 for a picture."""


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """How a checkpoint wants its images: sizes in pixels, mean and std per channel on a 0..1 scale."""

    patch: int
    merge: int
    frames: int
    min_pixels: int
    max_pixels: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def factor(self) -> int:
        """Both sides of a resized image are multiples of this."""
        return self.patch * self.merge


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture.

    `resized(height, width, limits) -> (height, width)` is the processor's size rule. `positions(ids, image_token,
    grids, merge) -> [3, T]` counts rotary positions. `language` and `tower` are the module prefixes of the language
    model and the vision tower. `boxes` is the convention of boxes in prompts and answers.
    """

    name: str
    model_type: str
    image_token: str
    end_of_turn: str
    language: str
    tower: str
    resized: Callable[[int, int, ImageLimits], tuple[int, int]]
    positions: Callable[[Sequence[int], int, Sequence[Grid], int], NDArray[np.int64]]
    boxes: str
