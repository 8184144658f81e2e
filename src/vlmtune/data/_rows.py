"""Records of a source as examples: columns mapped to roles, ids, fingerprint, the target of a visit.

What is kept of every row of a split: text and hashes in a few pieces of memory, not an object for each.

Rows that belong together: those of one group or picture, and those that others join to them.
"""

import functools
import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

from vlmtune.data import _values
from vlmtune.data._contract import DatasetConfig
from vlmtune.data._image_refs import stamp
from vlmtune.data._messages import read_question, read_turns, refuse_videos
from vlmtune.errors import DataError
from vlmtune.types import Example, ImageRef

DIGEST_BYTES = 32


class Texts(Sequence[str]):
    """Many short texts; each costs its bytes in UTF-8 and eight more."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._bytes, self._ends = bytearray(), array("q")
        for text in texts:
            self.append(text)

    def append(self, text: str) -> None:
        """One more at the end."""
        self._bytes += text.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[n] for n in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        begin = self._ends[number - 1] if number else 0
        return self._bytes[begin : self._ends[number]].decode("utf-8", "surrogatepass")


class Contents:
    """Of every row the hash of what it holds, the image files it names, and its value of the id column."""

    def __init__(self) -> None:
        self._digests, self._files, self.ids = bytearray(), Texts(), Texts()
        self._folders: list[str] = []
        self._numbers: dict[str, int] = {}

    def add(self, digest: str, files: Sequence[str], name: str | None) -> None:
        """One more row; `digest` is a sha256 in hex, "" for a row that cannot be read."""
        self._digests += bytes.fromhex(digest) if digest else bytes(DIGEST_BYTES)
        self._files.append("\0".join(map(self._short, files)))  # a NUL stands in no file's name
        self.ids.append(name or "")

    def digest(self, index: int) -> str:
        """The hash of a row."""
        found = self._digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]
        return found.hex() if any(found) else ""

    def files(self, index: int) -> list[str]:
        """The files that a row names."""
        joined = self._files[index]
        split = (short.partition("/") for short in joined.split("\0")) if joined else ()
        return [self._folders[int(number)] + name for number, _, name in split]

    def _short(self, file: str) -> str:
        """A file by the number of its folder: most rows have theirs in a few."""
        start = file.rfind("/") + 1
        number = self._numbers.setdefault(file[:start], len(self._folders))
        if number == len(self._folders):
            self._folders.append(file[:start])
        return f"{number}/{file[start:]}"


Record = Mapping[str, Any]
ReadRecord = Callable[[int], Record]

GLANCED = 32
"""Records among which a column must occur, where rows may be bad."""


def _in_no_file(value: Any) -> None:
    """Every image value is the image."""


@dataclass(frozen=True, slots=True)
class Records:
    """What a source knows: `count` records, named `where` in messages, and what its image values mean.

    `read(i)` reads one record; image values in it stay as the source has them, without the place of the dataset on this
    machine, so that a content id is the same elsewhere. `open_image(value, where)` makes a reference of one; its
    `where` begins with the given one. `image_file` names the file that a value points to, None where the value itself
    is the image. `narrow(columns)` is a cheaper `read` of these columns; None where none is. `classes` are
    all labels of the columns that come with a list of them. `at(i)` says where a record stands; None: `where`, row i.
    """

    where: str
    count: int
    read: ReadRecord
    open_image: Callable[[Any, str], ImageRef]
    image_file: Callable[[Any], str | None] = _in_no_file
    narrow: Callable[[list[str]], ReadRecord] | None = None
    classes: Mapping[str, list[str]] = field(default_factory=dict)
    at: Callable[[int], str] | None = None


class MappedRows:
    """Records as rows. A record is read once for its id and content, and once more for each example made from it.

    Where `max_bad_fraction` allows bad rows, one without a readable record or an id of its own is called "row N" and
    refused when it is asked for; otherwise the first one refuses them all.

    Raises:
        DataError: no rows, a missing column, a value that is not what its column should hold, an id given twice.
    """

    def __init__(self, config: DatasetConfig, records: Records) -> None:
        if records.count == 0:
            raise DataError(f"{records.where}: no rows; check dataset.splits and dataset.limit")
        self._config = config
        self._records = records
        self._bad: dict[int, str] = {}
        first = self._first()
        for key, column in _columns(config):
            if column not in first and not (key == "images" and self._is_anywhere(column)):
                raise DataError(f"{records.where}: dataset.{key} names column {column!r}; there are: {_keys(first)}")
        self._choices = array("i", [0]) * records.count  # 0 where nobody counted them yet
        self._ids = Texts(self._content_ids() if config.id is None else self._given_ids(config.id))

    def __len__(self) -> int:
        return self._records.count

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        if index in self._bad:
            raise DataError(self._bad[index])
        return self._example(index)

    def id(self, index: int) -> str:
        """Id of a row, without reading it."""
        return self._ids[index]

    def group_key(self, index: int) -> str:
        """The same text for rows of one group or one picture (the same file or bytes), and for those between them."""
        return self._group_keys[index]

    @functools.cached_property
    def _group_keys(self) -> Texts:
        return together(map(self._marks, range(len(self))))

    def _marks(self, index: int) -> list[str]:
        """What a row may have in common with others: its group, and each of its pictures."""
        config, marks = self._config, []
        shown = [config.images] if config.images is not None else _images(config)
        try:
            record = self._narrow([*shown, *([config.group] if config.group else [])])(index)
            if config.group and record.get(config.group) is not None:
                marks.append(mark(GROUP, _values.identity(record[config.group])))
            for value, _ in self._image_values(record, index):
                file = self._records.image_file(value)
                content = stamp(file) if file is not None else "missing"
                marks.append(mark(PICTURE, _values.identity(value) if content == "missing" else content))
        except DataError:  # a row that cannot be read is refused, or left out, by whoever asks for it
            pass
        return marks or [mark(ALONE, self.id(index))]

    @property
    def fingerprint(self) -> str:
        """Hash of ids, texts, images and image files (`stamp`; "missing" counts) of all rows."""
        look, digest, contents = functools.cache(stamp), hashlib.sha256(), self._contents
        for index, name in enumerate(self._ids):
            files = [look(file) for file in contents.files(index)]
            digest.update(json.dumps([name, contents.digest(index), files]).encode())
        return digest.hexdigest()

    def target_count(self, index: int) -> int:
        """Number of training targets of a row.

        Raises:
            DataError: there are none to choose from.
        """
        if self._config.target not in ("each", "sample"):
            return 1
        if not self._choices[index]:
            self._choices[index] = self._count_references(index)
        return self._choices[index]

    def with_target(self, index: int, target: int) -> Example:
        """Row `index` with its `target`-th target, counted from 0."""
        example = self[index]
        if self._config.target not in ("each", "sample"):
            return example
        return replace(example, target=example.truth["references"][target])

    def _at(self, index: int) -> str:
        at = self._records.at
        return at(index) if at is not None else f"{self._records.where}, row {index}"

    def _column(self, record: Record, name: str, index: int) -> Any:
        """A row's value of a column.

        Raises:
            DataError: the row has no such column; says which it has.
        """
        if name not in record:
            raise DataError(f"{self._at(index)}: no column {name!r}; the row has: {_keys(record)}")
        return record[name]

    def _is_anywhere(self, column: str) -> bool:
        """Whether some row has a column that rows may leave out."""
        return any(column in self._record(index) for index in range(len(self)))

    def _record(self, index: int) -> Record:
        """A record; an empty one where it cannot be read and rows may be bad."""
        try:
            return self._records.read(index)
        except DataError as error:
            self._stand_in(index, error)
            return {}

    def _first(self) -> Record:
        """The first record; where rows may be bad, the first few together."""
        last = 1 if self._config.max_bad_fraction == 0 else min(GLANCED, len(self))
        there: dict[str, Any] = {}
        for index in range(last):
            there |= self._record(index)
        return there

    def _stand_in(self, index: int, error: DataError) -> str:
        """What a row is called that has no id.

        Raises:
            DataError: the given one, where no row may be bad.
        """
        if self._config.max_bad_fraction == 0:
            raise error
        self._bad[index] = str(error)
        return f"row {index}"

    def _narrow(self, columns: list[str]) -> ReadRecord:
        return self._records.narrow(columns) if self._records.narrow is not None else self._records.read

    def _given_ids(self, column: str) -> list[str]:
        if self._records.narrow is None:
            ids = list(self._contents.ids)
        else:
            read = self._narrow([column])
            ids = [self._given_id_of(read, column, index) for index in range(len(self))]
        first: dict[str, int] = {}
        for index, name in enumerate(ids):
            if first.setdefault(name, index) != index:
                said = f"{self._at(index)}: id {name!r} stands in {self._at(first[name])}, too; ids must differ"
                error = DataError(said)
                ids[index] = self._stand_in(index, error)
        return ids

    def _given_id_of(self, read: ReadRecord, column: str, index: int) -> str:
        try:
            return self._given_id(read(index), column, index)
        except DataError as error:
            return self._stand_in(index, error)

    def _given_id(self, record: Record, column: str, index: int) -> str:
        return _values.name(self._column(record, column, index), "id", column, self._at(index))

    def _content_ids(self) -> list[str]:
        seen: Counter[str] = Counter()
        ids = []
        for index in range(len(self)):
            name = self._contents.digest(index)[:16] or self._contents.ids[index]
            seen[name] += 1
            ids.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
        return ids

    @functools.cached_property
    def _contents(self) -> Contents:
        """Of all rows, in one pass over the records."""
        contents = Contents()
        for index in range(len(self)):
            try:
                contents.add(*self._content(self._records.read(index), index))
            except DataError as error:
                contents.add("", (), self._stand_in(index, error))
        return contents

    def _content(self, record: Record, index: int) -> tuple[str, list[str], str | None]:
        """Hash of what a record holds, the image files it names, its value of the id column."""
        values = [
            _values.identity(record.get(column) if key == "images" else self._column(record, column, index))
            for key, column in _columns(self._config)
        ]
        found = (self._records.image_file(value) for value, _ in self._image_values(record, index))
        # The empty text in front keeps ids what they were in the first version.
        digest = hashlib.sha256(json.dumps(["", *values]).encode()).hexdigest()
        name = None if self._config.id is None else self._given_id(record, self._config.id, index)
        return digest, [file for file in found if file is not None], name

    def _count_references(self, index: int) -> int:
        config = self._config
        if config.references:
            count = len(self._references(self._narrow(config.references)(index), index))
        else:
            count = len(self[index].truth["references"])
        if count == 0:
            raise DataError(
                f"{self._at(index)}: no reference to teach, but dataset.target is {config.target!r}; "
                "set dataset.references, or repair or remove the row"
            )
        return count

    def _references(self, record: Record, index: int) -> list[str]:
        found: list[str] = []
        for column in self._config.references:
            value = self._column(record, column, index)
            for item in value if isinstance(value, list | tuple) else [value]:
                found.append(_values.answer(item, column, self._at(index)))
        return found

    def _image_values(self, record: Record, index: int) -> list[tuple[Any, str]]:
        """A row's images as the source has them, and where each stands."""
        if (column := self._config.images) is not None:
            values = _values.structured(record.get(column))  # a row without pictures may lack it
            if isinstance(values, str | bytes | dict):
                values = [values]
            if values is not None and not isinstance(values, list | tuple):
                raise DataError(
                    f"{self._at(index)}: column {column!r} must hold an image or a list of images "
                    f"(got {type(values).__name__})"
                )
            return [(value, f"{self._at(index)}, image {n}") for n, value in enumerate(values or [])]
        return [(self._column(record, c, index), f"{self._at(index)}, column {c!r}") for c in _images(self._config)]

    def _open_image(self, value: Any, where: str) -> ImageRef:
        ref = self._records.open_image(value, where)
        if not ref.where.startswith(where):
            raise DataError(
                f"{where}: the source named this image {ref.where!r}; the name must begin with where it stands, so "
                "that no two images share one"
            )
        return ref

    def _example(self, index: int) -> Example:
        config, record, at = self._config, self._records.read(index), self._at(index)

        def cell(column: str) -> Any:
            return self._column(record, column, index)

        images = tuple(self._open_image(value, where) for value, where in self._image_values(record, index))
        references, turns, target = self._references(record, index), None, None
        if config.messages is not None:
            refuse_videos(record, at)
            turns, target = read_turns(_values.structured(cell(config.messages)), images, at)
            references = references or ([target] if target is not None else [])
        if config.target in ("each", "sample") or (config.target is None and config.messages is None):
            target = references[0] if references else None
        elif config.target is not None:
            target = _values.answer(cell(config.target), config.target, at)
        truth: dict[str, Any] = {"references": references}
        if config.keywords is not None:
            truth["keywords"] = _values.texts(_values.structured(cell(config.keywords)), config.keywords, at)
        if config.boxes is not None:
            truth["boxes"] = _values.structured(cell(config.boxes))
        return Example(
            id=self._ids[index],
            images=images,
            target=target,
            truth=truth,
            cluster=_values.name(cell(config.group), "group", config.group, at) if config.group else None,
            question=read_question(cell(config.question), config.question, at) if config.question else None,
            turns=turns,
            meta={column: _values.plain(cell(column), column, at) for column in config.meta},
        )


