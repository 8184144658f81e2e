"""The records of a split as a source stores them, before columns are mapped to roles."""

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vlmtune.errors import DataError
from vlmtune.types import ImageRef, VideoRef

Record = Mapping[str, Any]
ReadRecord = Callable[[int], Record]


MAX_NAMES = 12
"""Columns that a message lists."""


def names_text(names: Iterable[Any], wanted: str = "") -> str:
    """Names of columns for a message: those most like the wanted one first, and how many more there are."""
    texts = [str(name)[:60] for name in names]
    near = difflib.get_close_matches(wanted, texts[:5000], MAX_NAMES)
    ordered = list(dict.fromkeys([*near, *texts]))
    more = f" and {len(ordered) - MAX_NAMES:,} more" if len(ordered) > MAX_NAMES else ""
    return (", ".join(ordered[:MAX_NAMES]) or "nothing") + more


def _no_file(value: Any) -> None:
    """Every image value is the image itself."""


def _one_page(value: Any, where: str) -> list[Any]:
    """No image value is a document."""
    return [value]


def _no_video(value: Any, where: str, rate: float) -> VideoRef:
    """A source without videos."""
    raise DataError(f"{where}: this source does not read videos; use jsonl, table, hub, imagefolder or webdataset")


def _no_files(value: Any) -> list[str]:
    """Every video value is the video itself."""
    return []


@dataclass(frozen=True, slots=True)
class Records:
    """The records of a split as the source stores them.

    Attributes:
        where: names the split in messages.
        count: number of records.
        read: reads one record. Image values stay as stored, without the location of the dataset on this machine, so
            that content hashes are the same on every machine.
        open_image: turns an image value into a reference whose `where` begins with the given one.
        image_file: the file that an image value points to; None where the value itself is the image.
        select: a cheaper `read` of some columns only; None where the source has none.
        class_names: names of the classes, for columns that come with a list of them.
        locate: names a record by index in messages; None for `where` and the index.
        pages: the image values of the pages, where a value is a document; given also its location for messages.
        open_video: as `open_image`, for a value of a video and the rate of its frames, if it is a list of them.
        video_files: the files that a video value points to.
        place: file and line of a record by index; None where there are no lines.
    """

    where: str
    count: int
    read: ReadRecord
    open_image: Callable[[Any, str], ImageRef]
    image_file: Callable[[Any], str | None] = _no_file
    select: Callable[[list[str]], ReadRecord] | None = None
    class_names: Mapping[str, list[str]] = field(default_factory=dict)
    locate: Callable[[int], str] | None = None
    pages: Callable[[Any, str], list[Any]] = _one_page
    place: Callable[[int], str] | None = None
    open_video: Callable[[Any, str, float], VideoRef] = _no_video
    video_files: Callable[[Any], list[str]] = _no_files
