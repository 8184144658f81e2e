"""Rotary positions of text and pictures (M-RoPE) as the Qwen-VL models count them, without a model."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vlmtune.families import Grid


def mrope_positions(ids: Sequence[int], image_token: int, grids: Sequence[Grid], merge: int) -> NDArray[np.int64]:
    """Positions of one conversation.

    A text token takes the next number on all three axes. A picture's tokens share the number that is due as their time
    and count rows and columns on from it; the text behind goes on after the larger of both.

    Args:
        ids: T token ids, with one `image_token` per merged patch.
        image_token: the id that stands for a merged patch.
        grids: patches per picture, in order.
        merge: patches per side of a merged one.

    Returns:
        [3, T]: time, row, column. Equal, as integers, to the model's own `get_rope_index`.
    """
    places = np.empty((3, len(ids)), dtype=np.int64)
    pictures = iter(grids)
    place = due = 0
    while place < len(ids):
        if ids[place] != image_token:
            places[:, place] = due
            place, due = place + 1, due + 1
            continue
        frames, rows, columns = next(pictures)
        rows, columns = rows // merge, columns // merge
        count = frames * rows * columns
        time, row, column = np.indices((frames, rows, columns)).reshape(3, count)
        places[:, place : place + count] = due + np.stack([time, row, column])
        place, due = place + count, due + max(rows, columns)
    return places
