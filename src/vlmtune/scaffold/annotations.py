"""Recognizes annotation files of public datasets and labelling tools by their content."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from vlmtune import registry
from vlmtune.data import IMAGE_ENDINGS

PEEKED_BYTES = 1 << 16
LARGEST = 1 << 31
"""Bytes of the largest JSON file that is parsed to recognize it."""

_ENDINGS = "|".join(map(re.escape, IMAGE_ENDINGS))
_NAME = re.compile(rf"""[^"',;\t\n|:\[\]{{}}]+(?:{_ENDINGS})(?=["',;\t\n|\r#]|$)""", re.IGNORECASE)
_LINE = re.compile(
    rf"""(?P<image>"?[^\t|,;\n]+(?:{_ENDINGS})(?:\.\d+)?(?:#\d+)?"?)\s*(?P<separator>[\t|,; ])""", re.IGNORECASE
)
_TEXT_FILES = (".txt", ".token", ".csv", ".tsv")


def known_formats() -> Sequence[str]:
    """Formats that the source `annotations` reads."""
    return get_args(registry.load("data", "annotations").Config.model_fields["format"].annotation)


def recognize(file: Path) -> str | None:
    """The format of an annotation file; None if it has none of them."""
    found = _json_format(file) if file.suffix.lower() == ".json" else None
    if found is None and file.suffix.lower() in _TEXT_FILES and _is_captions(file):
        found = "captions"
    return found if found in known_formats() else None


def annotation_files(folder: Path) -> Iterator[tuple[Path, str]]:
    """(file, format) of the annotation files in a folder and those directly below it, sorted by name."""
    inside = sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))
    for place in (folder, *inside):
        for file in sorted(place.iterdir()):
            if file.is_file() and (found := recognize(file)) is not None:
                yield file, found


def head(file: Path) -> str:
    """The first characters of a text file, in UTF-8 or UTF-16."""
    with file.open("rb") as stream:
        data = stream.read(PEEKED_BYTES)
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    return data.decode(encoding, "replace")


def image_names(file: Path) -> list[str]:
    """Names of images in the first lines of a file."""
    return [name.strip() for name in _NAME.findall(head(file))]


def _json_format(file: Path) -> str | None:
    """The format of a JSON object by its keys."""
    if not head(file).lstrip().startswith("{") or file.stat().st_size > LARGEST:
        return None
    try:
        value = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return None
    keys = value if isinstance(value, dict) else {}
    tests = {
        "vqa": _has(keys, "questions", "question_id"),
        "karpathy": _has(keys, "images", "sentences"),
        "coco": _has(keys, "images", "file_name") and "annotations" in keys,
    }
    return next((name for name, fits in tests.items() if fits), None)


def _has(value: dict[str, Any], key: str, inner: str) -> bool:
    """Whether a list of objects with some key stands under a key."""
    items = value.get(key)
    return isinstance(items, list) and bool(items) and isinstance(items[0], dict) and inner in items[0]


def _is_captions(file: Path) -> bool:
    """Whether lines are the name of an image and a text, and either no table would read them or images repeat."""
    lines = [line for line in head(file).splitlines()[:-1] if line.strip()] or head(file).splitlines()
    matches = [match for line in lines[1:] if (match := _LINE.match(line)) is not None]
    if not matches or len(matches) < len(lines) - 1:
        return False
    if file.suffix.lower() in (".txt", ".token"):
        return True
    names = [match["image"] for match in matches]
    columns = len(lines[0].split(matches[0]["separator"]))
    return (matches[0]["separator"] == "|" or len(set(names)) < len(names)) and columns <= 3
