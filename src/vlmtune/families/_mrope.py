"""Rotary positions of text, images and videos (M-RoPE) as the Qwen-VL models count them, without a model."""

from collections.abc import Container, Sequence

import numpy as np
from numpy.typing import NDArray

from vlmtune.families import Block


def mrope_positions(
    ids: Sequence[int], vision_tokens: Container[int], blocks: Sequence[Block], merge: int
) -> NDArray[np.int64]:
    """Positions of one conversation.

    A text token takes the next number on all three axes. The tokens of an image share the next number as their time,
    and count rows and columns from it; the text after it continues past the larger of the two. In a video, the time
    grows by `Block.step` from moment to moment, rounded down. Two words, an image of 2 x 3 merged patches and a word:

        time    0 1  2 2 2 2 2 2  5
        row     0 1  2 2 2 3 3 3  5
        column  0 1  2 3 4 2 3 4  5

    Args:
        ids: T token ids, with one of `vision_tokens` per merged patch.
        vision_tokens: the ids that stand for merged patches of images and of videos.
        blocks: patches per image and per part of a video, in order.
        merge: patches per side of a merged one.

    Returns:
        [3, T]: time, row, column. Equal, as integers, to the model's own `get_rope_index`.
    """
    positions = np.empty((3, len(ids)), dtype=np.int64)
    remaining = iter(blocks)
    index = number = 0
    while index < len(ids):
        if ids[index] not in vision_tokens:
            positions[:, index] = number
            index, number = index + 1, number + 1
            continue
        frames, rows, columns, step = next(remaining)
        rows, columns = rows // merge, columns // merge
        count = frames * rows * columns
        time, row, column = np.indices((frames, rows, columns)).reshape(3, count)
        time = (time.astype(np.float32) * np.float32(step)).astype(np.int64)  # in fp32, as the models do
        positions[:, index : index + count] = number + np.stack([time, row, column])
        index, number = index + count, number + max(rows, columns)
    return positions
