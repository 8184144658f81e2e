"""Finds the images on disk that a column names only in part: by name, without ending, by number, or from elsewhere."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from vlmtune.data import Folder, is_base64
from vlmtune.scaffold.columns import Column
from vlmtune.scaffold.questions import Option, Undecided

MAX_OPTIONS = 6
MOST = 0.8
"""Fraction of the first rows whose images must be found in the same way."""

TELLING = (
    ("image", "img", "file", "photo", "pic", "path", "figure", "scan"),
    ("name", "key", "id", "doc", "page", "url"),
)
"""Parts of the names of columns that may name an image, the more certain ones first."""

_NUMBER = re.compile(r"(?P<before>.*?)(?P<digits>\d+)", re.DOTALL)


@dataclass(frozen=True)
class FoundImages:
    """The column that names the images, and `dataset.image_path`."""

    column: str
    template: str
    example: str

    @property
    def reason(self) -> str:
        """Why the template is right, for a comment."""
        return f"so that the images are found: {self.example}"


def find_image_path(columns: Sequence[Column], records: Sequence[Mapping[str, Any]], root: Path) -> FoundImages | None:
    """The column whose values lead to images on disk by one template; None if there is none.

    Args:
        columns: what the records hold.
        records: the first of the dataset.
        root: folder of the dataset.

    Raises:
        Undecided: there are several.
    """
    by_stem = Folder(root).by_stem
    if not by_stem:
        return None
    images = [column for column in columns if column.kind == "image"]
    others = sorted((column for column in columns if column.kind in ("text", "number")), key=lambda each: each.kind)
    named = [[column for column in others if any(word in column.name.lower() for word in words)] for words in TELLING]
    for group in (images, *named, [column for column in others if column not in (*named[0], *named[1])]):
        found = [each for column in group for each in _templates(column.name, records, by_stem)]
        if len(found) == 1:
            return found[0]
        if found:
            options = [
                Option(f"as {each.example}", (f"dataset.image={each.column}", f"dataset.image_path={each.template}"))
                for each in found[:MAX_OPTIONS]
            ]
            raise Undecided("the images of the rows can be found in several ways.", options)
    return None


def are_complete(columns: Sequence[Column], root: Path) -> bool:
    """Whether some column holds images, or paths of files that are there."""
    return any(_is_complete(column, root) for column in columns)


def outside_folder(columns: Sequence[Column], root: Path) -> str | None:
    """The folder outside of `root` in which the images lie, by absolute paths or links; None if they lie inside."""
    real = Path(os.path.realpath(root))
    for column in columns:
        paths = [Path(root, value) for value in _texts(column) if column.kind in ("image", "images")]
        found = [Path(os.path.realpath(path)) for path in paths if path.is_file()]
        folders = [str(path.parent) for path in found if not path.is_relative_to(real)]
        if folders:
            return os.path.commonpath(folders)
    return None


def _texts(column: Column) -> list[str]:
    return [value for value in column.texts if isinstance(value, str) and "\0" not in value and len(value) < 1024]


def _is_complete(column: Column, root: Path) -> bool:
    """Whether a column holds images, or paths of files that are there."""
    if column.kind not in ("image", "images"):
        return False
    texts = _texts(column)
    places = (root, root.parent, root.parent.parent)
    is_there = any((place / text).is_file() for text in texts[:5] for place in places)
    return not texts or is_there or any(text.startswith("data:") or is_base64(text) for text in texts[:5])


def _templates(
    column: str, records: Sequence[Mapping[str, Any]], by_stem: Mapping[str, list[str]]
) -> Iterator[FoundImages]:
    """The templates that lead to the images of most records, if several with equal right."""
    values = [record[column] for record in records if record.get(column) not in (None, "")]
    values = [value for value in values if isinstance(value, str | int) and not isinstance(value, bool)]
    numbers = _by_number(by_stem)
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for record, value in ((record, record.get(column)) for record in records):
        if isinstance(value, str | int) and not isinstance(value, bool):
            for template, path in dict(_matches(record, value, by_stem, numbers)).items():
                counts[template] += 1
                examples.setdefault(template, path)
    best = max(counts.values(), default=0)
    if values and best >= MOST * len(values):
        fit = [template for template, count in counts.items() if count == best]
        fields = max(template.count("{") for template in fit)  # {split}/{file} rather than train/{file}
        for template in sorted(template for template in fit if template.count("{") == fields):
            yield FoundImages(column, template, examples[template])


def _by_number(by_stem: Mapping[str, list[str]]) -> dict[int, list[str]]:
    """Images by the number at the end of their names, where zeros were put before it."""
    numbers: dict[int, list[str]] = {}
    for stem, paths in by_stem.items():
        match = _NUMBER.fullmatch(stem)
        if match and len(match["digits"]) < 19:
            numbers.setdefault(int(match["digits"]), []).extend(paths)
    return numbers


def _matches(
    record: Mapping[str, Any], value: str | int, by_stem: Mapping[str, list[str]], numbers: Mapping[int, list[str]]
) -> Iterator[tuple[str, str]]:
    """(template, path) of the images that a value may mean."""
    text = str(value).strip().replace("\\", "/")
    written = PurePosixPath(text)
    for path in (*by_stem.get(written.stem, ()), *(by_stem.get(written.name, ()) if written.suffix else ())):
        image = PurePosixPath(path)
        if path == text or path.endswith(f"/{text}"):
            yield from _in_folders(path[: -len(text)], "{file}", record, path)
        elif image.name == written.name:
            yield from _in_folders(path[: -len(image.name)], "{file:name}", record, path)
        elif path.removesuffix(image.suffix).endswith(text):
            before = path[: len(path) - len(image.suffix) - len(text)]
            yield from _in_folders(before, "{file}" + image.suffix, record, path)
        elif image.stem in (written.stem, written.name):
            field = "{file:stem}" if image.stem == written.stem and written.suffix else "{file:name}"
            yield from _in_folders(path[: -len(image.name)], field + image.suffix, record, path)
    if text.isascii() and text.isdigit() and len(text) < 19 and text not in by_stem:
        for path in numbers.get(int(text), ()):
            image = PurePosixPath(path)
            match = _NUMBER.fullmatch(image.stem)
            assert match is not None
            width = len(match["digits"])
            field = (f"{{file:0{width}d}}" if width > 1 else "{file}") + image.suffix
            yield from _in_folders(path[: -len(image.name)] + match["before"], field, record, path)


def _in_folders(before: str, field: str, record: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    """(template, path) for the beginning of a path; also with the folders that another column names: `{split}/`."""
    yield _escaped(before) + field, path
    folder, slash, rest = before.rpartition("/")
    names = {str(value): column for column, value in record.items() if isinstance(value, str) and column.isidentifier()}
    parts = [f"{{{names[part]}}}" if part in names else _escaped(part) for part in folder.split("/")]
    yield "/".join(parts) + slash + _escaped(rest) + field, path


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
