"""Recognizes annotations of public datasets and labelling tools by their content."""

import mmap
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from vlmtune import registry
from vlmtune.data import IMAGE_ENDINGS, Folder, ending, head, label_files, text_files

SAMPLE = 20
"""Images and files of annotations that are looked at to recognize a format with one file per image."""

MOST = 0.9
"""Fraction of the images that have a file of their own, from which it holds their texts."""

_ENDINGS = "|".join(map(re.escape, IMAGE_ENDINGS))
_NAME = re.compile(rf"""[^"',;\t\n|:\[\]{{}}]+(?:{_ENDINGS})(?=["',;\t\n|\r#]|$)""", re.IGNORECASE)
_LINE = re.compile(
    rf"""(?P<image>"?[^\t|,;\n]+(?:{_ENDINGS})(?:\.\d+)?(?:#\d+)?"?)\s*(?P<separator>[\t|,; ])""", re.IGNORECASE
)
_TEXT_FILES = (".txt", ".token", ".csv", ".tsv")


def _list_of(key: str, inner: str) -> "re.Pattern[bytes]":
    """Matches a list of objects that have a key among those before the first object inside of them."""
    return re.compile(rb'"%s"\s*:\s*\[\s*\{[^{}]*"(?:%s)"\s*:' % (key.encode(), inner.encode()))


_FORMATS = {
    "vqa": [_list_of("questions", "question_id")],
    "karpathy": [_list_of("images", "sentences|sentids")],
    "coco": [_list_of("images", "file_name"), re.compile(rb'"annotations"\s*:\s*\[')],
}
"""Formats of JSON objects, by what occurs in them."""

_LABEL_STUDIO = re.compile(
    r'\[\s*\{(?:(?=.{0,20000}?"annotations"\s*:\s*\[)(?=.{0,20000}?"data"\s*:\s*\{)|.{0,20000}?"(?:annotation_id|lead_time)"\s*:)',
    re.DOTALL,
)
"""A list of tasks with annotations and data, or in JSON-MIN with the keys that it adds."""


def known_formats() -> Sequence[str]:
    """Formats that the source `annotations` reads."""
    return get_args(registry.load("data", "annotations").Config.model_fields["format"].annotation)


def recognize(file: Path) -> str | None:
    """The format of an annotation file; None if it has none of them."""
    suffix, found = ending(file), None
    if suffix == ".json":
        found = _json_format(file)
    elif suffix == ".xml":
        found = "cvat" if re.search(r"<annotations\b.*<(?:image|meta)\b", head(file), re.DOTALL) else None
    elif suffix in _TEXT_FILES and _is_captions(file):
        found = "captions"
    return found if found in known_formats() else None


def annotation_files(folder: Path) -> Iterator[tuple[Path, str]]:
    """(file, format) of the annotation files in a folder and those directly below it, sorted by name."""
    inside = sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))
    for place in (folder, *inside):
        for file in sorted(place.iterdir()):
            if file.is_file() and (found := recognize(file)) is not None:
                yield file, found


def image_names(file: Path) -> list[str]:
    """Names of images in the first lines of a file."""
    return [name.strip() for name in _NAME.findall(head(file))]


@dataclass(frozen=True)
class PerImage:
    """A format with one file per image.

    Attributes:
        format: its name.
        paths: of the images, or for VOC of the files.
        sidecars: patterns that select the texts, one for each kind of file that all images have.
        texts: the sampled texts.
    """

    format: str
    paths: Sequence[str]
    sidecars: Sequence[str] = ()
    texts: Sequence[str] = ()


def per_image_format(folder: Folder) -> PerImage | None:
    """The format of the files beside images or in a sister folder; None if there are none."""
    known, images = set(folder.files), _spread(folder.shown)
    xml = [path for path in folder.files if path.lower().endswith(".xml")]
    if xml and all("<annotation>" in head(folder.root / path) for path in _spread(xml)):
        return PerImage("voc", xml)
    labels = [next((path for path in label_files(image) if path in known), None) for image in images]
    found = [path for path in labels if path is not None]
    if found and all(map(_is_yolo, (folder.root / path for path in found))):
        return PerImage("yolo", folder.images)
    texts = text_files(folder)
    kinds = Counter(kind for image in images for kind in {_kind(path) for path in texts.get(Path(image).stem, [])})
    fit = [kind for kind, count in kinds.items() if count >= MOST * len(images)]
    if not images or not fit:
        return None
    sampled = [path for image in images for path in texts.get(Path(image).stem, [])]
    return PerImage("sidecar", folder.shown, sorted(fit), sampled)


def _spread(paths: Sequence[str]) -> Sequence[str]:
    return paths[:: max(1, len(paths) // SAMPLE)]


def _kind(path: str) -> str:
    """A pattern for the files that lie where this one does and end as it does."""
    top, _, _ = path.rpartition("/")[0].partition("/")
    name = path.rpartition("/")[2]
    return f"{top}/*{name[name.index('.') :]}" if top else f"*{name[name.index('.') :]}"


def _is_yolo(file: Path) -> bool:
    lines = [line.split() for line in head(file).split("\n") if line.strip()]
    return all(len(parts) >= 5 and all(map(_is_number, parts)) and parts[0].isdigit() for parts in lines)


def _is_number(text: str) -> bool:
    try:
        return float(text) < float("inf")
    except ValueError:
        return False


def _json_format(file: Path) -> str | None:
    """The format of a JSON file by keys of its objects, which are searched for without parsing it."""
    text = head(file).lstrip()
    if text.startswith("["):
        return "label_studio" if _LABEL_STUDIO.match(text) else None
    if not text.startswith("{") or file.suffix.lower() != ".json":
        return None
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return next((name for name, keys in _FORMATS.items() if all(key.search(data) for key in keys)), None)


def _is_captions(file: Path) -> bool:
    """Whether lines are the name of an image and a text, and either no table would read them or images repeat."""
    text = head(file).split("\n")
    lines = [line for line in text[:-1] if line.strip()] or text
    matches = [match for line in lines[1:] if (match := _LINE.match(line)) is not None]
    if not matches or len(matches) < len(lines) - 1:
        return False
    if ending(file) in (".txt", ".token"):
        return True
    names = [match["image"] for match in matches]
    columns = len(lines[0].split(matches[0]["separator"]))
    has_no_header = _LINE.match(lines[0]) is not None and columns == 2
    return has_no_header or ((matches[0]["separator"] == "|" or len(set(names)) < len(names)) and columns <= 3)
