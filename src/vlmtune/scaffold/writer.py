"""Writes a config file with the reason for each inferred key as a comment, after the config was tried on the data."""

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vlmtune import registry
from vlmtune.config import Config, load
from vlmtune.data import (
    ANNOTATION_BOXES,
    ROLES,
    SMALL_SPLIT,
    Folder,
    Limits,
    Record,
    Records,
    names_text,
    open_role,
    structured,
)
from vlmtune.errors import ConfigError, DataError
from vlmtune.files import write_atomic
from vlmtune.images import decode_rgb
from vlmtune.scaffold.columns import Column, infer_columns
from vlmtune.scaffold.draft import Draft, SourceSettings
from vlmtune.scaffold.image_paths import FoundImages, are_complete, find_image_path, outside_folder
from vlmtune.scaffold.infer_join import infer_join
from vlmtune.scaffold.infer_roles import FLAGS, infer_roles, infer_task_settings, split_column, split_flag
from vlmtune.scaffold.questions import Option, Undecided
from vlmtune.scaffold.settings import infer_settings
from vlmtune.scaffold.sources import find_source, is_small, with_image_root, with_root
from vlmtune.scaffold.split_names import assign_splits, role_of

INSPECTED_ROWS = 50
REMOTE_ROWS = 200
"""Rows that are downloaded of a dataset on the Hub."""

MAX_UNUSED = 20
"""Columns without a role that the comment lists."""

MODEL = "Qwen/Qwen3-VL-8B-Instruct"
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
INLINE_KEYS = {"splits", "shares", "limit", "video"}
"""Blocks that are written on one line."""

_PLAIN_SCALAR = re.compile(r"[A-Za-z_./][\w./ -]*")
_YAML_KEYWORDS = {"true", "false", "null", "yes", "no", "on", "off", "~"}


@dataclass(frozen=True)
class Scaffold:
    """The config file, its task, and what should be checked in it."""

    file: Path
    task: str
    warnings: list[str]


def write(text: str, file: Path, given: Mapping[str, Any]) -> Scaffold:
    """Write a config for a dataset.

    Args:
        text: a file, a folder, or a name on the Hub.
        file: path of the config.
        given: nested keys that the user set; they are not changed.

    Raises:
        ConfigError: `file` exists; there is nothing readable at `text`; `given` is not a valid config.
        DataError: the roles of the columns cannot be inferred, or the first row cannot be read. Nothing was written.
        EnvironmentProblem: the Hub cannot be reached.
    """
    if file.exists():
        raise ConfigError(f"{file} already exists and is not overwritten; choose another name with -o")
    blocks = {name: _block(given, name) for name in ("dataset", "task")}
    source = find_source(text, blocks["dataset"])
    records = _records(source, blocks["dataset"])
    if records.count == 0:
        raise DataError(f"{records.where}: no rows; the file is empty")
    first = _first_rows(records)
    if (boxed := _with_labels(source, first, blocks)) is not source:
        source = boxed
        records = _records(source, blocks["dataset"])
        first = _first_rows(records)
    blocks["task"] = {**source.task, **blocks["task"]}
    columns = infer_columns(first)
    _refuse_images_alone(source, columns, blocks)
    _refuse_nested_tables(records, columns)
    source, found = _images_by_name(source, columns, first, blocks["dataset"])
    draft = infer_roles(_with_images(columns, found), blocks, text)
    if found is not None and found.template != "{file}":
        draft.infer("dataset", "image_path", found.template, found.reason)
        records = _records(source, blocks["dataset"])
    elif source.block["source"] in ("jsonl", "table") and "path" not in blocks["dataset"]:
        source = with_image_root(source, _first_image(first[0], draft))
        records = _records(source, blocks["dataset"])
    _ask_for_roots(source, columns, draft)
    if not source.remote and source.block["source"] != "annotations":
        infer_join(draft, records)
    source = _with_split_column(source, draft, columns, records)
    source = _without_unlabelled(source, draft, blocks["dataset"])
    if records.count < SMALL_SPLIT and len(set(source.splits.values())) < len(ROLES):
        reason = f"exact for the {records.count} rows; another seed divides them otherwise"
        draft.infer("dataset", "shares", {**SHARES, "seed": 0}, reason)
    infer_task_settings(draft, records, first, is_complete=not source.remote)
    content = _render(text, source, draft, columns, given)
    limit = REMOTE_ROWS if source.remote else None
    settings, reasons = infer_settings(_try_out(content, file, limit), given, local=not source.remote)
    content = _render(text, source, draft, columns, _merged(settings, given), reasons)
    _try_out(content, file, limit)
    write_atomic(file, content)
    warnings = [reason for reason in (source.warning, *draft.reasons.values()) if reason.startswith("!")]
    return Scaffold(file, draft.task["name"], [warning.removeprefix("! ") for warning in warnings])


