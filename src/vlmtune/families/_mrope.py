"""Rotary positions of text and images (M-RoPE) as the Qwen-VL models count them, without a model."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vlmtune.families import Grid


def mrope_positions(ids: Sequence[int], image_token: int, grids: Sequence[Grid], merge: int) -> NDArray[np.int64]:
    """Positions of one conversation.

    A text token takes the next number on all three axes. The tokens of an image share the next number as their time,
    and count rows and columns from it; the text after it continues past the larger of the two. Two words, an image of
    2 x 3 merged patches and a word:

        time    0 1  2 2 2 2 2 2  5
        row     0 1  2 2 2 3 3 3  5
        column  0 1  2 3 4 2 3 4  5

    Args:
        ids: T token ids, with one `image_token` per merged patch.
        image_token: the id that stands for a merged patch.
        grids: patches per image, in order.
        merge: patches per side of a merged one.

    Returns:
        [3, T]: time, row, column. Equal, as integers, to the model's own `get_rope_index`.
    """
    positions = np.empty((3, len(ids)), dtype=np.int64)
    images = iter(grids)
    index = number = 0
    while index < len(ids):
        if ids[index] != image_token:
            positions[:, index] = number
            index, number = index + 1, number + 1
            continue
        frames, rows, columns = next(images)
        rows, columns = rows // merge, columns // merge
        count = frames * rows * columns
        time, row, column = np.indices((frames, rows, columns)).reshape(3, count)
        positions[:, index : index + count] = number + np.stack([time, row, column])
        index, number = index + count, number + max(rows, columns)
    return positions
