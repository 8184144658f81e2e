"""What the readers of annotations share: the row they yield, texts, JSON and XML with named errors, and image names."""

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Required, TypedDict
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from vlmtune.data._image_refs import ENDINGS, open_readable
from vlmtune.data._text import read_text
from vlmtune.errors import DataError
from vlmtune.json_values import MAX_DEPTH, is_deep
from vlmtune.videos import FILE_ENDINGS

SPLITS = {"train": "train", "dev": "val", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_LIST = re.compile(rf"(?:.*[\W_])?({'|'.join(SPLITS)})_?(?:images?|list|split)?\.txt", re.IGNORECASE)
"""Lists of the images of a split, such as Flickr_8k.trainImages.txt and YOLO's train.txt."""

UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")
"""What Label Studio writes before the name of an uploaded file."""


class Row(TypedDict, total=False):
    """One row; keys that a format does not have are left out."""

    where: Required[str]
    """Location for messages: a file, with the line or the number of the entry."""

    problem: str
    """Why the row cannot be used; the other keys then do not count."""

    id: str
    image: str
    """Path of the image, relative to the folder if it was found there."""

    video: str
    question: str
    references: list[str]
    boxes: list[list[float]]
    """In the unit and corners of `BOXES`."""

    labels: list[str]
    """One for each box, or those of the image where there are no boxes."""

    split: str
    """The official split."""

    group: str
    kind: str
    """Type of the question or answer, for slicing."""


@dataclass(frozen=True)
class Folder:
    """The folder of a dataset.

    Attributes:
        root: the folder.
        roots: folders below which links may lead.
        find_images: whether image names are looked up in the folder; otherwise they stay as they are written.
        sidecars: pattern of the files with texts, None for any.
    """

    root: Path
    roots: Sequence[str] = ()
    find_images: bool = True
    sidecars: str | None = None

    def name(self, file: Path) -> str:
        """A file in messages and rows: its path in the folder."""
        return file.relative_to(self.root).as_posix() if file.is_relative_to(self.root) else str(file)

    @cached_property
    def files(self) -> list[str]:
        """Paths of all files that are not hidden, sorted; links to folders are followed where they may lead."""
        roots = [os.path.realpath(root) for root in (str(self.root), *self.roots)]
        return sorted(_files(self.root, "", roots, set()))

    @cached_property
    def images(self) -> list[str]:
        """Paths of all images, sorted."""
        return [file for file in self.files if file.lower().endswith(ENDINGS)]

    @cached_property
    def videos(self) -> list[str]:
        """Paths of all videos, sorted."""
        return [file for file in self.files if file.lower().endswith(FILE_ENDINGS)]

    @property
    def shown(self) -> list[str]:
        """Paths of all images, or of all videos in a folder without images, sorted."""
        return self.images or self.videos

    @cached_property
    def _known(self) -> set[str]:
        return set(self.files)

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        return _grouped(self.images, lambda path: PurePosixPath(path).name)

    @cached_property
    def by_stem(self) -> dict[str, list[str]]:
        """Paths of images by their names without folder and ending."""
        return _grouped(self.images, lambda path: PurePosixPath(path).stem)

    @cached_property
    def _by_number(self) -> dict[str, list[str]]:
        return _grouped(self.images, lambda path: _last_number(PurePosixPath(path).stem))

    @cached_property
    def listed_splits(self) -> dict[str, str]:
        """The split of every image by its name, from lists of images.

        Raises:
            DataError: an image is in two lists.
        """
        splits: dict[str, str] = {}
        for path in self.files:
            match, file = _LIST.fullmatch(PurePosixPath(path).name), self.root / path
            if match is None or "readme" in path.lower():
                continue
            names = [line.strip() for line in read_text(file).split("\n") if line.strip()]
            if not all(each.lower().endswith(ENDINGS) for each in names):
                continue
            split = SPLITS[match[1].lower()]
            for image in names:
                other = splits.setdefault(PurePosixPath(image).name, split)
                if other != split:
                    raise DataError(f"{file}: {image} is also in the list of {other}; repair the lists")
        return splits

    def image(self, name: str, fallback_stem: str | None = None, near: str = "") -> str:
        """Path of the image that an annotation names, which may begin in another folder.

        Of several images of that name the one with most folders in common counts, else the one beside the annotation,
        else the one in a folder that the annotation's name mentions (train2017 of instances_train2017.json); if none
        does, the name is returned as it is written.

        Args:
            name: as it is written.
            fallback_stem: stem of the image's name where no image has that name.
            near: path of the file with the annotation.
        """
        if not self.find_images or "://" in name:
            return name
        path = PurePosixPath(name.replace("\\", "/"))
        if str(path) in self._known:
            return str(path)
        found = self._by_name.get(path.name) or self._by_name.get(UPLOADED.sub("", path.name, count=1))
        if not found and fallback_stem is not None:
            found = self.by_stem.get(fallback_stem)
        return _closest(path, found or []) or _nearest(PurePosixPath(near), found or []) or name

    def image_with_number(self, number: int, hint: str) -> str | None:
        """Path of the image whose name ends with a number, as COCO's do; `hint` is part of its name or folder.

        Without looking images up, the number itself in twelve digits.
        """
        if not self.find_images:
            return f"{number:012d}"
        found = self._by_number.get(str(number), [])
        hinted = [path for path in found if hint and hint in path]
        chosen = hinted or found
        return chosen[0] if len(chosen) == 1 else None


def _files(root: Path, inside: str, roots: list[str], above: set[str]) -> Iterator[str]:
    real = os.path.realpath(root / inside)
    if real in above or not any(Path(real).is_relative_to(each) for each in roots):
        return
    try:
        entries = sorted(os.scandir(root / inside), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{root / inside}: {error.strerror}; check that you may read it") from None
    for entry in entries:
        if entry.name.startswith("."):
            continue
        path = f"{inside}/{entry.name}" if inside else entry.name
        if entry.is_dir():
            yield from _files(root, path, roots, above | {real})
        elif entry.is_file():
            yield path


def _grouped(paths: Sequence[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for path in paths:
        groups.setdefault(key(path), []).append(path)
    return groups


def _last_number(stem: str) -> str:
    digits = re.search(r"\d{1,18}\Z", stem, re.ASCII)
    return str(int(digits[0])) if digits else ""


def _closest(path: PurePosixPath, found: Sequence[str]) -> str | None:
    """Of some paths the only one with most parents in common, counted from the end."""

    def common(other: str) -> int:
        pairs = zip(reversed(path.parent.parts), reversed(PurePosixPath(other).parent.parts), strict=False)
        return next((n for n, (one, two) in enumerate(pairs) if one != two), min(len(path.parts), 64))

    scores = [common(each) for each in found]
    best = [each for each, score in zip(found, scores, strict=True) if score == max(scores)]
    return best[0] if len(best) == 1 else None


def _nearest(file: PurePosixPath, found: Sequence[str]) -> str | None:
    """Of some paths the only one in the folder of a file, or in one that the file's name mentions."""
    beside = [each for each in found if PurePosixPath(each).parent == file.parent]
    named = [each for each in found if any(part in file.stem for part in PurePosixPath(each).parent.parts)]
    return next((only[0] for only in (beside, named) if len(only) == 1), None)


def read_json(file: Path) -> Any:
    """The value in a JSON file.

    Raises:
        DataError: it is not JSON.
        EnvironmentProblem: it cannot be read.
    """
    try:
        value = json.loads(read_text(file))
        if is_deep(value):
            raise RecursionError(f"nested deeper than {MAX_DEPTH} lists and objects")
        return value
    except json.JSONDecodeError as error:
        raise DataError(f"{file}:{error.lineno}: not JSON: {error.msg}; repair the file or download it again") from None
    except (RecursionError, ValueError) as error:
        raise DataError(f"{file}: not JSON: {error}; repair the file or download it again") from None


def read_xml(file: Path) -> Element:
    """The root element of an XML file. A document type, which could define entities, is refused.

    Raises:
        DataError: it is not XML, or has a document type.
        EnvironmentProblem: it cannot be read.
    """
    parser, builder = expat.ParserCreate(), TreeBuilder()

    def refuse(*_: Any) -> None:
        raise DataError(f"{file}:{parser.CurrentLineNumber}: a document type is not allowed; remove <!DOCTYPE …>")

    parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = builder.data, refuse
    parser.buffer_text = True
    with open_readable(file) as stream:
        data = stream.read()
    try:
        parser.Parse(data, True)
        return builder.close()
    except (expat.ExpatError, ValueError, LookupError, AssertionError) as error:
        raise DataError(f"{file}:{parser.CurrentLineNumber}: not XML: {error}; repair the file") from None


def entries(value: Any, key: str, file: Path, what: str) -> list[Any]:
    """The list of objects under a key of a JSON file.

    Raises:
        DataError: there is none; names the keys that there are.
    """
    found = value.get(key) if isinstance(value, dict) else None
    if isinstance(found, list) and all(isinstance(each, dict) for each in found):
        return found
    keys = ", ".join(map(str, list(value)[:10])) if isinstance(value, dict) else f"a {type(value).__name__}"
    raise DataError(f"{file}: {what} have a list of objects under {key!r}; this file has {keys}. Check dataset.format")


def text_of(entry: dict[str, Any], key: str, where: str) -> str:
    """The text or integer under a key, as text.

    Raises:
        DataError: there is none.
    """
    value = entry.get(key)
    if isinstance(value, str | int) and not isinstance(value, bool):
        return str(value)
    raise DataError(f"{where}: {key!r} must be a text or a whole number (got {value!r:.60})")


def number_of(value: Any, where: str) -> float:
    """A finite number, also one written as text.

    Raises:
        DataError: it is none.
    """
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if isinstance(value, bool) or not abs(number) < float("inf"):
        raise DataError(f"{where}: must be a number (got {value!r:.60})")
    return number


def box_of(values: Any, where: str) -> list[float]:
    """A box of four numbers.

    Raises:
        DataError: it is none.
    """
    if not isinstance(values, list | tuple) or len(values) != 4:
        raise DataError(f"{where}: a box must be four numbers (got {values!r:.60})")
    return [number_of(value, where) for value in values]
