"""Files with an image and a text per line, as Flickr8k, Flickr30k and sets of text lines come.

    image,caption                                    Kaggle's Flickr8k: captions.txt
    1000268201_693b08cb0e.jpg,A child, climbing .

    image_name| comment_number| comment              Flickr30k: results.csv
    1000092795.jpg| 0| Two young men .

    1000268201_693b08cb0e.jpg#0	A child .            Flickr8k.token.txt, split by Flickr_8k.trainImages.txt
    words/1.png	Hello                                labels.txt, also with a comma or one space

Lines of one image become one row with all its texts, where its first line is.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from vlmtune.data._annotations.folder import Folder, Row
from vlmtune.data._image_refs import ENDINGS, IMAGE_COLUMNS
from vlmtune.data._text import read_text
from vlmtune.errors import DataError

_TOKEN = re.compile(r"(?P<image>.+?\.\w{3,4})(?:\.\d+)?#(?P<number>\d+)", re.ASCII)
"""The first column of Flickr8k.token.txt, which writes one image as x.jpg.1."""

_NUMBER = re.compile(r"\s*\d+\s+(?=\S)")
"""A number whose "|" is missing, as in one line of Flickr30k."""


def read(file: Path, folder: Folder) -> Iterator[Row]:
    """One row per image."""
    name, texts, lines = folder.name(file), dict[str, list[str]](), dict[str, int]()
    bad: list[Row] = []
    numbered = [(n, line) for n, line in enumerate(read_text(file).split("\n"), start=1) if line.strip()]
    separator, has_header, columns = _layout(numbered, file)
    for number, line in numbered[has_header:]:
        pair = _pair(line, separator, columns)
        if pair is None:
            reason = f"needs the name of an image and a text, separated by {separator!r} (got {line!r:.60})"
            bad.append(Row(where=f"{name}:{number}", problem=f"{file}:{number}: {reason}"))
            continue
        texts.setdefault(pair[0], []).append(pair[1])
        lines.setdefault(pair[0], number)
    splits = folder.listed_splits
    for image, captions in texts.items():
        row = Row(where=f"{name}:{lines[image]}", id=image, image=folder.image(image), references=captions)
        if splits and (split := splits.get(Path(image).name)) is not None:
            row["split"] = split
        yield row
    yield from bad


def _layout(lines: list[tuple[int, str]], file: Path) -> tuple[str, bool, int]:
    """(separator, whether there is a header, number of columns)."""
    if not lines:
        raise DataError(f"{file}: the file is empty; check dataset.splits")
    first = lines[0][1]
    for separator in ("|", "\t", ",", ";"):
        head = [part.strip().strip('"').lower() for part in first.split(separator)]
        if len(head) > 1 and head[0] in IMAGE_COLUMNS:
            return separator, True, len(head)
    for separator in ("\t", "|", ",", ";", " "):
        name = first.partition(separator)[0].strip().strip('"')
        if separator in first and (name.lower().endswith(ENDINGS) or _TOKEN.fullmatch(name)):
            return separator, False, 2
    raise DataError(
        f"{file}:{lines[0][0]}: needs the name of an image, a separator (tab, comma, |) and a text on every line "
        f"(got {first!r:.60}). Check dataset.format and dataset.splits"
    )


def _pair(line: str, separator: str, columns: int) -> tuple[str, str] | None:
    """(image, text) of a line; the text is all that follows, so that it may contain the separator."""
    image, *others = line.split(separator, columns - 1)
    if len(others) == columns - 2 and others and (number := _NUMBER.match(others[-1])):
        others.append(others[-1][number.end() :])
    text = _unquoted(others[-1].strip()) if len(others) == columns - 1 else ""
    token = _TOKEN.fullmatch(image.strip())
    image = token["image"] if token else _unquoted(image.strip())
    return (image, text) if image and text else None


def _unquoted(text: str) -> str:
    is_quoted = len(text) > 1 and text.startswith('"') and text.endswith('"')
    return text[1:-1].replace('""', '"').strip() if is_quoted else text
