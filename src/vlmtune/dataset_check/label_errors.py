"""Training examples whose label is probably wrong, ranked by their training losses.

Training logs the loss of every example each time it is seen (`samples.jsonl` in the adapter folder). Losses fall as the
model learns, so each one is compared with those logged around the same step: an example that stays far above them in
every epoch contradicts the rest of the data. Small-loss selection and area-under-the-margin ranking rest on the same
idea.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import FiniteFloat, NonNegativeInt
from typing_extensions import TypedDict

from vlmtune.data import Rows
from vlmtune.errors import DataError
from vlmtune.images import decode_rgb, thumbnail
from vlmtune.report import templates
from vlmtune.run_folder import read_manifest
from vlmtune.run_layout import SAMPLES
from vlmtune.training.log import read_steps

FOLDER = Path(__file__).parent

WINDOW = 200
"""Losses, logged around the same step, that one loss is compared with."""

MAD_TO_SIGMA = 1.4826
"""Ratio of standard deviation to median absolute deviation for a normal distribution."""


@dataclass(frozen=True, slots=True)
class LabelError:
    """A probable label error. `target` counts the row's targets from 0, `losses` has one entry per epoch.

    `score` is the mean distance of the losses above the median of their window, in standard deviations.
    """

    id: str
    target: int
    score: float
    losses: tuple[float, ...]


def rank_label_errors(log: Sequence[Mapping[str, Any]], count: int) -> list[LabelError]:
    """The `count` most probable label errors, most probable first. Each target of a row is ranked on its own.

    Args:
        log: {"id", "target", "loss"} in training order; loss per supervised token.
        count: how many to return.
    """
    losses = np.array([entry["loss"] for entry in log], np.float64)
    distances = _distances(losses)
    entries: dict[tuple[str, int], list[int]] = {}
    for n, entry in enumerate(log):
        entries.setdefault((entry["id"], entry["target"]), []).append(n)
    ranked = [
        LabelError(row_id, target, float(distances[numbers].mean()), tuple(losses[numbers].tolist()))
        for (row_id, target), numbers in entries.items()
    ]
    return sorted(ranked, key=lambda one: (-one.score, one.id, one.target))[:count]


def _distances(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of each loss [N] above the median of its window, in the window's robust standard deviations [N]."""
    count = len(losses)
    width = min(WINDOW, count)
    starts = np.clip(np.arange(count) - width // 2, 0, count - width)
    windows = np.lib.stride_tricks.sliding_window_view(losses, width)
    medians = np.median(windows, axis=1)
    sigmas = np.median(np.abs(windows - medians[:, None]), axis=1) * MAD_TO_SIGMA
    distances: NDArray[np.float64] = (losses - medians[starts]) / np.maximum(sigmas[starts], 1e-12)
    return distances


class _Sample(TypedDict):
    """Types of what is read from a line of the log."""

    id: str
    target: NonNegativeInt
    epoch: NonNegativeInt
    loss: FiniteFloat


def read_loss_log(adapter: Path) -> list[dict[str, Any]]:
    """The losses that the training of an adapter logged, in training order.

    Raises:
        DataError: the adapter folder has no such log, or an empty one.
        IntegrityError: it is damaged.
    """
    file = adapter / SAMPLES
    if not file.is_file():
        raise DataError(f"{file} does not exist; name an adapter folder written by `vlmtune train`")
    if (read_manifest(adapter) or {}).get("rewards"):
        raise DataError(f"{adapter} was trained on rewards and has no losses of rows; name the adapter it began with")
    log = read_steps(file, _Sample)
    if not log:
        raise DataError(f"{file} is empty")
    return log


@dataclass(frozen=True, slots=True)
class Card:
    """A probable label error with the content of its row.

    `row` is the row's index in the train rows, `where` the location of its first image, `image` that image as WebP.
    """

    error: LabelError
    row: int
    where: str | None
    question: str | None
    target: str
    other_references: tuple[str, ...]
    image: bytes | None

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the image."""
        error = self.error
        return {
            "id": error.id,
            "row": self.row,
            "where": self.where,
            "target_index": error.target,
            "score": round(error.score, 4),
            "losses": [round(loss, 4) for loss in error.losses],
            "question": self.question,
            "target": self.target,
            "other_references": list(self.other_references),
        }


def label_error_cards(errors: Iterable[LabelError], rows: Rows) -> list[Card]:
    """The rows behind some label errors.

    Raises:
        DataError: a row id or one of its targets is unknown: the adapter was trained on another dataset.
    """
    index = {rows.id(n): n for n in range(len(rows))}
    result = []
    for error in errors:
        if error.id not in index:
            raise DataError(
                f"the adapter was trained on a row {error.id!r}, which is not among the train rows of this config; "
                "pass the adapter that was trained on them with --adapter"
            )
        row = index[error.id]
        try:
            example = rows.with_target(row, error.target)
        except IndexError:
            raise DataError(
                f"the adapter was trained on target {error.target} of the row {error.id!r}, counted from 0, which has "
                "fewer; pass the adapter that was trained on these rows with --adapter"
            ) from None
        target = example.target or ""
        others = tuple(text for text in example.truth["references"] if text != target)
        image = thumbnail(decode_rgb(example.images[0])) if example.images else None
        where = example.images[0].where if example.images else None
        result.append(Card(error, row, where, example.question, target, others, image))
    return result


def render(cards: Sequence[Card], rows: int, epochs: int) -> str:
    """The page as HTML; dataset text is always escaped.

    Args:
        cards: the label errors, most probable first.
        rows: number of train rows.
        epochs: number of epochs of the training.
    """
    from markupsafe import Markup

    return templates.render(
        "label_errors.html.jinja",
        [FOLDER],
        cards=[(card, Markup(base64.b64encode(card.image).decode()) if card.image else None) for card in cards],
        rows=rows,
        epochs=epochs,
    )
