"""Rows of a source: columns mapped to roles, ids, a fingerprint, and training targets.

What is kept of each row (ids, hashes, groups) lies in flat buffers that continue on disk, so that memory hardly grows
with their number.
"""

import functools
import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from vlmtune.data import _values
from vlmtune.data._choices import Choices, with_choices
from vlmtune.data._contract import DatasetConfig
from vlmtune.data._image_paths import FILE, fill, template_fields
from vlmtune.data._image_refs import file_fingerprint
from vlmtune.data._joined import JoinedRecords
from vlmtune.data._messages import image_values, read_messages, read_question, row_context, turns, with_completion
from vlmtune.data._objects import has_marks, read_objects
from vlmtune.data._records import ReadRecord, Record, Records, names_text
from vlmtune.data._spilled import ContentIndex, StringArray, repeated
from vlmtune.data._turns import refuse_unread, unread_beside
from vlmtune.data._videos import as_seen, video_values
from vlmtune.errors import DataError, EmptyField
from vlmtune.types import Example, ImageRef

REMEMBERED_FILES = 4096
"""Files whose fingerprints are kept while those of all rows are computed."""

SCHEMA_ROWS = 32
"""Number of first rows in which a configured column must occur, where bad rows are allowed."""


class MappedRows:
    """Records as rows. A record is read once for its id and content hash, and again for each example made from it.

    Where `max_bad_fraction` allows bad rows, a row without a readable record or a valid id gets the id "row N" and
    raises when it is accessed. Otherwise the first bad row makes the constructor raise.

    Raises:
        DataError: there are no rows, a column is missing, a value has the wrong type for its role, or ids repeat.
    """

    def __init__(self, config: DatasetConfig, records: Records) -> None:
        if records.count == 0:
            raise DataError(f"{records.where}: no rows; check dataset.splits and dataset.limit")
        self._records = JoinedRecords(records, config, _names(config)).records() if config.join else records
        self._config = config
        self._bad: dict[int, DataError] = {}
        present = self._schema()
        self._config = config = _with_image_columns(config, present)
        for key, column in _columns(config):
            if column not in present and not (
                key in _OPTIONAL and (self._holds_images(present) or self._occurs(column))
            ):
                hint = ""
                if config.messages is not None and key in ("image", "images"):
                    hint = ". If all rows are text only, set dataset.image: null instead"
                raise DataError(
                    f"{records.where}: dataset.{key} names column {column!r}; there are: "
                    f"{names_text(present, column)}{hint}"
                )
        self._target_counts = array("i", [0]) * self._records.count  # 0: not counted yet
        self._ids = StringArray(self._content_ids()) if config.id is None else self._column_ids(config.id)

    def __len__(self) -> int:
        return self._records.count

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        if index in self._bad:
            raise self._bad[index].with_traceback(None)
        return self._example(index)

    def id(self, index: int) -> str:
        """Id of a row, without reading it."""
        return self._ids[index]

    def group_key(self, index: int) -> str:
        """Equal for rows of one group or with a common image (the same file or bytes), also by way of other rows."""
        return self._group_keys[index]

    @functools.cached_property
    def _group_keys(self) -> StringArray:
        return connected(map(self._links, range(len(self))))

    def _links(self, index: int) -> list[str]:
        """Links of a row to others: its group and each of its images."""
        config, links = self._config, []
        try:
            record = self._select([*_columns_of_images(config), *([config.group] if config.group else [])])(index)
            if config.group and record.get(config.group) is not None:
                links.append(link(GROUP, _values.hashable(record[config.group])))
            for value, _ in self._image_values(record, index):
                file = self._records.image_file(value)
                content = file_fingerprint(file) if file is not None else "missing"
                links.append(link(IMAGE, _values.hashable(value) if content == "missing" else content))
            for value, _ in self._video_values(record, index):
                contents = [file_fingerprint(file) for file in self._records.video_files(value)]
                missing = not contents or "missing" in contents
                links.append(link(IMAGE, _values.hashable(value) if missing else contents))
        except DataError:  # raised again when the row is read
            pass
        return links or [link(SINGLE, self.id(index))]

    def values(self, column: str) -> Iterator[str | None]:
        """The text of a column in every row, without reading other columns; None for a row that cannot be read.

        Raises:
            DataError: a row has no such column, or no text, number or date in it, where no bad row is allowed.
        """
        read = self._select([column])
        for index in range(len(self)):
            try:
                value = self._column(read(index), column, index)
                yield _values.name(value, "split_column", column, self._at(index))
            except DataError as error:
                self._mark_bad(index, error)
                yield None

    @property
    def fingerprint(self) -> str:
        """Hash of the ids, texts, images and image files of all rows; a missing file counts as such."""
        fingerprint_of = functools.lru_cache(REMEMBERED_FILES)(file_fingerprint)
        digest, contents = hashlib.sha256(), self._contents
        for index, row_id in enumerate(self._ids):
            files = [fingerprint_of(file) for file in contents.files(index)]
            digest.update(json.dumps([row_id, contents.digest(index), files]).encode())
        return digest.hexdigest()

    def target_count(self, index: int) -> int:
        """Number of training targets of a row.

        Raises:
            DataError: the row has none.
        """
        if self._config.target not in ("each", "sample"):
            return 1
        if not self._target_counts[index]:
            self._target_counts[index] = self._count_references(index)
        return self._target_counts[index]

    def with_target(self, index: int, target: int) -> Example:
        """Row `index` with its `target`-th target, counted from 0."""
        example = self[index]
        if self._config.target not in ("each", "sample"):
            return example
        return replace(example, target=example.truth["references"][target])

    def where(self, index: int) -> str:
        """File and line of a row, as far as the source knows them."""
        return self._records.place(index) if self._records.place is not None else self._at(index)

    def _at(self, index: int) -> str:
        locate = self._records.locate
        return locate(index) if locate is not None else f"{self._records.where}, row {index}"

    def _column(self, record: Record, name: str, index: int) -> Any:
        """The value of a column.

        Raises:
            DataError: the row has no such column; lists those it has.
        """
        if name not in record:
            message = f"{self._at(index)}: no column {name!r}; the row has: {names_text(record, name)}"
            raise EmptyField(message, name)
        return record[name]

    def _holds_images(self, record: Record) -> bool:
        """Whether the parts of a record's messages hold their images themselves."""
        messages = self._config.messages
        value = _values.structured(record.get(messages)) if messages is not None else None
        return bool(image_values(value, []) or image_values(value, [], videos=True))

    def _occurs(self, column: str) -> bool:
        """Whether any row has an optional column."""
        return any(column in self._record(index) for index in range(len(self)))

    def _record(self, index: int) -> Record:
        """A record; an empty one where it cannot be read and bad rows are allowed."""
        try:
            return self._records.read(index)
        except DataError as error:
            self._mark_bad(index, error)
            return {}

    def _schema(self) -> Record:
        """The columns of the first record; of the first few together where bad rows are allowed."""
        count = 1 if self._config.max_bad_fraction == 0 else min(SCHEMA_ROWS, len(self))
        columns: dict[str, Any] = {}
        for index in range(count):
            columns |= self._record(index)
        return columns

    def _mark_bad(self, index: int, error: DataError) -> str:
        """Remember why a row is bad. Returns its substitute id.

        Raises:
            DataError: the given one, where no bad row is allowed.
        """
        if self._config.max_bad_fraction == 0:
            raise error
        self._bad[index] = error
        return f"row {index}"

    def _select(self, columns: list[str]) -> ReadRecord:
        return self._records.select(columns) if self._records.select is not None else self._records.read

    def _column_ids(self, column: str) -> StringArray:
        if self._records.select is None:
            ids = self._contents.ids
        else:
            read = self._select([column])
            ids = StringArray(self._column_id_or_bad(read, column, index) for index in range(len(self)))
        replaced: dict[int, str] = {}
        for index, first in repeated(ids).items():
            message = f"{self._at(index)}: id {ids[index]!r} is also that of {self._at(first)}; ids must differ"
            replaced[index] = self._mark_bad(index, DataError(message))
        return StringArray(replaced.get(index, row) for index, row in enumerate(ids)) if replaced else ids

    def _column_id_or_bad(self, read: ReadRecord, column: str, index: int) -> str:
        try:
            return self._column_id(read(index), column, index)
        except DataError as error:
            return self._mark_bad(index, error)

    def _column_id(self, record: Record, column: str, index: int) -> str:
        return _values.name(self._column(record, column, index), "id", column, self._at(index))

    def _content_ids(self) -> Iterator[str]:
        """Content hashes as ids; rows with equal content get the suffixes "-2", "-3", …"""
        contents = self._contents
        numbers = contents.numbers()
        for index in range(len(self)):
            row_id = contents.digest(index)[:16] or contents.ids[index]
            yield f"{row_id}-{numbers[index]}" if index in numbers else row_id

    @functools.cached_property
    def _contents(self) -> ContentIndex:
        """The content of all rows, from one pass over the records."""
        contents = ContentIndex()
        for index in range(len(self)):
            try:
                contents.add(*self._content(self._records.read(index), index))
            except DataError as error:
                contents.add("", (), self._mark_bad(index, error))
        return contents

    def _content(self, record: Record, index: int) -> tuple[str, list[str], str | None]:
        """(hash of the content, image files, value of the id column) of a record."""
        values = [
            _values.hashable(record.get(column) if key in _OPTIONAL else self._column(record, column, index))
            for key, column in _columns(self._config)
        ]
        values += [
            [column, _values.hashable(record[column])]
            for column in _context(self._config, record)
            if record.get(column)
        ]
        videos = self._video_values(record, index)
        if videos and self._config.frame_rate != type(self._config).model_fields["frame_rate"].default:
            values.append(["frame_rate", self._config.frame_rate])
        files = [self._records.image_file(value) for value, _ in self._image_values(record, index)]
        files += [file for value, _ in videos for file in self._records.video_files(value)]
        # Ids in existing prediction files were hashed with an empty string in front.
        digest = hashlib.sha256(json.dumps(["", *values]).encode()).hexdigest()
        row_id = None if self._config.id is None else self._column_id(record, self._config.id, index)
        return digest, [file for file in files if file is not None], row_id

    def _count_references(self, index: int) -> int:
        config = self._config
        if config.references or config.record:
            columns = [*config.references, *config.record, *config.choice_columns]
            record = self._select(columns)(index)
            count = len(self._references(record, index, self._choices(record, index)))
        else:
            count = 0
        count = count or len(self[index].truth["references"])  # of messages, the last answer
        if count == 0:
            raise DataError(
                f"{self._at(index)}: no reference to train on, but dataset.target is {config.target!r}; "
                "set dataset.references, or repair or remove the row"
            )
        return count

    def _references(self, record: Record, index: int, choices: Choices | None) -> list[str]:
        references: list[str] = []
        for column in () if self._completion(record, index) else self._config.references:
            items = _values.answers(self._column(record, column, index))
            references += [self._answer(item, column, index, choices) for item in items]
        if self._config.record:
            fields = {column: self._column(record, column, index) for column in self._config.record}
            references.append(_values.answer(fields, ", ".join(fields), self._at(index)))
        return references

    def _completion(self, record: Record, index: int) -> list[Mapping[str, Any]]:
        """The turns behind a row's messages, if they lie in the column of its reference."""
        if self._config.messages is None or len(self._config.references) != 1:
            return []
        return turns(_values.structured(self._column(record, self._config.references[0], index)))

    def _answer(self, value: Any, column: str, index: int, choices: Choices | None) -> str:
        """A reference or target: the letter of one of the choices, if there are any."""
        if choices is not None and value is not None:
            return choices.letter(value, column)
        return _values.answer(value, column, self._at(index))

    def _choices(self, record: Record, index: int) -> Choices | None:
        columns = self._config.choice_columns
        values = {column: self._column(record, column, index) for column in columns}
        return Choices(values, self._config.choices_from, self._at(index)) if columns else None

    def _image_values(self, record: Record, index: int) -> list[tuple[Any, str]]:
        """A row's images as stored, each with its location for messages."""
        values, template = self._own_images(record, index), self._config.image_path
        if template is not None and self._config.video is None:
            at = self._at(index)
            if FILE in template_fields(template):
                values = [(fill(template, {FILE: value, **record}, at), where) for value, where in values]
            else:
                values = [(fill(template, record, at), f"{at}, image 0")]
        if self._config.messages is None:
            return values
        own = [value for value, _ in values]
        found = image_values(_values.structured(record.get(self._config.messages)), own)
        return values if found == own else [(value, f"{self._at(index)}, image {n}") for n, value in enumerate(found)]

    def _video_values(self, record: Record, index: int) -> list[tuple[Any, str]]:
        """A row's videos as stored, each with its location for messages."""
        return video_values(self._config, record, lambda name: self._column(record, name, index), self._at(index))

    def _own_images(self, record: Record, index: int) -> list[tuple[Any, str]]:
        """The images in the image columns, each with its location."""
        if (column := self._config.images) is not None:
            values = _values.structured(record.get(column))  # rows without images may lack the column
            if isinstance(values, str | bytes | dict):
                values = [values]
            if values is not None and not isinstance(values, list | tuple):
                raise DataError(
                    f"{self._at(index)}: column {column!r} must hold an image or a list of images "
                    f"(got {type(values).__name__})"
                )
            return [(value, f"{self._at(index)}, image {n}") for n, value in enumerate(values or [])]
        found = []
        for column in _image_columns(self._config):
            value, where = self._column(record, column, index), f"{self._at(index)}, column {column!r}"
            if value is None or value == "":
                raise EmptyField(
                    f"{where} is empty; repair or remove the row. If it is text only, name the column in "
                    "dataset.images instead, which rows may leave empty",
                    column,
                )
            if isinstance(value, list | tuple):
                found += [(item, f"{where}, image {n}") for n, item in enumerate(value)]
            else:
                found.append((value, where))
        return found

    def _boxes(self, record: Record, index: int) -> dict[str, Any]:
        """A row's boxes and their labels, as far as columns are configured for them.

        Four columns hold the numbers of one box, or in joined records lists of them. A record with four empty values
        has no box, and its label does not count.
        """
        columns, label_column = self._config.box_columns, self._config.box_labels
        found: dict[str, Any] = {}
        if label_column is not None:
            found["box_labels"] = _values.structured(self._column(record, label_column, index))
        if len(columns) == 1:
            found["boxes"] = _values.structured(self._column(record, columns[0], index))
        elif columns:
            at = f"{self._at(index)}, columns {', '.join(columns)}"
            values = [self._column(record, column, index) for column in columns]
            are_lists = all(isinstance(value, list) for value in values)
            if are_lists and len(set(map(len, values))) > 1:
                raise DataError(f"{at}: must hold equally many numbers (got {', '.join(map(str, map(len, values)))})")
            boxes = [_values.numbers(box, at) for box in (zip(*values, strict=True) if are_lists else [values])]
            labels = found.get("box_labels")
            if isinstance(labels, list) and len(labels) == len(boxes):
                found["box_labels"] = [label for label, box in zip(labels, boxes, strict=True) if box]
            elif not any(boxes) and "box_labels" in found:
                found["box_labels"] = []
            found["boxes"] = [box for box in boxes if box] if are_lists else boxes[0]
        return found

    def _open_image(self, value: Any, where: str) -> ImageRef:
        ref = self._records.open_image(value, where)
        if not ref.where.startswith(where):
            raise DataError(
                f"{where}: the source named this image {ref.where!r}; the name must begin with the location, so that "
                "names are unique"
            )
        return ref

    def _images(self, record: Record, index: int) -> tuple[ImageRef, ...]:
        """A row's images and then its videos, not read yet."""
        images = [
            self._open_image(page, where)
            for image, where in self._image_values(record, index)
            for page in self._records.pages(image, where)
        ]
        videos, rate = self._video_values(record, index), self._config.frame_rate
        objects = self._config.objects and record.get(self._config.objects)
        if videos and (objects or self._config.boxes is not None):
            raise DataError(f"{self._at(index)}: boxes in rows with videos are not supported; use frames as images")
        return (*images, *(self._records.open_video(*video, rate) for video in videos))

    def _example(self, index: int) -> Example:
        config, record, at = self._config, self._records.read(index), self._at(index)

        def value(column: str) -> Any:
            return self._column(record, column, index)

        images = self._images(record, index)
        choices = self._choices(record, index)
        references, conversation, target, reasoning = self._references(record, index, choices), None, None, None
        objects = None
        if config.messages is not None:
            columns = {"system": config.system, "tools": config.tools, "videos": config.videos}
            context = row_context(record, config.ignored_keys, columns, at)
            prompt = _values.structured(value(config.messages))
            messages = with_completion(prompt, self._completion(record, index), at)
            conversation, answer = read_messages(messages, images, at, context)
            if config.objects is not None and record.get(config.objects):
                given = record[config.objects]
                objects = read_objects(given, messages, context.system, len(images), context.ignored, at)
            images = as_seen(images, conversation)
            if answer is not None:
                target, reasoning = "".join(map(str, answer.content)), answer.reasoning
            references = references or ([target] if target is not None else [])
        if config.target in ("each", "sample") or (config.target is None and target is None):
            target = references[0] if references else None
        elif config.target is not None:
            target = self._answer(value(config.target), config.target, index, choices)
            reasoning = None
        question = None
        if config.question is not None:
            beside = set(unread_beside(config.question)) - set(_names(config))
            refuse_unread(record, beside, {*config.ignored_keys}, at)
            question = read_question(value(config.question), config.question, at, len(images))
            if choices is not None:
                question = with_choices(question, choices.texts)
        truth: dict[str, Any] = {"references": references}
        if config.keywords is not None:
            truth["keywords"] = _values.texts(_values.structured(value(config.keywords)), config.keywords, at)
        truth |= self._boxes(record, index)
        return Example(
            id=self._ids[index],
            images=images,
            target=target,
            truth=truth,
            cluster=_values.name(value(config.group), "group", config.group, at) if config.group else None,
            question=question,
            messages=conversation,
            meta={column: _values.plain(value(column), column, at) for column in config.meta},
            reasoning=reasoning,
            objects=objects,
        )


