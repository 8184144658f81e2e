"""What a task needs to know of the rows beyond their columns: the label set, and what a box's numbers mean."""

from collections.abc import Mapping, Sequence
from typing import Any

from vlmtune.checks.starting.guessing import MOST_LABELS, Guess
from vlmtune.data._cells import structured
from vlmtune.data._rows import Records
from vlmtune.errors import DataError
from vlmtune.images import size_of


def complete(made: Guess, records: Records, first: Sequence[Mapping[str, Any]], whole: bool) -> None:
    """Put labels, or the boxes' unit and corners, into the guess.

    Args:
        made: roles and task.
        records: all records of the training split, or the first ones.
        first: some of them, read already.
        whole: whether `records` are all of them.

    Raises:
        DataError: a column has more labels than a prompt can name.
    """
    if made.task["name"] == "classification" and "labels" not in made.task:
        _labels(made, records, whole)
    if made.task["name"] == "grounding" and "messages" not in made.dataset:
        _boxes(made, records, first)


def _labels(made: Guess, records: Records, whole: bool) -> None:
    column = made.dataset["references"][0]
    if column in records.classes:
        found, why = list(records.classes[column]), "all labels that the dataset names"
    else:
        read = records.read if records.narrow is None else records.narrow([column])
        labels = [_texts(read(index).get(column)) for index in range(records.count)]
        found = sorted({text for each in labels for text in each})
        bare = sum(not each for each in labels)
        why = f"all labels of {records.count:,} rows"
        if not whole:
            why = f"! labels of the first {records.count:,} rows; add those that are missing"
        if bare:
            without = f"{bare:,} of {records.count:,} rows have none: repair them, or see dataset.max_bad_fraction"
            why = f"! {why.removeprefix('! ')}; {without}"
    if len(found) > MOST_LABELS:
        raise DataError(
            f"column {column!r} has {len(found):,} different texts, too many to choose from in a prompt. If they are "
            "sentences: --set task.name=captioning"
        )
    made.put("task", "labels", found, why)


def _texts(value: Any) -> list[str]:
    """The answers in a cell, as rows give them; none where it is null or empty."""
    texts = [str(each) for each in (value if isinstance(value, list) else [value]) if each is not None]
    return [text for text in texts if text.strip()]


def _boxes(made: Guess, records: Records, first: Sequence[Mapping[str, Any]]) -> None:
    """The first meaning that all boxes and pictures allow."""
    image = made.dataset.get("image", "image")
    seen = []
    for index, record in enumerate(first):
        value = structured(record.get(made.dataset["boxes"]))
        picture = record.get(image if isinstance(image, str) else image[0])
        if value and picture is not None:
            size = size_of(records.open_image(picture, f"{records.where}, row {index}"))
            seen += [(box, size) for box in (value if isinstance(value[0], list) else [value])]
    fit = [
        (unit, corners)
        for unit in ("unit", "pixels", "norm1000")
        for corners in ("xyxy", "xywh")
        if all(_fits(box, size, unit, corners) for box, size in seen)
    ]
    # What lies within 1 lies within any picture, too; shares are meant.
    fit = [each for each in fit if each[0] == "unit"] or fit
    unit, corners = fit[0] if fit else ("pixels", "xyxy")
    units = sorted({found for found, _ in fit})
    if len(units) == 1:
        said = f"the only unit in which {len(seen)} boxes lie in their pictures"
    else:
        said = f"! {' and '.join(units)} would fit; check" if units else "! the boxes lie in no picture; check"
    made.put("task", "unit", unit, said)
    sure = len({found for found_unit, found in fit if found_unit == unit}) == 1
    said = "the other would leave the picture" if sure else "! two corners, or corner and size: both would fit; check"
    made.put("task", "corners", corners, said)


def _fits(box: Sequence[float], size: tuple[int, int], unit: str, corners: str) -> bool:
    width, height = {"unit": (1.0, 1.0), "norm1000": (1000.0, 1000.0)}.get(unit, size)
    x, y, right, bottom = box
    if corners == "xywh":
        right, bottom = x + right, y + bottom
    # Annotations go a pixel over the edge now and then.
    return x >= 0 and y >= 0 and x < right <= width * 1.01 and y < bottom <= height * 1.01