def _keys(record: Record) -> str:
    return ", ".join(map(str, record)) or "nothing"


def _images(config: DatasetConfig) -> list[str]:
    """Columns that hold one image each."""
    return [config.image] if isinstance(config.image, str) else config.image or []


def _columns(config: DatasetConfig) -> list[tuple[str, str]]:
    """(config key, column) of every column the config names; image columns only where no conversation has its own."""
    named: list[tuple[str, str]] = []
    if config.images is None:
        named += [("image", column) for column in _images(config)]
    named += [("references", column) for column in config.references]
    if config.target not in (None, "each", "sample"):
        named.append(("target", str(config.target)))
    for key in ("question", "keywords", "boxes", "messages", "images", "id", "group"):
        if (column := getattr(config, key)) is not None:
            named.append((key, column))
    return named + [("meta", column) for column in config.meta]


GROUP, PICTURE, ALONE = range(3)
"""What a row may have in common with others, and a row that has nothing; what counts more comes first."""


def mark(kind: int, value: Any) -> str:
    """A short text for something that rows have in common; those of a group sort before those of a picture."""
    return f"{kind}{hashlib.blake2b(json.dumps(value).encode(), digest_size=16).hexdigest()}"


def together(marks: Iterable[Sequence[str]]) -> Texts:
    """The same text for all rows that are joined by a mark, or by way of other rows; different texts for the others.

    Args:
        marks: of every row at least one.

    Returns:
        Of every row the smallest mark of those it is joined to, so that their order does not matter.
    """
    parents, smallest = array("q"), []
    first: dict[str, int] = {}

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    for row, those in enumerate(marks):
        parents.append(row)
        smallest.append(min(those))
        for each in those:
            one, other = sorted((root(first.setdefault(each, row)), root(row)))
            parents[other] = one
            smallest[one] = min(smallest[one], smallest[other])
    return Texts(smallest[root(row)] for row in range(len(parents)))
