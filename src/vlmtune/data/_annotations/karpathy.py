"""Karpathy's JSON of Flickr8k, Flickr30k and COCO: images with split and sentences.

https://cs.stanford.edu/people/karpathy/deepimagesent/
"""

from collections.abc import Iterator
from pathlib import Path

from vlmtune.data._annotations.folder import Folder, Row, entries, read_json, text_of
from vlmtune.errors import DataError


def read(file: Path, folder: Folder) -> Iterator[Row]:
    """One row per image with all its sentences."""
    name = folder.name(file)
    for number, image in enumerate(entries(read_json(file), "images", file, "Karpathy's files")):
        where = f"{name}, image {number}"
        try:
            path = text_of(image, "filename", where)
            inside = image.get("filepath")
            sentences = entries(image, "sentences", file, "Karpathy's images")
            row = Row(
                where=where,
                id=path,
                image=folder.image(f"{inside}/{path}" if isinstance(inside, str) and inside else path),
                references=[text_of(each, "raw", where).strip() for each in sentences],
            )
            if "split" in image:
                row["split"] = text_of(image, "split", where)
        except DataError as error:
            row = Row(where=where, problem=str(error))
        yield row
