"""Pictures drawn for layouts of datasets, and files of rows about them.

Every picture shows coloured shapes, so that no two resemble each other, and every text says what its picture shows.
"""

import csv
import io
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

COUNT = 60
SIZE = (160, 120)
COLORS = ("red", "green", "blue", "orange", "purple", "black", "brown", "teal")


@dataclass(frozen=True)
class Layout:
    """A layout: `write` fills a folder, `found` are keys of the config that `init` must write.

    `answer` are the settings of the option to choose where `init` must ask; empty where it must not. In them, "{place}"
    is the folder above.
    """

    name: str
    write: Callable[[Path], None]
    found: Mapping[str, Any]
    answer: Sequence[str] = ()


@dataclass
class Drawn:
    """A picture and what it shows."""

    image: Image.Image
    colors: list[str] = field(default_factory=list)
    boxes: list[tuple[int, int, int, int]] = field(default_factory=list)

    @property
    def caption(self) -> str:
        """A sentence about the picture."""
        return f"{len(self.colors)} shapes: {' and '.join(self.colors)}."


def draw(number: int, size: tuple[int, int] = SIZE) -> Drawn:
    """The `number`-th picture: two to five ellipses and rectangles on a light ground."""
    rng = random.Random(number)
    width, height = size
    ground = tuple(rng.randint(180, 255) for _ in range(3))
    drawn = Drawn(Image.new("RGB", size, ground))
    pen = ImageDraw.Draw(drawn.image)
    for color in rng.sample(COLORS, rng.randint(2, 5)):
        left, top = rng.randint(0, width * 3 // 4), rng.randint(0, height * 3 // 4)
        box = (left, top, min(width - 1, left + rng.randint(20, 60)), min(height - 1, top + rng.randint(20, 60)))
        (pen.ellipse if rng.random() < 0.5 else pen.rectangle)(box, fill=color)
        drawn.colors.append(color)
        drawn.boxes.append(box)
    return drawn


def pictures(folder: Path, count: int = COUNT, size: tuple[int, int] = SIZE, name: str = "{:03}.jpg") -> list[Drawn]:
    """Draw and save pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [draw(number, size) for number in range(count)]
    for number, each in enumerate(drawn):
        each.image.save(folder / name.format(number))
    return drawn


def json_lines(file: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write one object per line."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def table(file: Path, header: Sequence[str], rows: Sequence[Sequence[Any]], mark: str = ",") -> None:
    """Write a table of text."""
    text = io.StringIO()
    csv.writer(text, delimiter=mark).writerows([header, *rows])
    file.write_text(text.getvalue(), encoding="utf-8")


def lines(record: Callable[[int, Drawn], Mapping[str, Any]], name: str = "rows.jsonl") -> Callable[[Path], None]:
    """A layout of JSON lines beside a folder of pictures."""

    def write(folder: Path) -> None:
        drawn = pictures(folder / "pics")
        rows = [{"image": f"pics/{n:03}.jpg", **record(n, each)} for n, each in enumerate(drawn)]
        json_lines(folder / name, [{key: value for key, value in row.items() if value is not None} for row in rows])

    return write


def lines_of(records: Callable[[int, Drawn], Sequence[Mapping[str, Any]]]) -> Callable[[Path], None]:
    """A layout of JSON lines, several for each picture."""

    def write(folder: Path) -> None:
        drawn = pictures(folder / "pics")
        rows = [{"image": f"pics/{n:03}.jpg", **each} for n, one in enumerate(drawn) for each in records(n, one)]
        json_lines(folder / "rows.jsonl", rows)

    return write


def box_rows(folder: Path) -> None:
    """A table of boxes in a folder beside that of the images."""
    drawn = pictures(folder / "images")
    (folder / "data").mkdir()
    rows = [
        [f"{n:03}.jpg", *SIZE, color, *box]
        for n, each in enumerate(drawn)
        for color, box in zip(each.colors, each.boxes, strict=True)
    ]
    table(
        folder / "data" / "labels.csv", ["filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax"], rows
    )


def elsewhere(folder: Path) -> None:
    """Images behind a link to a folder outside of the dataset's."""
    drawn = pictures(folder.parent / "elsewhere")
    folder.mkdir()
    (folder / "pics").symlink_to(folder.parent / "elsewhere")
    json_lines(
        folder / "rows.jsonl", [{"image": f"pics/{n:03}.jpg", "caption": d.caption} for n, d in enumerate(drawn)]
    )


def cells(
    header: Sequence[str], record: Callable[[int, Drawn], Sequence[Any]], name: str = "rows.csv", mark: str = ","
) -> Callable[[Path], None]:
    """A layout of a table beside a folder of pictures."""

    def write(folder: Path) -> None:
        drawn = pictures(folder / "pics")
        table(folder / name, header, [record(n, each) for n, each in enumerate(drawn)], mark)

    return write
