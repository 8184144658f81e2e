"""The check of a dataset: every row of every part looked at, copies found within and across them.

What a check leaves in the run folder: its result as JSON and as a page, and the quarantine where rows may be bad.

The result of a check as plain values: what `data_check.json` holds.
"""

import functools
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmtune.config import Config
from vlmtune.dataset_check.examples import Reader
from vlmtune.dataset_check.findings import KINDS, Finding, bad_rows, first_reasons
from vlmtune.dataset_check.image_index import Pictures
from vlmtune.dataset_check.leakage import Told, copies, leaks, near_copies, near_leaks, shared
from vlmtune.dataset_check.quarantine import CHECK, Quarantine, settings_key
from vlmtune.dataset_check.report import render, thumbnails
from vlmtune.dataset_check.splits import Part, parts_of
from vlmtune.files import read_json, write_atomic, write_json
from vlmtune.modeling.loading import Checkpoint
from vlmtune.prefetch import Prefetch
from vlmtune.processing.encoder import Encoder, ImageHeaders
from vlmtune.progress import Progress
from vlmtune.run_folder import DATA_CHECK, DATA_CHECK_PAGE
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
    def encoder(self) -> Encoder:
        """What encodes the rows."""
        return Encoder(self.checkpoint, self.config.model, ImageHeaders)

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
        facts = self.encoder.facts()
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
        reader = Reader(part.config, part.task, part.name, part.rows, self.encoder, pictures, teaches, answered)
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


def check(asked: Check, folder: Path) -> dict[str, Any]:
    """Check a dataset; write the result, the page and the quarantine into a run folder. Returns the result."""
    found, parts = asked.run(folder / DATA_CHECK)
    write_json(folder / DATA_CHECK, found)
    rows = {part.name: part.rows for part in parts if part.rows is not None}
    write_atomic(folder / DATA_CHECK_PAGE, render(found, thumbnails(found, rows)))
    if found["status"] != "errors":
        compared = {part.name: part.fingerprint for part in parts if part.evaluated and part.name != "train"}
        for part in parts:
            if part.rows is not None and part.config.dataset.max_bad_fraction > 0:
                quarantine = Quarantine(folder, part.config, asked.encoder.facts())
                bad = first_reasons(found["findings"], part.name)
                quarantine.keep(part.name, part.rows, bad, CHECK, compared if part.name == "train" else None)
    return found


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
    validation = next((part for part in parts if part.name == "validation"), None)
    if validation is not None and validation not in evaluated:
        others = [part for part in (train, *evaluated) if part is not None and not part.further]
        for other in dict.fromkeys(part.name for part in others if not part.same_rows(validation)):
            validation.findings += shared(told["validation"], told[other])
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


SCHEMA_VERSION = 2
LISTED = 5000
"""Warnings of one kind and role that are listed; further ones are only counted. Errors are listed all."""

BINS = 24


def result(config: Config, parts: Sequence[Part], pictures: Pictures, key: str, crowded: int) -> dict[str, Any]:
    """Everything found.

    Args:
        config: of the run.
        parts: all of them, looked at.
        pictures: that they show.
        key: hash of all that the result depends on.
        crowded: pictures that were not compared with all that have like signs.
    """
    splits = [_split(part, pictures) for part in parts]
    findings = [found for part in parts for found in _in_order(part.findings)]
    counts = Counter((found.kind, found.role) for found in findings)
    warned = any(found.severity == "warning" for found in findings)
    over = any(found.severity == "error" and found.place is None for found in findings) or any(
        split["bad"] and split["bad_fraction"] > part.config.dataset.max_bad_fraction
        for part, split in zip(parts, splits, strict=True)
    )
    bad = any(split["bad"] for split in splits)
    return {
        "schema_version": SCHEMA_VERSION,
        "key": key,
        "status": "errors" if over else "left_out" if bad else "warnings" if warned else "clean",
        "max_bad_fraction": config.dataset.max_bad_fraction,
        "evaluated": config.evaluation.split,
        "errors": sum(found.severity == "error" for found in findings),
        "warnings": sum(found.severity == "warning" for found in findings),
        "counts": [
            {"kind": kind, "severity": KINDS[kind].severity, "role": part.name, "count": counts[kind, part.name]}
            for kind in KINDS
            for part in parts
            if counts[kind, part.name]
        ],
        "splits": splits,
        "crowded": crowded,
        "findings": [found.to_json() for found in _listed(findings)],
    }


def spread(values: NDArray[Any]) -> dict[str, float] | None:
    """Where numbers lie; None where there are none."""
    if not len(values):
        return None
    low, middle, high = np.percentile(values, (5, 50, 95)).tolist()
    return {
        "min": int(values.min()),
        "p5": low,
        "p50": middle,
        "p95": high,
        "max": int(values.max()),
        "mean": float(values.mean()),
    }


def _in_order(findings: Sequence[Finding]) -> list[Finding]:
    kinds = list(KINDS)
    return sorted(findings, key=lambda one: (kinds.index(one.kind), one.place.row if one.place else -1))


def _listed(findings: Sequence[Finding]) -> Iterator[Finding]:
    seen: Counter[tuple[str, str]] = Counter()
    for found in findings:
        seen[found.kind, found.role] += 1
        if found.severity == "error" or seen[found.kind, found.role] <= LISTED:
            yield found


def _split(part: Part, pictures: Pictures) -> dict[str, Any]:
    """One part in numbers."""
    numbers = np.unique(np.array(part.shown.pictures, np.int64))
    good = [int(number) for number in numbers if pictures.error(int(number)) is None]
    traits: Counter[str] = Counter()
    for number in part.shown.pictures:
        traits.update(pictures.traits(number))
    failed = sum(found.kind == "image" for found in part.findings)
    unread = failed - sum(pictures.error(number) is not None for number in part.shown.pictures)
    traits.update({"not decoded": failed} if failed else {})
    sides = np.array([pictures.size(number) for number in good], np.int64).reshape(-1, 2)
    bad = bad_rows(part.findings, part.name)
    return {
        "role": part.name,
        "split": part.split,
        "rows": part.count,
        "bad": len(bad),
        "bad_fraction": len(bad) / part.count if part.count else 0.0,
        "fingerprint": part.fingerprint,
        "pictures": len(part.shown.pictures) + unread,
        "different_files": len(numbers),
        "traits": dict(sorted(traits.items(), key=lambda item: (-item[1], item[0]))),
        "width": spread(sides[:, 0]),
        "height": spread(sides[:, 1]),
        "tokens": _tokens(part),
    }


def _tokens(part: Part) -> dict[str, Any] | None:
    """Lengths of lessons, or of prompts where nothing is taught."""
    tokens = np.array(part.tokens, np.int64)
    told = spread(tokens)
    if told is None:
        return None
    # Whole edges: bins with different numbers of values in them would look like a comb.
    width = -(-(int(tokens.max()) + 1 - int(tokens.min())) // BINS)
    edges = np.arange(int(tokens.min()), int(tokens.max()) + 1 + width, width)
    counts, _ = np.histogram(tokens, edges)
    total = int(tokens.sum())
    return {
        **told,
        "sum": total,
        "image_share": sum(part.image_tokens) / total,
        "supervised_share": sum(part.supervised) / total,
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }
