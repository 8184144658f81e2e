"""The sizes of models that cut an image into square tiles and add a thumbnail, like InternVL."""

from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmtune.families import Block, ImageLimits


def tile_limits(settings: Mapping[str, Any], config: Mapping[str, Any]) -> ImageLimits:
    """From the image processor's settings and config.json; areas are those of the fewest and of the most tiles."""
    tile, patch = settings["size"]["height"], config["vision_config"]["patch_size"]
    return ImageLimits(
        patch=patch if isinstance(patch, int) else patch[0],
        merge=round(1 / config.get("downsample_ratio", 0.5)),
        frames=1,
        min_pixels=settings.get("min_patches", 1) * tile**2,
        max_pixels=settings.get("max_patches", 12) * tile**2,
        mean=tuple(settings["image_mean"]),
        std=tuple(settings["image_std"]),
        tile=tile,
    )


def tiled_size(height: int, width: int, limits: ImageLimits) -> tuple[int, int]:
    """Height and width as multiples of the tile: of all allowed arrangements, the one closest in aspect ratio.

    Of equally close ones, the largest whose area is less than twice the image's. Equal to `get_optimal_tiled_canvas`
    of transformers' GOT-OCR2 image processor.
    """
    assert limits.tile is not None, "a family that is tiled"
    area = limits.tile**2
    most = max(1, limits.max_pixels // area)
    fewest = min(most, max(1, limits.min_pixels // area))
    sizes = [(c, r) for c in range(1, most + 1) for r in range(1, most + 1) if fewest <= c * r <= most]
    best, closest = (1, 1), float("inf")
    for columns, rows in sorted(sizes, key=lambda size: size[0] * size[1]):
        distance = abs(width / height - columns / rows)
        if distance < closest or (distance == closest and height * width > 0.5 * area * columns * rows):
            best, closest = (columns, rows), distance
    return best[1] * limits.tile, best[0] * limits.tile


def plain_positions(
    ids: Sequence[int], vision_tokens: Container[int], blocks: Sequence[Block], merge: int
) -> NDArray[np.int64]:
    """Positions of one conversation, [3, T]: the index of the token, on all three axes alike."""
    return np.tile(np.arange(len(ids), dtype=np.int64), (3, 1))
