"""The check of a dataset: every row of every part looked at, copies found within and across them."""

import functools
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmtune.checks.rows.findings import Finding
from vlmtune.checks.rows.parts import Part, parts_of
from vlmtune.checks.rows.pictures import Pictures
from vlmtune.checks.rows.quarantine import settings_key
from vlmtune.checks.rows.reading import Reader, SizedInputs
from vlmtune.checks.rows.result import SCHEMA_VERSION, result
from vlmtune.checks.rows.sharing import Told, copies, leaks, near_copies, near_leaks, shared
from vlmtune.config import Config
from vlmtune.files import read_json
from vlmtune.models import Checkpoint
from vlmtune.prefetch import Prefetch
from vlmtune.progress import Progress
from vlmtune.signals import StopRequest
from vlmtune.tasks import Task

TOGETHER = 64
"""Rows whose findings are kept at once: so many are looked at again after a crash."""


@dataclass(frozen=True)
class Check:
    """A dataset to be checked.

    Args:
        config: of the run.
        task: its behaviour.
        checkpoint: whose tokenizer, template and image rules count.
        cache: file that remembers decoded pictures.
        progress: hears of the rows.
        stop: asked between rows.
    """

    config: Config
    task: Task
    checkpoint: Checkpoint
    cache: Path
    progress: Progress
    stop: StopRequest

    @functools.cached_property
    def inputs(self) -> SizedInputs:
        """What encodes the rows."""
        return SizedInputs(self.checkpoint, self.config.model)

    def run(self, before: Path) -> tuple[dict[str, Any], list[Part]]:
        """Everything found, as plain values, and the parts whose rows could be opened.

        Args:
            before: result of an earlier check; taken where nothing has changed since. One in which a picture could not
                be decoded is not: it may have been read while it was fetched, and what was decoded is remembered.
        """
        parts = list(parts_of(self.config, self.task))
        for part in parts:
            part.open()
        opened = [part for part in parts if part.rows is not None]
        key = self._key(parts)
        found = read_json(before) if before.is_file() else {}
        if found.get("key") == key and not any(each["kind"] == "image" for each in found["findings"]):
            self.progress.note(f"nothing has changed since {before} was written")
            return found, opened
        pictures = Pictures(self.cache)
        for part in opened:
            self._look(part, pictures)
            part.findings += _odd(part, pictures)
        crowded = _compare(opened, pictures)
        return result(self.config, parts, pictures, key, crowded), opened

    def _key(self, parts: Sequence[Part]) -> str:
        """Hash of all that the result depends on."""
        facts = self.inputs.facts()
        known = [
            SCHEMA_VERSION,
            [
                (
                    part.name,
                    part.split,
                    part.fingerprint,
                    settings_key(part.config, facts),
                    part.config.dataset.max_bad_fraction,
                    part.evaluated,
                )
                for part in parts
            ],
        ]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()

    def _look(self, part: Part, pictures: Pictures) -> None:
        assert part.rows is not None
        teaches, answered = not part.further and part.role != "test", part.role == "test" or part.evaluated
        reader = Reader(part.config, part.task, part.name, part.rows, self.inputs, pictures, teaches, answered)
        batches = [range(start, min(start + TOGETHER, part.count)) for start in range(0, part.count, TOGETHER)]
        with (
            Prefetch(reader.look, batches, len(os.sched_getaffinity(0))) as feed,
            self.progress.step(f"check {part.name} rows", part.count) as step,
        ):
            for looked in feed:
                numbers = iter(pictures.keep([one for row in looked for one in row.pictures]))
                for row in looked:
                    part.fold(row, [next(numbers) for _ in row.pictures])
                step.advance(len(looked))
                self.stop.obey("the pictures looked at are remembered")


def _compare(parts: Sequence[Part], pictures: Pictures) -> int:
    """Findings about pictures that stand in two places; returns how many had too many like ones to compare."""
    told = {part.name: part.shown.finished(pictures, part.place) for part in parts}
    # Of two parts with the same rows, one tells what is inside them: the evaluated one, where it is one of them.
    telling: list[Part] = []
    for part in sorted((part for part in parts if not part.further), key=lambda part: not part.evaluated):
        if not any(part.same_rows(other) for other in telling):
            telling.append(part)
    crowded = 0
    for part in telling:
        part.findings += copies(told[part.name])
        found, skipped = near_copies(told[part.name], pictures)
        part.findings += found
        crowded += skipped
    evaluated = [part for part in parts if part.evaluated]
    train = next((part for part in parts if part.name == "train"), None)
    if train is not None:
        crowded += _compare_with_train(train, [part for part in evaluated if part is not train], told, pictures)
    select = next((part for part in parts if part.name == "select"), None)
    if select is not None and select not in evaluated:
        others = [part for part in (train, *evaluated) if part is not None and not part.further]
        for other in dict.fromkeys(part.name for part in others if not part.same_rows(select)):
            select.findings += shared(told["select"], told[other])
    return crowded


def _compare_with_train(train: Part, evaluated: Sequence[Part], told: dict[str, Told], pictures: Pictures) -> int:
    """Findings about evaluated pictures that are trained on; each train row is named once. Returns as `_compare`."""
    crowded = 0
    leaked: dict[int, Finding] = {}
    for part in evaluated:
        if part.same_rows(train):
            said = f"{train.split!r} plays both the train and the {part.role} role"
            train.findings.append(Finding("leak", "train", said))
            continue
        for found in leaks(told["train"], told[part.name]):
            assert found.place is not None
            leaked.setdefault(found.place.row, found)
        resembling, skipped = near_leaks(told[part.name], told["train"], pictures)
        part.findings += resembling
        crowded += skipped
    train.findings += leaked.values()
    return crowded


def _odd(part: Part, pictures: Pictures) -> Iterator[Finding]:
    """Warnings that follow from what a picture is."""
    for row, image, number in zip(*(column.tolist() for column in part.shown.occurrences()), strict=True):
        for trait in pictures.traits(number):
            if trait in ("tiny", "narrow", "animated"):
                width, height = pictures.size(number)
                yield Finding(trait, part.name, f"{width}x{height} pixels", part.place(row, image))