_ROLES = (
    *("question", "choices", "keywords", "boxes", "box_labels", "messages", "images", "id", "group"),
    *("video", "videos"),
)
"""Further keys of the config that name columns, in the order in which content hashes have them."""

_OPTIONAL = ("images", "videos")
"""Keys of the config whose columns rows may lack."""


def _image_columns(config: DatasetConfig) -> list[str]:
    """Columns that hold one image each."""
    return [config.image] if isinstance(config.image, str) else config.image or []


def _template_columns(config: DatasetConfig) -> list[str]:
    """Columns in `image_path`, without the field for the image column."""
    return [column for column in template_fields(config.image_path or "") if column != FILE]


def _columns_of_images(config: DatasetConfig) -> list[str]:
    """All columns that the images of a row depend on."""
    own = [config.images] if config.images is not None else _image_columns(config)
    more = [column for column in (config.messages, config.video, config.videos) if column is not None]
    return [*own, *_template_columns(config), *more]


def _with_image_columns(config: DatasetConfig, present: Record) -> DatasetConfig:
    """The config with the column that its templates and messages mean where `image` is left at its default."""
    if "image" in config.model_fields_set or "image" in present or config.images is not None:
        return config
    if config.video is not None or config.videos is not None:
        return config.model_copy(update={"image": None})
    fields = template_fields(config.image_path or "")
    if FILE in fields and FILE in present:
        return config.model_copy(update={"image": FILE})
    needs_none = bool(fields) and FILE not in fields
    if config.messages is not None and config.messages in present:
        messages = _values.structured(present[config.messages])
        needs_none = bool(image_values(messages, []) or image_values(messages, [], videos=True))
    return config.model_copy(update={"image": None}) if needs_none else config


