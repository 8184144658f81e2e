"""Exports of labelling tools: Label Studio's JSON and JSON-MIN, and CVAT's XML for images."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree.ElementTree import Element

from vlmtune.data._annotations.folder import Folder, Row, number_of, read_json, read_xml, text_of
from vlmtune.errors import DataError

TEXT_TYPES = ("textarea", "choices", "taxonomy", "rating", "number")
BOX_TYPES = ("rectanglelabels", "rectangle", "polygonlabels", "polygon")
MIN_KEYS = {"id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time"}
"""Keys that JSON-MIN adds to the data of a task."""

PERCENT = 100


def read_label_studio(file: Path, folder: Folder) -> Iterator[Row]:
    """One row per task with an annotation; choices and texts are its references, boxes are fractions of the sides.

    Of several annotations of a task all answers count, and the boxes of the first.
    """
    value, name = read_json(file), folder.name(file)
    if not isinstance(value, list) or not all(isinstance(task, dict) for task in value):
        raise DataError(f"{file}: an export of Label Studio is a list of tasks; export as JSON or JSON-MIN")
    for number, task in enumerate(value):
        where = f"{name}, task {task.get('id', number)}"
        try:
            is_full = isinstance(task.get("data"), dict)
            row = _full(task, where, folder) if is_full else _minimal(task, where, folder)
        except DataError as error:
            row = Row(where=where, problem=str(error))
        if row is not None:
            yield row


def _full(task: dict[str, Any], where: str, folder: Folder) -> Row | None:
    done = [each for each in task.get("annotations") or [] if isinstance(each, dict) and not each.get("was_cancelled")]
    results = [each.get("result") for each in done]
    if not any(results):
        return None
    row = _labelled_image(task["data"], where, folder)
    row["id"] = text_of(task, "id", where) if "id" in task else row["image"]
    answers: list[str] = []
    for number, result in enumerate(results):
        if not isinstance(result, list) or not all(isinstance(item, dict) for item in result):
            raise DataError(f"{where}: the result of an annotation must be a list of objects")
        for item in result:
            kind, content = item.get("type"), item.get("value")
            if not isinstance(content, Mapping):
                continue
            if kind in BOX_TYPES:
                if number == 0:
                    _add_box(row, content, where)
            elif kind in TEXT_TYPES:
                answers += _texts(content.get("text" if kind == "textarea" else str(kind)), where)
    return Row(**row, references=answers) if answers else row


def _minimal(task: dict[str, Any], where: str, folder: Folder) -> Row:
    """A task of JSON-MIN: its data and, under the names of the controls, a choice, texts, or a list of boxes."""
    row = _labelled_image(task, where, folder)
    row["id"] = text_of(task, "id", where) if "id" in task else row["image"]
    answers: list[str] = []
    image = _image_key(task)
    for key, value in task.items():
        if key in MIN_KEYS or key == image:
            continue
        if isinstance(value, list) and all(isinstance(item, dict) for item in value):
            for item in value:
                _add_box(row, item, where)
        elif isinstance(value, str | list | dict):
            answers += _texts(value, where)
    return Row(**row, references=answers) if answers else row


def _image_key(data: Mapping[str, Any]) -> str | None:
    """The key of the image among the data of a task."""
    named = [key for key in ("image", "img", "picture", "photo", "ocr", "captioning") if isinstance(data.get(key), str)]
    paths = [key for key, value in data.items() if isinstance(value, str) and ("/data/" in value or "://" in value)]
    return next(iter([*named, *paths]), None)


def _labelled_image(data: Mapping[str, Any], where: str, folder: Folder) -> Row:
    key = _image_key(data)
    if key is None:
        raise DataError(f"{where}: no image among its data, which has {', '.join(map(str, data)) or 'nothing'}")
    value = data[key]
    parts = urlsplit(value)
    local = parse_qs(parts.query).get("d", [None])[0]  # /data/local-files/?d=folder/1.jpg
    if local is not None:
        value = local
    elif parts.scheme in ("", "s3", "gs", "azure-blob"):
        value = unquote(parts.path)
    return Row(where=where, image=folder.image(value))


def _add_box(row: Row, content: Mapping[str, Any], where: str) -> None:
    """Add the box of a region; its numbers are percentages of the sides."""
    points = content.get("points")
    if isinstance(points, list) and points:
        pairs = [point for point in points if isinstance(point, list | tuple) and len(point) == 2]
        xs, ys = ([number_of(pair[axis], where) / PERCENT for pair in pairs] for axis in (0, 1))
        box = [min(xs, default=0), min(ys, default=0), max(xs, default=0), max(ys, default=0)]
    else:
        if content.get("rotation"):
            raise DataError(
                f"{where}: a box is rotated by {content['rotation']} degrees, which no box of four numbers is"
            )
        x, y, width, height = (number_of(content.get(key), f"{where}, {key}") for key in ("x", "y", "width", "height"))
        box = [x / PERCENT, y / PERCENT, (x + width) / PERCENT, (y + height) / PERCENT]
    labels = next((value for key, value in content.items() if key.endswith("labels")), None)
    listed = labels if isinstance(labels, list) and labels else ["object"]
    row.setdefault("boxes", []).append(box)
    row.setdefault("labels", []).append(str(listed[0]))


def _texts(value: Any, where: str) -> list[str]:
    """Choices, texts and numbers as texts."""
    if isinstance(value, dict) and isinstance(value.get("choices"), list):  # several choices in JSON-MIN
        value = value["choices"]
    items = value if isinstance(value, list) else [value]
    texts = ["/".join(map(str, item)) if isinstance(item, list) else item for item in items]  # a path in a taxonomy
    if not all(isinstance(text, str | int | float) for text in texts):
        raise DataError(f"{where}: an answer must be text (got {json.dumps(value):.60})")
    return [str(text) for text in texts if str(text).strip()]


def read_cvat(file: Path, folder: Folder) -> Iterator[Row]:
    """One row per image: boxes are corners in pixels, tags are the references; the split is the image's subset."""
    root, name = read_xml(file), folder.name(file)
    images = list(root.iter("image"))
    if root.tag != "annotations" or (not images and root.find("track") is not None):
        raise DataError(
            f"{file}: needs <annotations> with <image>; export as CVAT for images 1.1 (got <{root.tag:.40}>)"
        )
    for number, image in enumerate(images):
        where = f"{name}, image {image.get('id', number)}"
        try:
            row = _cvat_row(image, where, folder)
        except DataError as error:
            row = Row(where=where, problem=str(error))
        yield row


def _cvat_row(image: Element, where: str, folder: Folder) -> Row:
    path = image.get("name")
    if not path:
        raise DataError(f"{where}: has no name")
    row = Row(where=where, id=path, image=folder.image(path), boxes=[], labels=[])
    for shape in image:
        label = shape.get("label", "")
        if shape.tag == "box":
            if number_of(shape.get("rotation", "0"), where):
                raise DataError(f"{where}: a box is rotated, which no box of four numbers is")
            box = [number_of(shape.get(key), f"{where}, {key}") for key in ("xtl", "ytl", "xbr", "ybr")]
        elif shape.tag in ("polygon", "polyline"):
            points = [point.split(",") for point in shape.get("points", "").split(";")]
            if not all(len(point) == 2 for point in points):
                raise DataError(f"{where}: points must be pairs x,y separated by ;")
            xs, ys = ([number_of(point[axis], where) for point in points] for axis in (0, 1))
            box = [min(xs), min(ys), max(xs), max(ys)]
        else:
            continue
        row["boxes"].append(box)
        row["labels"].append(label)
    tags = [tag.get("label", "") for tag in image.findall("tag")]
    if tags:
        row["references"] = tags
    if subset := image.get("subset"):
        row["split"] = subset
    return row
