"""Readers of annotation files as public datasets and labelling tools write them. Each yields rows of one shape."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from vlmtune.boxes import Corners, Unit
from vlmtune.data._annotations import captions, coco, karpathy, vqa
from vlmtune.data._annotations.folder import Folder, Row

Format = Literal["coco", "vqa", "karpathy", "captions"]

READERS: Mapping[Format, Callable[[Path, Folder], Iterator[Row]]] = {
    "coco": coco.read,
    "vqa": vqa.read,
    "karpathy": karpathy.read,
    "captions": captions.read,
}
"""Reads the file or folder of a split, in a fixed order."""

FOLDERS: frozenset[Format] = frozenset()
"""Formats in which a split is a folder, with one file of annotations per image."""

BOXES: Mapping[Format, tuple[Unit, Corners]] = {"coco": ("pixels", "xywh")}
"""Unit and corners of boxes, as `task.unit` and `task.corners` name them."""

__all__ = ["BOXES", "FOLDERS", "READERS", "Folder", "Format", "Row"]
