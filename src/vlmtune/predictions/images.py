"""Which image a row of another program's file is about, and what was asked about it.

Rows that share an image are one group: their answers are not independent.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

from vlmtune.predictions.lines import Line
from vlmtune.predictions.names import FILES, IMAGE_ENDINGS, IMAGES, QUESTIONS, plain_name
from vlmtune.predictions.tables import Table

LONGEST_NAME = 500
"""Characters up to which a text is the name of an image; a longer one is the image itself, in base64."""


def group_by_image(lines: Sequence[Line], table: Table, taken: Set[str]) -> tuple[list[Line], tuple[str, ...]]:
    """The lines with the image as their group, where the file names images and several rows share one; and a note.

    Nothing changes where rows have a group already, or where all have the same image: it then says nothing.

    Args:
        lines: one per row.
        table: the rows.
        taken: keys that hold something else.
    """
    key = _image_key(table, taken)
    if key is None or any(line.cluster is not None for line in lines):
        return list(lines), ()
    names = [image_name(row.values.get(key)) for row in table.rows]
    known = {name for name in names if name is not None}
    if len(known) < 2 or len(known) == len(names) - names.count(None):
        return list(lines), ()
    note = f"{table.file.name}: rows with the same {key!r} are one group: {len(known)} images of {len(names)} rows"
    return [replace(line, cluster=name) for line, name in zip(lines, names, strict=True)], (note,)


def _image_key(table: Table, taken: Set[str]) -> str | None:
    keys = [key for key in table.keys if key not in taken]
    by_name = next((key for key in keys if plain_name(key) in IMAGES), None)
    return by_name or next((key for key in keys if plain_name(key) in FILES and _holds_images(table, key)), None)


def _holds_images(table: Table, key: str) -> bool:
    return all(str(row.values.get(key)).lower().endswith(IMAGE_ENDINGS) for row in table.rows)


def image_name(value: Any) -> str | None:
    """The name of an image, or of several; bytes and base64 are named by their hash. None where there is none."""
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, Mapping):
        parts = (image_name(value.get(key)) for key in ("path", "file_name", "url", "bytes", "image"))
        return next((part for part in parts if part is not None), None)
    if isinstance(value, list):
        names = [name for name in map(image_name, value) if name is not None]
        return " ".join(names) or None
    if not isinstance(value, str | int) or isinstance(value, bool) or not str(value).strip():
        return None
    text = str(value).strip()
    return text if len(text) <= LONGEST_NAME else hashlib.sha256(text.encode()).hexdigest()


def image_of(line: Line) -> str | None:
    """The hash of a row's image, else the name that the file gives it; None where it gives none."""
    if line.image is not None:
        return line.image
    return next((image_name(value) for key, value in line.truth.items() if plain_name(key) in IMAGES), None)


def question_of(line: Line) -> str | None:
    """What a row asks about its image: the question, prompt or messages; None where the file does not say it."""
    for values in (line.truth, line.meta):
        for name in QUESTIONS:
            value = next((value for key, value in values.items() if plain_name(key) == name and value), None)
            if value is not None:
                return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return None
