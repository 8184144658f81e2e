"""The suspects with what they show and what they teach: as JSON lines, and as one page without a script."""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmtune.checks.suspects.ranking import Suspect
from vlmtune.data import Rows
from vlmtune.errors import DataError
from vlmtune.images import decode_rgb, thumbnail
from vlmtune.report import sheets

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
        example = rows.taught(number, one.choice)
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
    return sheets.render(
        "page.html.jinja",
        [FOLDER],
        cards=[(one, base64.b64encode(one.picture).decode() if one.picture else None) for one in found],
        rows=rows,
        epochs=epochs,
    )
