"""Infers columns of boxes with labels, and the unit and the corners of boxes from the images that they must lie in."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from vlmtune.boxes import Box, Corners, Unit, read_boxes, unit_scale, xyxy
from vlmtune.data import Records, image_file, structured
from vlmtune.images import size_of
from vlmtune.scaffold.columns import Column
from vlmtune.scaffold.draft import Draft
from vlmtune.scaffold.questions import Option, Undecided

MANY = 20
"""Number of boxes from which their extent says something about the unit."""

MOST_ROWS, MOST_CLASSES = 20_000, 80
"""Rows whose labels are read, and classes that a prompt names."""

CLASSES = {
    "label",
    "labels",
    "class",
    "classes",
    "class_name",
    "category",
    "categories",
    "category_name",
    "name",
    "object",
}
"""Names of columns with the class of a box."""

FAR, NEAR = 0.85, 0.7
"""Of many boxes the farthest one reaches this fraction of the image in the right unit, and stays below that one in a
wrong unit."""

UNITS: Mapping[Unit, str] = {
    "pixels": "pixels",
    "norm1000": "thousandths of the sides",
    "unit": "fractions of the sides",
}
CORNERS: Mapping[Corners, str] = {"xyxy": "two corners", "xywh": "the upper left corner, width and height"}

Reading = tuple[Unit, Corners]
Sized = tuple[Box, tuple[int, int]]
"""A box and the size of its image."""


def infer_detection(draft: Draft, columns: Sequence[Column]) -> bool:
    """Infer the columns of boxes with labels, where no phrase says what to locate."""
    labels = next((column for column in columns if column.kind == "texts" and column.base in CLASSES), None)
    for column in columns:
        with_labels = labels.values if labels is not None and column.kind == "box" else [None] * len(column.values)
        if column.kind in ("box", "object", "other") and _are_labelled(column.values, with_labels):
            draft.infer("dataset", "boxes", column.name, f"boxes with labels: {column.preview}")
            if column.kind == "box" and labels is not None:
                draft.infer("dataset", "box_labels", labels.name, f"the label of each box: {labels.preview}")
            draft.infer("task", "name", "grounding", "there are boxes with labels")
            return True
    return False


def _are_labelled(values: Sequence[Any], labels: Sequence[Any]) -> bool:
    """Whether values are boxes, each with a label."""
    try:
        boxes = [one for value, own in zip(values, labels, strict=True) for one in read_boxes(value, own)]
    except ValueError:
        return False
    return bool(boxes) and all(one.label for one in boxes)


def infer_classes(draft: Draft, records: Records) -> None:
    """Infer a prompt that names the classes to detect, where rows have labelled boxes and no phrase."""
    column, own = draft.dataset.get("boxes"), draft.dataset.get("box_labels")
    if not isinstance(column, str) or "question" in draft.dataset:
        return
    wanted = [column, *([own] if own else [])]
    read, found = records.read if records.select is None else records.select(wanted), set[str]()
    for index in range(min(records.count, MOST_ROWS)):
        record = read(index)
        try:
            boxes = read_boxes(structured(record.get(column)), structured(record.get(own)) if own else None)
        except ValueError:  # `data check` lists bad rows
            continue
        found |= {one.label for one in boxes if one.label}
    names = sorted(found)
    listed = (
        " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if 0 < len(names) <= MOST_CLASSES else "object"
    )
    prompt = f"Detect every {listed}. Report their bounding boxes and labels in JSON format."
    draft.infer("task", "prompt", prompt, f"names the {len(names)} classes")


def infer_boxes(draft: Draft, records: Records, first: Sequence[Mapping[str, Any]]) -> None:
    """Infer `task.unit` and `task.corners` as far as they are not set.

    Raises:
        Undecided: several readings keep all boxes inside their images.
    """
    boxes = list(_sized(draft, records, first))
    fit = [
        (unit, corners)
        for unit in get_args(Unit)
        for corners in get_args(Corners)
        if draft.task.get("unit", unit) == unit and draft.task.get("corners", corners) == corners
        if all(_fits(box, size, unit, corners) for box, size in boxes)
    ]
    # Numbers from 0 to 1 fit every unit, but can only mean fractions.
    fit = [each for each in fit if each[0] == "unit"] or fit
    given = draft.task.get("unit", "pixels"), draft.task.get("corners", "xyxy")
    if not fit or not boxes:
        draft.infer("task", "unit", given[0], "! no unit puts all boxes inside their images; check")
        draft.infer("task", "corners", given[1], "! as no unit fits, these are a guess; check")
        return
    fit = _reaching(fit, boxes)
    if len(fit) > 1:
        raise _question(draft, fit, boxes)
    unit, corners = fit[0]
    example = ", ".join(f"{number:g}" for number in boxes[0][0])
    draft.infer(
        "task", "unit", unit, f"so that {len(boxes)} boxes such as [{example}] fill their images, and none leaves"
    )
    draft.infer("task", "corners", corners, "with the other reading, boxes would leave the image or miss most of it")


def _sized(draft: Draft, records: Records, first: Sequence[Mapping[str, Any]]) -> Iterator[Sized]:
    """The boxes of the first rows with the sizes of their images; bad values are left to `data check`."""
    column = draft.dataset.get("image", "image")
    for index, record in enumerate(first):
        boxes = _boxes(record, draft.dataset["boxes"])
        image = record.get(column if isinstance(column, str) else column[0])
        if boxes and image is not None:
            at = f"{records.where}, row {index}"
            size = size_of(records.open_image(image_file(draft.dataset.get("image_path"), image, record, at), at))
            yield from ((box, size) for box in boxes)


def _boxes(record: Mapping[str, Any], columns: str | list[str]) -> list[Box]:
    """The boxes of a record: those of a column, or one from four columns; none where these hold no numbers."""
    try:
        if isinstance(columns, str):
            return [one.box for one in read_boxes(structured(record.get(columns)))]
        return [[float(record[column]) for column in columns]]
    except (KeyError, TypeError, ValueError):
        return []


def _fits(box: Box, size: tuple[int, int], unit: Unit, corners: Corners) -> bool:
    width, height = unit_scale(unit, size)
    x, y, right, bottom = xyxy(box, corners)
    # Annotation tools round, so boxes may extend slightly beyond the edge.
    return x >= 0 and y >= 0 and x < right <= width * 1.01 and y < bottom <= height * 1.01


def _reaching(fit: list[Reading], boxes: Sequence[Sized]) -> list[Reading]:
    """The readings in which some of many boxes reach the far edges, if none does so in the others."""
    if len(boxes) < MANY:
        return fit
    reach = {reading: min(_extents(boxes, *reading)) for reading in fit}
    far = [reading for reading in fit if reach[reading] >= FAR]
    return far if far and all(reach[reading] < NEAR for reading in fit if reading not in far) else fit


def _extents(boxes: Sequence[Sized], unit: Unit, corners: Corners) -> tuple[float, float]:
    """The largest x and y of all boxes, as fractions of their images."""
    ends = [(xyxy(box, corners)[2:], unit_scale(unit, size)) for box, size in boxes]
    return max(end[0] / scale[0] for end, scale in ends), max(end[1] / scale[1] for end, scale in ends)


def _question(draft: Draft, fit: Sequence[Reading], boxes: Sequence[Sized]) -> Undecided:
    box, (width, height) = boxes[0]
    numbers = ", ".join(f"{number:g}" for number in box)
    columns = draft.dataset["boxes"]
    names = ", ".join(map(repr, [columns] if isinstance(columns, str) else columns))
    options = []
    for unit, corners in fit:
        sets = [f"task.unit={unit}"] if "unit" not in draft.task else []
        sets += [f"task.corners={corners}"] if "corners" not in draft.task else []
        options.append(Option(f"{UNITS[unit]}; {CORNERS[corners]}", tuple(sets)))
    return Undecided(
        f"column {names}: boxes such as [{numbers}], in an image of {width}x{height}, can be read "
        f"in {len(fit)} ways; all {len(boxes)} boxes of the first rows lie inside their images in each.",
        options,
    )