def _first_rows(records: Records) -> list[Record]:
    return [records.read(index) for index in range(min(INSPECTED_ROWS, records.count))]


def _with_labels(source: SourceSettings, first: Sequence[Record], blocks: Mapping[str, Any]) -> SourceSettings:
    """The settings with a row for each label of an image, where annotations have boxes."""
    if source.block["source"] != "annotations" or not any(record.get("boxes") for record in first):
        return source
    if "rows_per" in blocks["dataset"] or blocks["task"].get("name", "grounding") != "grounding":
        return source
    if "name" not in blocks["task"] and any(record.get("references") for record in first):
        raise Undecided(
            "the annotations have texts or choices as well as boxes.",
            [
                Option("the boxes are the answers", ("task.name=grounding",)),
                Option("the choices are the answers", ("dataset.rows_per=image", "task.name=classification")),
                Option("the texts are the answers", ("dataset.rows_per=image", "task.name=captioning")),
            ],
        )
    unit, corners = ANNOTATION_BOXES[source.block["format"]]
    task = {"unit": unit, "corners": corners, **source.task}
    return replace(source, block={**source.block, "rows_per": "label"}, task=task)


def _images_by_name(
    source: SourceSettings, columns: Sequence[Column], first: Sequence[Record], given: Mapping[str, Any]
) -> tuple[SourceSettings, FoundImages | None]:
    """How columns lead to images on disk, where none holds their paths, and the folder that has both."""
    if source.block["source"] not in ("jsonl", "table") or {"image", "images", "image_path"} & set(given):
        return source, None
    if are_complete(columns, Path(source.block["path"])) or any(column.kind == "video" for column in columns):
        return source, None
    folder = Path(source.block["path"])
    may_be_above = "path" not in given and not Folder(folder).images and is_small(folder.parent)
    for path in (folder, *([folder.parent] if may_be_above else [])):
        if (found := find_image_path(columns, first, path)) is not None:
            return with_root(source, path), found
    return source, None


def _with_images(columns: list[Column], found: FoundImages | None) -> list[Column]:
    """The columns, with the one that names the images known as such, and the only one."""
    if found is None:
        return columns
    kept = [column for column in columns if column.kind not in ("image", "images") or column.name == found.column]
    return [replace(column, kind="image") if column.name == found.column else column for column in kept]


def _ask_for_roots(source: SourceSettings, columns: Sequence[Column], draft: Draft) -> None:
    """Ask before images are read from outside of the dataset's folder.

    Raises:
        Undecided: they lie there.
    """
    path = source.block.get("path")
    if source.remote or "image_roots" in draft.dataset or not isinstance(path, str) or not Path(path).is_dir():
        return
    if (folder := outside_folder(columns, Path(path))) is not None:
        raise Undecided(
            f"images lie outside of {path}, in {folder}.",
            [Option("read images from there as well", (f"dataset.image_roots=[{folder}]",))],
        )


def _without_unlabelled(source: SourceSettings, draft: Draft, given: Mapping[str, Any]) -> SourceSettings:
    """The settings without files that lack the answers, as the test files of competitions do."""
    if source.block["source"] not in ("jsonl", "table") or "split_column" in draft.dataset or "splits" in given:
        return source
    boxes = draft.dataset.get("boxes", [])
    answers = [*draft.dataset.get("references", []), *([boxes] if isinstance(boxes, str) else boxes)]
    splits, train = dict(source.splits), source.splits["train"]
    lacking = [
        split
        for split in dict.fromkeys(splits.values())
        if split != train
        and answers
        and set(answers).isdisjoint(_records(replace(source, splits={"train": split}), given).read(0))
    ]
    if not lacking:
        return source
    splits = {role: train if split in lacking else split for role, split in splits.items()}
    text = f"! {names_text(lacking)} not used, which has no column {answers[0]}: dataset.shares divides {train}"
    return replace(source, splits=splits, warning=text)


def _records(source: SourceSettings, given: Mapping[str, Any]) -> Records:
    """The train records, before their columns have roles.

    Raises:
        ConfigError: a key that the user set does not fit the source.
        DataError, EnvironmentProblem: as the source.
    """
    block = {**source.block, **given}
    plugin = registry.load("data", block["source"])
    stream = {"stream": True} if source.remote else {}
    keys = {key: value for key, value in block.items() if key not in ("splits", "limit", "split_column", "all_rows")}
    try:
        config = plugin.Config.model_validate({**keys, **stream})
    except ValidationError:
        _load({"model": {"name": MODEL}, "dataset": source.block, "task": {"name": "captioning"}}, {"dataset": given})
        raise
    records: Records = plugin.records(config, source.splits["train"], REMOTE_ROWS if source.remote else None)
    return records


