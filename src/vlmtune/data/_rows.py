"""Records of a source as examples: columns mapped to roles, ids, fingerprint, the target of a visit."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from vlmtune.data import DatasetConfig
from vlmtune.data._turns import read_turns
from vlmtune.errors import DataError
from vlmtune.types import Example, ImageRef

Record = Mapping[str, Any]
OpenImage = Callable[[Any, str], ImageRef]
"""(value of an image column, where it stands) -> reference."""


class MappedRows:
    """Rows over `count` records.

    `record(i)` reads one record; image values stay as the source has them and become references through `open_image`.

    Raises:
        DataError: no rows, a missing column, a text that is not text, an id given twice.
    """

    def __init__(
        self,
        config: DatasetConfig,
        where: str,
        count: int,
        record: Callable[[int], Record],
        open_image: OpenImage,
    ) -> None:
        if count == 0:
            raise DataError(f"{where}: no rows; check dataset.splits and dataset.limit")
        self._config = config
        self._where = where
        self._count = count
        self._record = record
        self._open_image = open_image
        first = self._record(0)
        for key, column in _columns(config):
            if column not in first:
                raise DataError(f"{where}: dataset.{key} names column {column!r}; there are: {', '.join(first)}")
        self._ids = self._all_ids()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(self._count))

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self._count:
            raise IndexError(index)
        return self._example(index)

    @property
    def fingerprint(self) -> str:
        """Hash of ids, texts and image names of all rows."""
        digest = hashlib.sha256()
        for index in range(self._count):
            digest.update(self._content(index, self._ids[index]).encode())
        return digest.hexdigest()

    def choices(self, index: int) -> int:
        """Number of training targets of a row."""
        return len(self._references(index)) if self._config.target in ("each", "sample") else 1

    def taught(self, index: int, choice: int) -> Example:
        """Row `index` with its `choice`-th target."""
        example = self[index]
        if self._config.target not in ("each", "sample"):
            return example
        return replace(example, target=example.truth["references"][choice])

    def _at(self, index: int) -> str:
        return f"{self._where}, row {index}"

    def _all_ids(self) -> list[str]:
        if self._config.id is not None:
            ids = [str(self._record(index)[self._config.id]) for index in range(self._count)]
            twice = next((name for name, n in Counter(ids).items() if n > 1), None)
            if twice is not None:
                rows = [index for index, name in enumerate(ids) if name == twice]
                raise DataError(f"{self._where}: id {twice!r} stands in rows {rows[0]} and {rows[1]}; ids must differ")
            return ids
        seen: Counter[str] = Counter()
        ids = []
        for index in range(self._count):
            name = hashlib.sha256(self._content(index, "").encode()).hexdigest()[:16]
            seen[name] += 1
            ids.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
        return ids

    def _content(self, index: int, name: str) -> str:
        record = self._record(index)
        return json.dumps([name, *(_identity(record[column]) for _, column in _columns(self._config))])

    def _references(self, index: int) -> list[str]:
        record = self._record(index)
        texts: list[str] = []
        for column in self._config.references:
            value = record[column]
            for text in value if isinstance(value, list | tuple) else [value]:
                texts.append(_text(text, column, self._at(index)))
        return texts

    def _images(self, record: Record, index: int) -> tuple[ImageRef, ...]:
        columns = [self._config.image] if isinstance(self._config.image, str) else self._config.image or []
        if self._config.images is not None:
            values = record[self._config.images] or []
            return tuple(self._open_image(value, f"{self._at(index)}, image {n}") for n, value in enumerate(values))
        return tuple(self._open_image(record[c], f"{self._at(index)}, column {c!r}") for c in columns)

    def _example(self, index: int) -> Example:
        config, record, at = self._config, self._record(index), self._at(index)
        images = self._images(record, index)
        references, turns, target = self._references(index), None, None
        if config.messages is not None:
            turns, target = read_turns(record[config.messages], images, at)
            references = references or ([target] if target is not None else [])
        if config.target in ("each", "sample") or (config.target is None and config.messages is None):
            target = references[0] if references else None
        elif config.target is not None:
            target = _text(record[config.target], config.target, at)
        truth: dict[str, Any] = {"references": references}
        if config.keywords is not None:
            truth["keywords"] = list(record[config.keywords])
        return Example(
            id=self._ids[index],
            images=images,
            target=target,
            truth=truth,
            cluster=str(record[config.group]) if config.group else self._ids[index],
            question=_text(record[config.question], config.question, at) if config.question else None,
            turns=turns,
            meta={column: record[column] for column in config.meta},
        )


def _columns(config: DatasetConfig) -> list[tuple[str, str]]:
    """(config key, column) of every column the config names; image columns only where no conversation has its own."""
    named: list[tuple[str, str]] = []
    if config.images is None:
        images = [config.image] if isinstance(config.image, str) else config.image or []
        named += [("image", column) for column in images]
    named += [("references", column) for column in config.references]
    if config.target not in (None, "each", "sample"):
        named.append(("target", str(config.target)))
    for key in ("question", "keywords", "messages", "images", "id", "group"):
        if (column := getattr(config, key)) is not None:
            named.append((key, column))
    return named + [("meta", column) for column in config.meta]


def _identity(value: Any) -> Any:
    """What stands for a value in a fingerprint: bytes by their hash, an undecoded Hub image by its bytes or path."""
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, Mapping):
        return {key: _identity(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_identity(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _text(value: Any, column: str, at: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{at}: column {column!r} must hold text (got {type(value).__name__})")
    if "\0" in value:
        raise DataError(f"{at}: column {column!r} holds a NUL character; repair the row")
    if not value.isprintable() and any("\ud800" <= char <= "\udfff" for char in value):
        raise DataError(f"{at}: column {column!r} holds half a surrogate pair, which is no character; repair the row")
    if not value.strip():
        raise DataError(f"{at}: column {column!r} is empty; repair or remove the row")
    return value
