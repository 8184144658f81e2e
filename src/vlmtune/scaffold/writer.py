"""A config file with a reason beside every guess, proven before it is there."""

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vlmtune import registry
from vlmtune.config import load
from vlmtune.data import ROLES, Record, Records, open_role, structured
from vlmtune.errors import ConfigError, DataError
from vlmtune.files import write_atomic
from vlmtune.images import decode_rgb
from vlmtune.scaffold import columns as looking
from vlmtune.scaffold.infer_roles import Guess, complete, guess
from vlmtune.scaffold.sources import Place, find, lifted

LOOKED_AT = 50
FETCHED = 200
"""Rows of a dataset that is not here: what is downloaded to guess from."""

MODEL = "Qwen/Qwen3-VL-8B-Instruct"
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
FLOW = {"splits", "shares", "limit"}
_PLAIN = re.compile(r"[A-Za-z_./][\w./ -]*")
_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "~"}


@dataclass(frozen=True)
class Written:
    """What was made: the file, what it says of the task, and what is doubtful (sentences that begin with "!")."""

    file: Path
    task: str
    doubts: list[str]


def write(text: str, file: Path, told: Mapping[str, Any]) -> Written:
    """A config for a dataset.

    Args:
        text: a file, a folder, or a name on the Hub.
        file: where the config goes.
        told: nested keys that the user settled; they are taken as they are.

    Raises:
        ConfigError: `file` is there already; nothing readable under `text`; what was told is no config.
        DataError: it cannot be told what the columns are for, or the first row cannot be read; nothing was written.
        EnvironmentProblem: the Hub cannot be reached.
    """
    if file.exists():
        raise ConfigError(f"{file} is there already and stays as it is; choose another name with -o")
    said = {name: _block(told, name) for name in ("dataset", "task")}
    place = find(text, said["dataset"])
    records = _records(place, said["dataset"])
    first = [records.read(index) for index in range(min(LOOKED_AT, records.count))]
    columns = looking.look(first)
    _refuse_one_object(records, columns)
    made = guess(columns, said, text)
    if place.block["source"] in ("jsonl", "table") and "path" not in said["dataset"]:
        place = lifted(place, _pictures_of(first[0], made))
        records = _records(place, said["dataset"])
    complete(made, records, first, whole=not place.remote)
    content = _render(text, place, made, columns, told)
    _prove(content, file, FETCHED if place.remote else None)
    write_atomic(file, content)
    doubts = [why for why in (place.doubt, *made.why.values()) if why.startswith("!")]
    return Written(file, made.task["name"], [why.removeprefix("! ") for why in doubts])


def _records(place: Place, said: Mapping[str, Any]) -> Records:
    """What is learnt from, before its columns have roles.

    Raises:
        ConfigError: what was told does not fit the source.
        DataError, EnvironmentProblem: as the source.
    """
    block = {**place.block, **said}
    plugin = registry.load("data", block["source"])
    more = {"stream": True} if place.remote else {}
    known = {key: block[key] for key in block if key not in ("splits", "limit")}
    try:
        settings = plugin.Config.model_validate({**known, **more})
    except ValidationError as error:
        wrong = error.errors()[0]
        raise ConfigError(f"--set dataset.{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}") from None
    records: Records = plugin.records(settings, place.splits["train"], FETCHED if place.remote else None)
    return records


def _refuse_one_object(records: Records, columns: list[looking.Column]) -> None:
    """That a file is no dictionary of tables, as COCO's annotations are."""
    tables = [column for column in columns if column.kind == "other" and all(map(_is_table, column.values))]
    pictures = [column for column in columns if column.kind in ("image", "images", "talk")]
    if records.count == 1 and tables and not pictures:
        raise DataError(
            f"{records.where}: one JSON object, not rows; its keys are {', '.join(column.name for column in columns)}. "
            "Write a row for each answer, with its picture's path, as one object a line or an array of objects"
        )


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _pictures_of(record: Record, made: Guess) -> str:
    """The first picture that a row names; "" where it names none."""
    column = made.dataset.get("images") or made.dataset.get("image")
    value = structured(record.get(column[0] if isinstance(column, list) else column)) if column else None
    value = value[0] if isinstance(value, list) and value else value
    return value if isinstance(value, str) else ""


