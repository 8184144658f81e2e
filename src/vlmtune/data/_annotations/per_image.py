"""Formats with one file of annotations per image: YOLO's boxes, Pascal VOC's XML, and texts beside images."""

import json
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree.ElementTree import Element

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from vlmtune.data._annotations.folder import Folder, Row, box_of, number_of, read_json, read_xml
from vlmtune.data._image_refs import DESCRIPTIONS
from vlmtune.data._text import read_text
from vlmtune.errors import DataError

TEXTS = (".gt.txt", ".txt", ".caption", ".json")
"""Endings of files with the text of an image."""

BOX_NUMBERS = 4


def _inside(folder: Folder, part: Path, paths: Sequence[str]) -> list[str]:
    """The paths in a folder of the dataset."""
    name = folder.name(part)
    return [path for path in paths if name == "." or path.startswith(f"{name}/")]


def _stem(path: str, endings: Sequence[str] = ()) -> str:
    ending = next((each for each in endings if path.lower().endswith(each)), PurePosixPath(path).suffix)
    return path[: len(path) - len(ending)] if ending else path


def read_yolo(part: Path, folder: Folder) -> Iterator[Row]:
    """One row per image of a folder; the labels of images/train/1.jpg are in labels/train/1.txt, or beside it.

    An image without a file has no objects. Boxes are corners in fractions of the sides.
    """
    names, known = _class_names(folder), set(folder.files)
    used = set()
    images = _inside(folder, part, folder.images)
    for image in images:
        label = next((each for each in label_files(image) if each in known), None)
        row = Row(where=label or image, id=image, image=image, boxes=[], labels=[])
        if (split := folder.listed_splits.get(PurePosixPath(image).name)) is not None:
            row["split"] = split
        if label is not None:
            used.add(label)
            try:
                row["boxes"], row["labels"] = _yolo_boxes(folder.root / label, names)
            except DataError as error:
                row = Row(where=label, problem=str(error))
        yield row
    folders = {PurePosixPath(each).parent for each in used}
    for file in folder.files:
        stray = PurePosixPath(file).parent in folders and file.endswith(".txt") and file not in used
        if stray and not DESCRIPTIONS.fullmatch(PurePosixPath(file).name):
            yield Row(
                where=file, problem=f"{folder.root / file}: no image belongs to these labels; restore or remove it"
            )


def label_files(image: str) -> Iterator[str]:
    """Where YOLO's labels of an image may be."""
    path = PurePosixPath(image)
    places = [n for n, name in enumerate(path.parts[:-1]) if name == "images"]
    for place in reversed(places):
        yield str(PurePosixPath(*path.parts[:place], "labels", *path.parts[place + 1 :]).with_suffix(".txt"))
    yield str(path.with_suffix(".txt"))


def _yolo_boxes(file: Path, names: Sequence[str] | None) -> tuple[list[list[float]], list[str]]:
    """(boxes, labels) of a file."""
    boxes, labels = list[list[float]](), list[str]()
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        where, parts = f"{file}:{number}", line.split()
        if not parts:
            continue
        values = [number_of(part, where) for part in parts[1:]]
        if len(values) == BOX_NUMBERS:
            x, y, width, height = values
            box = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
        elif len(values) > BOX_NUMBERS and len(values) % 2 == 0:  # a polygon
            box = _around(values[::2], values[1::2])
        else:
            raise DataError(f"{where}: needs a class and four numbers, or a polygon (got {line!r:.60})")
        boxes.append(box)
        labels.append(_class_name(parts[0], names, where))
    return boxes, labels


def _around(xs: Sequence[float], ys: Sequence[float]) -> list[float]:
    """The smallest box around some points."""
    return [min(xs), min(ys), max(xs), max(ys)]


def _class_name(number: str, names: Sequence[str] | None, where: str) -> str:
    if names is None:
        return number
    if not number.isascii() or not number.isdigit() or int(number) >= len(names):
        raise DataError(f"{where}: {number[:20]} is not a class; data.yaml or classes.txt names {len(names)}")
    return names[int(number)]


def _class_names(folder: Folder) -> list[str] | None:
    """The names of the classes, from data.yaml (any YAML file with `names`) or classes.txt; None without either."""
    for path in folder.files:
        if path.endswith((".yaml", ".yml")):
            try:
                value: Any = YAML(typ="safe").load(read_text(folder.root / path))
            except (YAMLError, ValueError, RecursionError, AttributeError, TypeError) as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise DataError(f"{folder.root / path}: not YAML: {reason:.100}; repair the file") from None
            names = value.get("names") if isinstance(value, dict) else None
            if isinstance(names, dict) and sorted(map(str, names)) == sorted(map(str, range(len(names)))):
                names = [{str(key): name for key, name in names.items()}[str(n)] for n in range(len(names))]
            if isinstance(names, list):
                return [str(name) for name in names]
    for path in folder.files:
        if PurePosixPath(path).name in ("classes.txt", "obj.names"):
            return [line.strip() for line in read_text(folder.root / path).split("\n") if line.strip()]
    return None


