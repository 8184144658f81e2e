"""The videos of a row: in a column of their own, or where its messages name them."""

from collections.abc import Callable
from typing import Any

from vlmtune.data import _values
from vlmtune.data._contract import DatasetConfig
from vlmtune.data._image_paths import FILE, fill
from vlmtune.data._messages import image_values
from vlmtune.data._records import Record
from vlmtune.errors import EmptyField
from vlmtune.types import Conversation, ImageRef, VideoRef
from vlmtune.videos import FILE_ENDINGS


def video_values(config: DatasetConfig, record: Record, column: Callable[[str], Any], at: str) -> list[tuple[Any, str]]:
    """The videos of a row as stored, each with its location for messages.

    Args:
        config: names the columns.
        record: the row.
        column: its value of a column, which it must have.
        at: where the row is.

    Raises:
        DataError: there is no such column, or nothing in it.
    """
    if config.messages is not None:
        value = _values.structured(record.get(config.videos)) if config.videos is not None else None
        own = value if isinstance(value, list) else [] if value in (None, "") else [value]
        found = image_values(_values.structured(record.get(config.messages)), own, videos=True)
        return [(_values.structured(value), f"{at}, video {n}") for n, value in enumerate(found)]
    if config.video is None:
        return []
    where, value = f"{at}, column {config.video!r}", _values.structured(column(config.video))
    if value in (None, "", []):
        raise EmptyField(f"{where} is empty; repair or remove the row", config.video)
    if config.image_path is not None and not isinstance(value, list):
        return [(fill(config.image_path, {FILE: value, **record}, at), where)]
    if isinstance(value, list) and all(isinstance(one, str) and one.lower().endswith(FILE_ENDINGS) for one in value):
        return [(one, f"{where}, video {n}") for n, one in enumerate(value)]
    return [(value, where)]


def as_seen(images: tuple[ImageRef, ...], conversation: Conversation) -> tuple[ImageRef, ...]:
    """The images and videos of a row in the order in which the model sees them."""
    if not any(isinstance(image, VideoRef) for image in images):
        return images
    return tuple(part for message in conversation for part in message.content if isinstance(part, ImageRef))
