"""A config file with a reason beside every guess, proven before it is there."""

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vlmtune import plugs
from vlmtune.checks.starting import columns as looking
from vlmtune.checks.starting.details import complete
from vlmtune.checks.starting.guessing import Guess, guess
from vlmtune.checks.starting.places import Place, find
from vlmtune.config import load
from vlmtune.errors import ConfigError
from vlmtune.files import write_atomic
from vlmtune.images import decode_rgb

LOOKED_AT = 50
FETCHED = 200
"""Rows of a dataset that is not here: what is downloaded to guess from."""

MODEL = "Qwen/Qwen3-VL-8B-Instruct"
SHARES = {"train": 0.8, "select": 0.1, "test": 0.1}
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
    block = {**place.block, **said["dataset"]}
    plug = plugs.load("data", block["source"])
    more = {"stream": True} if place.remote else {}
    known = {key: block[key] for key in block if key not in ("splits", "limit")}
    try:
        settings = plug.Config.model_validate({**known, **more})
    except ValidationError as error:
        wrong = error.errors()[0]
        raise ConfigError(f"--set dataset.{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}") from None
    records = plug.records(settings, place.splits["train"], FETCHED if place.remote else None)
    first = [records.read(index) for index in range(min(LOOKED_AT, records.count))]
    columns = looking.look(first)
    made = guess(columns, said, text)
    complete(made, records, first, whole=not place.remote)
    content = _render(text, place, made, columns, told)
    _prove(content, file, FETCHED if place.remote else None)
    write_atomic(file, content)
    doubts = [why for why in (place.doubt, *made.why.values()) if why.startswith("!")]
    return Written(file, made.task["name"], [why.removeprefix("! ") for why in doubts])


def _block(told: Mapping[str, Any], name: str) -> dict[str, Any]:
    block = told.get(name, {})
    if not isinstance(block, dict):
        raise ConfigError(
            f"--set {name}: is a block; set its keys, as {name}.{'path' if name == 'dataset' else 'name'}=…"
        )
    return block


def _prove(content: str, file: Path, fetched: int | None) -> None:
    """That a config loads, and the first row of every split can be asked, taught and decoded."""
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder, file.name)
        draft.write_text(content, encoding="utf-8")
        over: list[dict[str, Any]] = []
        if fetched is not None:
            over = [{"dataset": {"stream": True}}]
        config = load(str(draft), over).config
    source, task = plugs.load("data", config.dataset.source), plugs.load("tasks", config.task.name).TASK
    for split in dict.fromkeys((config.dataset.splits.train, config.dataset.splits.select, config.dataset.splits.test)):
        limit = fetched if split == config.dataset.splits.train else 1
        example = source.open(config.dataset, split, limit or 1)[0]
        for image in example.images:
            decode_rgb(image)
        task.ask(config.task, example)
        task.truth(config.task, example)
        if split == config.dataset.splits.train:
            task.teach(config.task, example)


def _render(text: str, place: Place, made: Guess, columns: list[looking.Column], told: Mapping[str, Any]) -> str:
    dataset = {**place.block, **made.dataset}
    dataset.setdefault("splits", place.splits)
    if len(set(dataset["splits"].values())) < len(dataset["splits"]):
        dataset.setdefault("shares", SHARES)
    used = made.names()
    spare = [f"{column.name} ({column.kind})" for column in columns if column.name not in used]
    why = {("dataset", "source"): place.why, ("dataset", "splits"): place.doubt, **made.why}
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
            lines += ["  # limit: {train: 2000, select: 500, test: 500}"]
        if name == "task":
            lines += [f"  # tasks: {', '.join(plugs.available('tasks'))}"]
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
