"""Readers of annotation files as public datasets and labelling tools write them. Each yields rows of one shape."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from vlmtune.boxes import Corners, Unit
from vlmtune.data._annotations import captions, coco, karpathy, per_image, tools, vqa
from vlmtune.data._annotations.folder import Folder, Row
from vlmtune.data._annotations.per_image import label_files, text_files

Format = Literal["coco", "vqa", "karpathy", "captions", "yolo", "voc", "sidecar", "label_studio", "cvat"]

READERS: Mapping[Format, Callable[[Path, Folder], Iterator[Row]]] = {
    "coco": coco.read,
    "vqa": vqa.read,
    "karpathy": karpathy.read,
    "captions": captions.read,
    "yolo": per_image.read_yolo,
    "voc": per_image.read_voc,
    "sidecar": per_image.read_sidecar,
    "label_studio": tools.read_label_studio,
    "cvat": tools.read_cvat,
}
"""Reads the file or folder of a split, in a fixed order."""

FOLDERS: frozenset[Format] = frozenset(("yolo", "voc", "sidecar"))
"""Formats in which a split is a folder, with one file of annotations per image."""

BOXES: Mapping[Format, tuple[Unit, Corners]] = {
    "coco": ("pixels", "xywh"),
    "voc": ("pixels", "xyxy"),
    "cvat": ("pixels", "xyxy"),
    "yolo": ("unit", "xyxy"),
    "label_studio": ("unit", "xyxy"),
}
"""Unit and corners of boxes, as `task.unit` and `task.corners` name them."""

__all__ = ["BOXES", "FOLDERS", "READERS", "Folder", "Format", "Row", "label_files", "text_files"]