def _load(blocks: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Load a config, for the errors of what the user set in it.

    Raises:
        ConfigError: what is wrong.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "init.yaml")
        file.write_text(json.dumps(blocks), encoding="utf-8")
        try:
            load(str(file), [given])
        except ConfigError as error:
            raise ConfigError(str(error).replace(str(file), "--set")) from None


def _with_split_column(source: SourceSettings, draft: Draft, columns: list[Column], records: Records) -> SourceSettings:
    """The settings with the official split of each row, if a column has it and all rows are in one place."""
    flag = split_flag(columns)
    column = split_column(columns) or (flag[0] if flag else None)
    if column is None or source.remote or len(set(source.splits.values())) > 1 or "splits" in draft.dataset:
        return source
    read = records.read if records.select is None else records.select([column.name])
    values = list(dict.fromkeys(str(read(index).get(column.name)) for index in range(records.count)))
    if len(values) == 1:
        return source
    if flag and column is flag[0]:
        splits, reason = _splits_of_flag(values, flag[1])
        warning = ""
    else:
        splits, warning = assign_splits(values, {}, lambda _, names: ("|".join(names), ""))
        reason = _official(values)
    draft.infer("dataset", "split_column", column.name, reason)
    draft.infer("dataset", "all_rows", source.splits["train"], "where the rows of all splits are")
    return replace(source, splits=splits, warning=warning)


def _official(values: Sequence[str]) -> str:
    """What the values of a column with official splits say."""
    unknown = [value for value in values if role_of(value) is None]
    reason = f"the official split of each row: {names_text(values)}"
    reason += "; restval belongs to train, as usual for Karpathy's splits" if "restval" in values else ""
    return f"! {reason}; {names_text(unknown)} names no split, and is trained on" if unknown else reason


def _splits_of_flag(values: Sequence[str], role: str) -> tuple[dict[str, str], str]:
    """The splits of a column that says whether a row is in the split of `role`, and what it says."""
    inside, outside = (
        "|".join(value for value in values if FLAGS.get(value.lower()) == part) for part in (True, False)
    )
    given = {role: inside, "test" if role == "train" else "train": outside}
    splits, _ = assign_splits([], {"splits": given}, lambda _, names: (names[0], ""))
    return splits, f"says of each row whether it is in the {role} split"


def _refuse_images_alone(source: SourceSettings, columns: Sequence[Column], blocks: Mapping[str, Any]) -> None:
    """Refuse images of which nothing says what they show."""
    labels = next((column for column in columns if column.name == "label"), None)
    if source.block["source"] != "imagefolder" or labels is None or labels.kind != "empty" or blocks["task"]:
        return
    if not {column.name for column in columns} - {"image", "video", "label", "file_name"}:
        raise ConfigError(
            f"{source.block['path']}: images, but nothing that says what they show: no folder for each label, no JSON "
            "or CSV file that names them, and no text file of the same name for most of them"
        )


def _refuse_nested_tables(records: Records, columns: list[Column]) -> None:
    """Refuse a file that is one object with lists of objects, such as COCO's annotations."""
    tables = [column for column in columns if column.kind == "other" and all(map(_is_table, column.values))]
    seen = ("image", "images", "video", "videos", "conversation")
    has_images = any(column.kind in seen for column in columns)
    if records.count == 1 and tables and not has_images:
        raise DataError(
            f"{records.where}: one JSON object, not rows; its keys are {', '.join(column.name for column in columns)}. "
            "Write one row per answer with the path of its image: one object per line, or an array of objects"
        )


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _first_image(record: Record, draft: Draft) -> str:
    """The first path of an image or video in a row; "" without one."""
    column = next(
        (draft.dataset[key] for key in ("images", "image", "videos", "video") if draft.dataset.get(key)), None
    )
    value = structured(record.get(column[0] if isinstance(column, list) else column)) if column else None
    value = value[0] if isinstance(value, list) and value else value
    return value if isinstance(value, str) else ""


def _block(given: Mapping[str, Any], name: str) -> dict[str, Any]:
    block = given.get(name, {})
    if not isinstance(block, dict):
        raise ConfigError(
            f"--set {name}: is a block; set one of its keys, such as {name}.{'path' if name == 'dataset' else 'name'}=…"
        )
    return block


def _merged(settings: Mapping[str, dict[str, Any]], given: Mapping[str, Any]) -> dict[str, Any]:
    """Inferred blocks with what the user set, which wins."""
    merged: dict[str, Any] = {name: dict(block) for name, block in settings.items()}
    for name, block in given.items():
        merged[name] = {**merged.get(name, {}), **block} if isinstance(block, dict) else block
    return merged


