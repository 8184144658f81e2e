"""COCO's JSON: images, annotations with captions or boxes, and categories. https://cocodataset.org/#format-data"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlmtune.data._annotations.folder import Folder, Row, box_of, entries, read_json, text_of
from vlmtune.errors import DataError


def read(file: Path, folder: Folder) -> Iterator[Row]:
    """One row per image, in the order of `images`: all its captions, all its boxes (without crowds)."""
    value, name = read_json(file), folder.name(file)
    images = entries(value, "images", file, "COCO's files")
    annotations = entries(value, "annotations", file, "COCO's files") if "annotations" in value else None
    categories = _categories(value, file) if "categories" in value else {}
    of_image: dict[str, list[dict[str, Any]]] = {}
    for number, annotation in enumerate(annotations or []):
        image_id = text_of(annotation, "image_id", f"{name}, annotation {number}")
        of_image.setdefault(image_id, []).append(annotation)
    kinds = {key for annotation in annotations or [] for key in ("caption", "bbox") if key in annotation}
    if annotations and not kinds:
        raise DataError(f"{file}: its annotations have neither 'caption' nor 'bbox', so there is nothing to learn")
    seen = set()
    for number, image in enumerate(images):
        image_id = text_of(image, "id", f"{name}, image {number}")
        where = f"{name}, image {image_id}"
        if image_id in seen:
            raise DataError(f"{where}: two images have this id; repair the file")
        seen.add(image_id)
        try:
            row = Row(where=where, id=image_id, image=folder.image(text_of(image, "file_name", where), near=name))
            yield Row(**{**row, **_annotated(of_image.get(image_id, []), kinds, categories, where)})
        except DataError as error:
            yield Row(where=where, problem=str(error))
    if unknown := next((each for each in of_image if each not in seen), None):
        raise DataError(f"{file}: an annotation belongs to image {unknown}, which is not among the images")


def _categories(value: dict[str, Any], file: Path) -> dict[str, str]:
    listed = entries(value, "categories", file, "COCO's files")
    return {text_of(each, "id", f"{file}, category"): text_of(each, "name", f"{file}, category") for each in listed}


def _annotated(annotations: list[Any], kinds: set[str], categories: dict[str, str], where: str) -> Row:
    row = Row(where=where)
    if "caption" in kinds:
        row["references"] = [text_of(each, "caption", where).strip() for each in annotations if "caption" in each]
    if "bbox" in kinds:
        boxed = [each for each in annotations if "bbox" in each and not each.get("iscrowd")]
        row["boxes"] = [box_of(each["bbox"], where) for each in boxed]
        row["labels"] = [_label(each, categories, where) for each in boxed]
    return row


def _label(annotation: dict[str, Any], categories: dict[str, str], where: str) -> str:
    number = text_of(annotation, "category_id", where)
    if number not in categories:
        raise DataError(f"{where}: category {number} is not among the categories of the file")
    return categories[number]