def read_voc(part: Path, folder: Folder) -> Iterator[Row]:
    """One row per XML file of a folder, with corners in pixels; the split is that of ImageSets/Main."""
    splits = _voc_splits(folder)
    for path in _inside(folder, part, [path for path in folder.files if path.lower().endswith(".xml")]):
        try:
            root = read_xml(folder.root / path)
            if root.tag != "annotation":
                raise DataError(f"{folder.root / path}: Pascal VOC's files have <annotation> (got <{root.tag:.40}>)")
            row = _voc_row(root, path, folder)
        except DataError as error:
            row = Row(where=path, problem=str(error))
        else:
            split = splits.get(PurePosixPath(path).stem)
            row |= Row(where=path, split=split) if split is not None else Row(where=path)
        yield row


def _voc_row(root: Element, path: str, folder: Folder) -> Row:
    stem = PurePosixPath(path).stem
    name = (root.findtext("filename") or "").strip() or stem
    row = Row(where=path, id=stem, image=folder.image(name, stem, near=path), boxes=[], labels=[])
    for number, item in enumerate(root.iter("object")):
        where = f"{folder.root / path}, object {number}"
        corners = [item.findtext(f"bndbox/{corner}") for corner in ("xmin", "ymin", "xmax", "ymax")]
        label = (item.findtext("name") or "").strip()
        if not label:
            raise DataError(f"{where}: has no <name>")
        row["boxes"].append(box_of(corners, where))
        row["labels"].append(label)
    return row


def _voc_splits(folder: Folder) -> dict[str, str]:
    """The split of every image by its stem; trainval.txt, which repeats two others, does not count."""
    splits: dict[str, str] = {}
    for path in folder.files:
        file = PurePosixPath(path)
        if file.parts[-3:-1] == ("ImageSets", "Main") and file.name in ("train.txt", "val.txt", "test.txt"):
            for line in read_text(folder.root / path).split("\n"):
                if line.strip():
                    splits[line.split()[0]] = file.stem
    return splits


def read_sidecar(part: Path, folder: Folder) -> Iterator[Row]:
    """One row per image of a folder; its text is in a file of the same name, beside it or in another folder.

    In a folder without images, one row per video.

    An object or list in a JSON file becomes its compact text, for the task extraction.
    """
    texts, used = text_files(folder), set()
    stems = {PurePosixPath(image).stem for image in folder.shown}
    for image in _inside(folder, part, folder.shown):
        try:
            file = _text_file(image, texts.get(PurePosixPath(image).stem, []), folder)
            used.add(file)
            row = Row(where=file, id=image, references=[_text(folder.root / file)])
            yield Row(**row, image=image) if folder.images else Row(**row, video=image)
        except DataError as error:
            yield Row(where=image, problem=str(error))
    folders = {PurePosixPath(each).parent for each in used}
    for file in sorted(path for paths in texts.values() for path in paths):
        stem = PurePosixPath(_stem(file, TEXTS)).name
        if file not in used and PurePosixPath(file).parent in folders and stem not in stems:
            yield Row(where=file, problem=f"{folder.root / file}: no image has this name; restore or remove it")


def text_files(folder: Folder) -> dict[str, list[str]]:
    """The files that may hold the text of an image, by the stem of its name."""
    texts: dict[str, list[str]] = {}
    for path in folder.files:
        fits = path.lower().endswith(TEXTS) if folder.sidecars is None else fnmatchcase(path, folder.sidecars)
        if fits and not DESCRIPTIONS.fullmatch(PurePosixPath(path).name):
            texts.setdefault(PurePosixPath(_stem(path, TEXTS)).name, []).append(path)
    return texts


def _text_file(image: str, found: Sequence[str], folder: Folder) -> str:
    """The file with the text of an image: the one beside it, else the one in the folder that is most alike."""
    if not found:
        pattern = f" that matches dataset.sidecars {folder.sidecars!r}" if folder.sidecars else ""
        raise DataError(
            f"{folder.root / image}: no file of the same name with its text ({', '.join(TEXTS)}){pattern}; "
            "write one, or remove the image"
        )
    parent = PurePosixPath(image).parent
    beside = [path for path in found if PurePosixPath(path).parent == parent]
    choice = beside or found
    if not beside:  # img/a/1.jpg and key/a/1.json rather than key/b/1.json
        tails = [_common_tail(parent, PurePosixPath(path).parent) for path in found]
        choice = [path for path, tail in zip(found, tails, strict=True) if tail == max(tails)]
    if len(choice) > 1:
        names = " and ".join(choice)
        raise DataError(
            f"{folder.root / image}: {names} could both hold its text; choose with dataset.sidecars, as "
            f"'{PurePosixPath(choice[0]).parent / '*'}{PurePosixPath(choice[0]).suffix}'"
        )
    return choice[0]


def _common_tail(one: PurePosixPath, other: PurePosixPath) -> int:
    pairs = list(zip(reversed(one.parts), reversed(other.parts), strict=False))
    return next((n for n, (first, second) in enumerate(pairs) if first != second), len(pairs))


def _text(file: Path) -> str:
    if file.suffix.lower() != ".json":
        return read_text(file).strip()
    value = read_json(file)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
