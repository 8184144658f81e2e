"""Training rows whose label is probably wrong, found by how hard they were to learn.

A run writes every row's loss each time it was met (`visits.jsonl` in the adapter's folder). Losses fall while a model
learns, so a row is compared with those that were met around the same time: what stays far above its neighbours in every
epoch contradicts what the others teach. (The idea is that of small-loss and area-under-the-margin methods.)

The suspects with what they show and what they teach: as JSON lines, and as one page without a script.
"""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmtune.data import Rows
from vlmtune.errors import DataError
from vlmtune.files import read_whole_lines
from vlmtune.images import decode_rgb, thumbnail
from vlmtune.report import templates

NEIGHBOURS = 200
"""Visits around one that it is compared with."""

TO_SIGMA = 1.4826
"""Median absolute deviation to standard deviation, for normally distributed values."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """A target that was hard to learn: `score` is how many standard deviations above its neighbours, on average."""

    id: str
    choice: int
    score: float
    losses: tuple[float, ...]


def suspects(visits: Sequence[Mapping[str, Any]], count: int) -> list[Suspect]:
    """The `count` most suspicious targets, worst first; of one row each of its targets by itself.

    Args:
        visits: {"id", "choice", "loss"} in the order of training; loss per supervised token.
        count: how many.
    """
    losses = np.array([visit["loss"] for visit in visits], np.float64)
    above = _above(losses)
    found: dict[tuple[str, int], list[int]] = {}
    for n, visit in enumerate(visits):
        found.setdefault((visit["id"], visit["choice"]), []).append(n)
    ranked = [
        Suspect(name, choice, float(above[numbers].mean()), tuple(losses[numbers].tolist()))
        for (name, choice), numbers in found.items()
    ]
    return sorted(ranked, key=lambda one: (-one.score, one.id, one.choice))[:count]


def _above(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far each loss [N] lies above the median of its neighbours, in their robust standard deviations."""
    count = len(losses)
    width = min(NEIGHBOURS, count)
    starts = np.clip(np.arange(count) - width // 2, 0, count - width)
    windows = np.lib.stride_tricks.sliding_window_view(losses, width)
    middles = np.median(windows, axis=1)
    spreads = np.median(np.abs(windows - middles[:, None]), axis=1) * TO_SIGMA
    above: NDArray[np.float64] = (losses - middles[starts]) / np.maximum(spreads[starts], 1e-12)
    return above


def read_visits(adapter: Path) -> list[dict[str, Any]]:
    """What a training noted of each row.

    Raises:
        DataError: there is nothing of the kind in the adapter's folder.
    """
    file = adapter / "visits.jsonl"
    if not file.is_file():
        raise DataError(f"{file} is not there: an adapter that `vlmtune train` made has it; name its folder")
    visits = [json.loads(line) for line in read_whole_lines(file)]
    if not visits:
        raise DataError(f"{file} is empty")
    return visits


FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Shown:
    """A suspect with its row: number among those of its role, where its first picture is, and that picture (WebP), what
    it teaches, its other references.
    """

    suspect: Suspect
    row: int
    where: str | None
    question: str | None
    target: str
    others: tuple[str, ...]
    picture: bytes | None

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the picture."""
        found = self.suspect
        return {
            "id": found.id,
            "row": self.row,
            "where": self.where,
            "choice": found.choice,
            "score": round(found.score, 4),
            "losses": [round(loss, 4) for loss in found.losses],
            "question": self.question,
            "target": self.target,
            "other_references": list(self.others),
        }


def shown(suspects: Iterable[Suspect], rows: Rows) -> list[Shown]:
    """The suspects' rows.

    Raises:
        DataError: the dataset has no row of such an id: it is not the one that was trained on.
    """
    places = {rows.id(n): n for n in range(len(rows))}
    found = []
    for one in suspects:
        if one.id not in places:
            raise DataError(
                f"the training met a row {one.id!r}, which the train rows of this config do not have; name the adapter "
                "that was trained on them with --adapter"
            )
        number = places[one.id]
        example = rows.with_target(number, one.choice)
        target = example.target or ""
        others = tuple(text for text in example.truth["references"] if text != target)
        picture = thumbnail(decode_rgb(example.images[0])) if example.images else None
        where = example.images[0].where if example.images else None
        found.append(Shown(one, number, where, example.question, target, others, picture))
    return found


def render(found: Sequence[Shown], rows: int, epochs: int) -> str:
    """The page as HTML; text of rows is only ever text.

    Args:
        found: the suspects, worst first.
        rows: how many train rows there are.
        epochs: how often the training met each.
    """
    return templates.render(
        "label_errors.html.jinja",
        [FOLDER],
        cards=[(one, base64.b64encode(one.picture).decode() if one.picture else None) for one in found],
        rows=rows,
        epochs=epochs,
    )