def _context(config: DatasetConfig, record: Record) -> list[str]:
    """Columns that rows with messages may have beside them, and that have a meaning for this one."""
    if config.messages is None:
        return []
    objects = config.objects if has_marks(record.get(config.messages)) else None
    return [column for column in (config.system, config.tools, objects) if column]


def _names(config: DatasetConfig) -> list[str]:
    return [column for _, column in _columns(config)]


def _columns(config: DatasetConfig) -> list[tuple[str, str]]:
    """(config key, column) of all configured columns; `image` counts only where `images` is not set."""
    columns: list[tuple[str, str]] = []
    if config.images is None:
        columns += [("image", column) for column in _image_columns(config)]
    columns += [("image_path", column) for column in _template_columns(config)]
    columns += [("references", column) for column in config.references]
    columns += [("record", column) for column in config.record]
    if config.target not in (None, "each", "sample"):
        columns.append(("target", str(config.target)))
    for key in _ROLES:
        if key in ("boxes", "choices"):
            several = config.box_columns if key == "boxes" else config.choice_columns
            columns += [(key, column) for column in several]
        elif (column := getattr(config, key)) is not None:
            columns.append((key, column))
    return columns + [("meta", column) for column in config.meta]


GROUP, IMAGE, SINGLE = range(3)
"""Kinds of links between rows, strongest first; a row that has nothing in common with others links to itself."""


def link(kind: int, value: Any) -> str:
    """A short key for something that rows may have in common; keys sort by kind first."""
    return f"{kind}{hashlib.blake2b(json.dumps(value).encode(), digest_size=16).hexdigest()}"


def connected(links: Iterable[Sequence[str]]) -> StringArray:
    """The connected component of every row, by union-find: rows with a common link, also by way of other rows.

    >>> list(connected([["a"], ["b"], ["a", "c"], ["c"]]))
    ['a', 'b', 'a', 'a']

    Args:
        links: of every row, at least one.

    Returns:
        For every row the smallest link of its component, which does not depend on the order of the rows.
    """
    parents, smallest = array("q"), []
    first: dict[str, int] = {}

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]  # path halving
            row = parents[row]
        return row

    for row, keys in enumerate(links):
        parents.append(row)
        smallest.append(min(keys))
        for key in keys:
            one, other = sorted((root(first.setdefault(key, row)), root(row)))
            parents[other] = one
            smallest[one] = min(smallest[one], smallest[other])
    return StringArray(smallest[root(row)] for row in range(len(parents)))