def _try_out(content: str, file: Path, limit: int | None) -> Config:
    """Check that a config loads, and that the first row of each role can be decoded and used.

    `data check` finds the other rows that cannot be used, and reports all of them.

    Args:
        content: the config.
        file: where it will be written.
        limit: number of rows that were downloaded; None for a local dataset.

    Returns:
        The config, limited to rows that were downloaded.
    """
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder, file.name)
        draft.write_text(content, encoding="utf-8")
        limits = {role: limit if limit and role == "train" else 1 for role in ROLES}
        # Dividing a remote split by shares would download all of it.
        overrides = {"max_bad_fraction": 1} if limit is None else {"stream": True, "shares": None}
        try:
            load(str(draft))
            config = load(str(draft), [{"dataset": {"limit": limits, **overrides}}]).config
        except ConfigError as error:
            raise ConfigError(str(error).replace(str(draft), str(file))) from None
    task = registry.load("tasks", config.task.name).TASK
    distinct = {getattr(config.dataset.splits, role): role for role in reversed(ROLES)}
    for role in ROLES if limit is None else distinct.values():
        example = open_role(config.dataset, role)[0]
        for image in example.images:
            decode_rgb(image)
        task.prompt(config.task, example)
        task.truth(config.task, example)
        if role == "train":
            task.target(config.task, example)
    limits = {} if limit is None else {"train": limit}
    return config.model_copy(update={"dataset": config.dataset.model_copy(update={"limit": Limits(**limits)})})


def _render(
    text: str,
    source: SourceSettings,
    draft: Draft,
    columns: list[Column],
    given: Mapping[str, Any],
    why: Mapping[tuple[str, str], str] | None = None,
) -> str:
    dataset = {**source.block, **draft.dataset}
    if isinstance(dataset.setdefault("splits", source.splits), dict):
        dataset["splits"] = {**source.splits, **dataset["splits"]}
    if len(set(dataset["splits"].values())) < len(dataset["splits"]):
        dataset.setdefault("shares", SHARES)
    reasons = {
        ("dataset", "source"): source.reason,
        ("dataset", "splits"): source.warning,
        ("model", "name"): "or another size, or tiny to try it without a download",
        ("task", "name"): "set on the command line",
        **draft.reasons,
        **(why or {}),
    }
    if "separator" in source.block:
        reasons["dataset", "separator"] = "separates the columns of the header"
    stem = Path(text).stem if Path(text).exists() else text.rsplit("/", 1)[-1]
    blocks: dict[str, dict[str, Any]] = {
        "model": {"name": MODEL},
        "dataset": dataset,
        "task": {"name": draft.task["name"], **draft.task},
        "output": {"dir": f"outputs/{stem or 'first'}"},
    }
    for name, block in given.items():
        if name not in ("dataset", "task"):
            blocks[name] = {**blocks.get(name, {}), **block} if isinstance(block, dict) else block
    lines = [
        f"# Written by `vlmtune init`, inferred from the first rows of {_one_line(text)}. Comments give the reasons;",
        "# correct what is wrong. docs/config.md describes every key, docs/data.md shows other datasets.",
    ]
    unused = _unused(columns, draft)
    for name, block in blocks.items():
        lines += ["", f"{name}:" if isinstance(block, dict) else f"{name}: {_value(block)}"]
        if isinstance(block, dict):
            lines += list(_lines(block, name, reasons, "  "))
        if name == "dataset" and unused:
            lines += [f"  # not used: {unused}; meta: [NAME] copies a column to the prediction file"]
            lines += ["  # limit: {train: 2000, validation: 500, test: 500}"]
        if name == "task":
            lines += [f"  # tasks: {', '.join(registry.available('tasks'))}"]
    return "\n".join(lines) + "\n"


def _unused(columns: list[Column], draft: Draft) -> str:
    """The columns without a role; "" if there are none."""
    unused = [f"{column.name} ({column.kind})" for column in columns if column.name not in draft.used_columns()]
    more = [f"and {len(unused) - MAX_UNUSED:,} more"] if len(unused) > MAX_UNUSED else []
    return ", ".join(map(_one_line, [*unused[:MAX_UNUSED], *more]))


def _lines(block: Mapping[str, Any], name: str, reasons: Mapping[tuple[str, str], str], indent: str) -> Iterator[str]:
    for key, value in block.items():
        if isinstance(value, dict) and key not in INLINE_KEYS:
            yield f"{indent}{key}:"
            yield from _lines(value, f"{name}.{key}", reasons, indent + "  ")
            continue
        reason = reasons.get((name, key), "")
        yield f"{indent}{key}: {_value(value)}" + (f" # {_one_line(reason)}" if reason else "")


def _value(value: Any) -> str:
    """A value as YAML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    is_plain = isinstance(value, str) and _PLAIN_SCALAR.fullmatch(value) and value.strip() == value
    return str(value) if is_plain and value.lower() not in _YAML_KEYWORDS else json.dumps(value, ensure_ascii=False)


def _one_line(text: str) -> str:
    """Text from the data on one line without control characters, for a comment."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