def _block(told: Mapping[str, Any], name: str) -> dict[str, Any]:
    block = told.get(name, {})
    if not isinstance(block, dict):
        raise ConfigError(
            f"--set {name}: is a block; set its keys, as {name}.{'path' if name == 'dataset' else 'name'}=…"
        )
    return block


def _prove(content: str, file: Path, fetched: int | None) -> None:
    """That a config loads, every role has rows, and the first one of each can be asked, taught and decoded.

    Rows that cannot be used are found by `data check`, which names all of them.
    """
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder, file.name)
        draft.write_text(content, encoding="utf-8")
        limit = {role: fetched if fetched and role == "train" else 1 for role in ROLES}
        # To part a split that is not here, all of it would be fetched.
        more = {"max_bad_fraction": 1} if fetched is None else {"stream": True, "shares": None}
        config = load(str(draft), [{"dataset": {"limit": limit, **more}}]).config
    task = registry.load("tasks", config.task.name).TASK
    first = {getattr(config.dataset.splits, role): role for role in reversed(ROLES)}
    for role in ROLES if fetched is None else first.values():
        example = open_role(config.dataset, role)[0]
        for image in example.images:
            decode_rgb(image)
        task.ask(config.task, example)
        task.truth(config.task, example)
        if role == "train":
            task.teach(config.task, example)


def _render(text: str, place: Place, made: Guess, columns: list[looking.Column], told: Mapping[str, Any]) -> str:
    dataset = {**place.block, **made.dataset}
    if isinstance(dataset.setdefault("splits", place.splits), dict):
        dataset["splits"] = {**place.splits, **dataset["splits"]}
    if len(set(dataset["splits"].values())) < len(dataset["splits"]):
        dataset.setdefault("shares", SHARES)
    used = made.names()
    spare = [f"{column.name} ({column.kind})" for column in columns if column.name not in used]
    why = {("dataset", "source"): place.why, ("dataset", "splits"): place.doubt, **made.why}
    if "separator" in place.block:
        why["dataset", "separator"] = "parts the names in the first line"
    why["model", "name"] = "another size of the family, or tiny for a try without a download"
    why["task", "name"] = f"{made.why.get(('task', 'name'), 'as you said')}"
    stem = Path(text).stem if Path(text).exists() else text.rsplit("/", 1)[-1]
    blocks: dict[str, dict[str, Any]] = {
        "model": {"name": MODEL},
        "dataset": dataset,
        "task": {"name": made.task["name"], **made.task},
        "output": {"dir": f"outputs/{stem or 'first'}"},
    }
    for name, block in told.items():
        if name not in ("dataset", "task"):
            blocks[name] = {**blocks.get(name, {}), **block} if isinstance(block, dict) else block
    lines = [
        f"# Written by vlmtune init from {_shown(text)}, by what its first rows hold. Behind each guess",
        "# stands why: change what is wrong. docs/config.md describes every key, docs/data.md shows other datasets.",
    ]
    for name, block in blocks.items():
        lines += ["", f"{name}:" if isinstance(block, dict) else f"{name}: {_value(block)}"]
        if isinstance(block, dict):
            lines += list(_lines(block, name, why, "  "))
        if name == "dataset" and spare:
            lines += [
                f"  # not used: {', '.join(map(_shown, spare))}; meta: [NAME] carries one into the prediction file"
            ]
            lines += ["  # limit: {train: 2000, validation: 500, test: 500}"]
        if name == "task":
            lines += [f"  # tasks: {', '.join(registry.available('tasks'))}"]
    return "\n".join(lines) + "\n"


def _lines(block: Mapping[str, Any], name: str, why: Mapping[tuple[str, str], str], margin: str) -> Iterator[str]:
    for key, value in block.items():
        if isinstance(value, dict) and key not in FLOW:
            yield f"{margin}{key}:"
            yield from _lines(value, f"{name}.{key}", why, margin + "  ")
            continue
        reason = why.get((name, key), "")
        yield f"{margin}{key}: {_value(value)}" + (f" # {_shown(reason)}" if reason else "")


def _value(value: Any) -> str:
    """A value in YAML, on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    plain = (
        isinstance(value, str) and _PLAIN.fullmatch(value) and value.strip() == value and value.lower() not in _WORDS
    )
    return str(value) if plain else json.dumps(value, ensure_ascii=False)


def _shown(text: str) -> str:
    """Text of the data as it may stand in a comment: on one line."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
