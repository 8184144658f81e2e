"""Checks all rows of a dataset and writes the result (JSON), a page and the quarantine."""

import contextlib
import functools
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmtune.config import Config
from vlmtune.dataset_check.examples import RowChecker
from vlmtune.dataset_check.findings import KINDS, Finding, Place, RowLocation, bad_rows, first_reasons
from vlmtune.dataset_check.image_index import UNEVEN, ImageIndex
from vlmtune.dataset_check.leakage import (
    RoleImages,
    duplicates,
    leaks,
    near_duplicates,
    near_leaks,
    validation_overlaps,
)
from vlmtune.dataset_check.quarantine import CHECK, Quarantine, settings_key
from vlmtune.dataset_check.report import render, thumbnails
from vlmtune.dataset_check.splits import MAX_SHOWN, CheckedSplit, splits_of
from vlmtune.errors import IntegrityError
from vlmtune.files import read_json, write_atomic, write_json
from vlmtune.modeling.loading import Checkpoint
from vlmtune.prefetch import Prefetch
from vlmtune.processing.answer_lengths import cut_off
from vlmtune.processing.encoder import Encoder, ImageHeaders
from vlmtune.progress import Progress
from vlmtune.run_layout import DATA_CHECK, DATA_CHECK_PAGE
from vlmtune.signals import StopRequest
from vlmtune.tasks import Task
from vlmtune.training.thinking import open_encoder

SCHEMA_VERSION = 4

BATCH_ROWS = 64
"""Rows whose images are stored at once; so many are checked again after a crash."""

MAX_LISTED = 5000
"""Warnings listed per kind and role; further ones are only counted. Errors are all listed."""

MIN_TARGETS = 5
"""Targets from which it is no chance that all are equal."""

UNUSUAL = ("tiny", "narrow", "animated", UNEVEN)
FEW = 10
"""Unusual images of a split that are listed, even if most of its images are like them."""

LINE = 3.0
"""Median ratio of the sides from which the images of a split are lines of text."""

BINS = 24


@dataclass(frozen=True)
class DatasetCheck:
    """The check of a dataset.

    Args:
        config: the run's config.
        task: its task.
        checkpoint: its tokenizer, chat template and image processing are used; no model is loaded.
        index_file: file in which decoded images are indexed.
        progress: shows the rows.
        stop: checked between batches.
    """

    config: Config
    task: Task
    checkpoint: Checkpoint
    index_file: Path
    progress: Progress
    stop: StopRequest

    @functools.cached_property
    def encoder(self) -> Encoder:
        """Encodes the rows without their pixels."""
        config = self.config
        return open_encoder(self.checkpoint, config.model, config.training, config.dataset, ImageHeaders)

    def write(self, folder: Path) -> dict[str, Any]:
        """Check the dataset; write result, page and quarantine to a run folder. Returns the result."""
        result, splits = self.run(folder / DATA_CHECK)
        write_json(folder / DATA_CHECK, result)
        rows = {split.name: split.rows for split in splits if split.rows is not None}
        write_atomic(folder / DATA_CHECK_PAGE, render(result, thumbnails(result, rows)))
        if result["status"] != "errors":
            compared = {split.name: split.fingerprint for split in splits if split.evaluated and split.name != "train"}
            for split in splits:
                if split.rows is not None and split.config.dataset.max_bad_fraction > 0:
                    quarantine = Quarantine(folder, split.config, self.encoder.facts())
                    bad = first_reasons(result["findings"], split.name)
                    is_train = split.trained and split.role == "train"
                    quarantine.write(split.name, split.rows, bad, CHECK, compared if is_train else None)
        return result

    def run(self, previous: Path) -> tuple[dict[str, Any], list[CheckedSplit]]:
        """The result as plain values, and the splits that could be opened.

        Args:
            previous: result of an earlier check, which is returned if nothing has changed since. It is not if an image
                could not be decoded then: the file may have been incomplete, and decoding the others again is cheap.
        """
        splits = list(splits_of(self.config, self.task))
        for split in splits:
            split.open()
        opened = [split for split in splits if split.rows is not None]
        key = self._key(splits)
        known = _intact(previous)
        if known.get("key") == key and not any(finding["kind"] == "image" for finding in known["findings"]):
            self.progress.note(f"nothing has changed since {previous} was written")
            return known, opened
        index = ImageIndex(self.index_file)
        for split in opened:
            self._check_rows(split, index)
            split.findings += [*whole_split(split), *_property_warnings(split, index)]
        skipped = _compare_images(opened, index)
        result = summarize(self.config, splits, index, key, skipped)
        return {**result, "digest": _digest(result)}, opened

    def _key(self, splits: Sequence[CheckedSplit]) -> str:
        """Hash of everything the result depends on."""
        facts = self.encoder.facts()
        inputs = [
            SCHEMA_VERSION,
            [
                (
                    split.name,
                    split.split,
                    split.fingerprint,
                    settings_key(split.config, facts),
                    split.config.dataset.max_bad_fraction,
                    split.evaluated,
                    split.trained,
                    split.config.inference.answer_limit,
                )
                for split in splits
            ],
        ]
        return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()

    def _check_rows(self, split: CheckedSplit, index: ImageIndex) -> None:
        assert split.rows is not None
        answered = split.role == "test" or split.evaluated
        checker = RowChecker(
            split.config, split.task, split.name, split.rows, self.encoder, index, split.trained, answered
        )
        batches = [range(start, min(start + BATCH_ROWS, split.count)) for start in range(0, split.count, BATCH_ROWS)]
        with (
            Prefetch(checker.check, batches, len(os.sched_getaffinity(0))) as feed,
            self.progress.step(f"check {split.name} rows", split.count) as step,
        ):
            for rows in feed:
                numbers = iter(index.store([image for row in rows for image in row.images]))
                for row in rows:
                    split.add(row, [next(numbers) for _ in row.images])
                step.advance(len(rows))
                self.stop.raise_if_requested("images decoded so far are indexed")


def _intact(file: Path) -> dict[str, Any]:
    """The result of an earlier check as it was written; empty without one, or if anything in it has changed."""
    with contextlib.suppress(IntegrityError):
        known: dict[str, Any] = read_json(file) if file.is_file() else {}
        if known.get("digest") == _digest(known):
            return known
    return {}


def _digest(result: Mapping[str, Any]) -> str:
    """Hash of a result, by which damage to its file is noticed."""
    content = json.dumps({key: value for key, value in result.items() if key != "digest"}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _compare_images(splits: Sequence[CheckedSplit], index: ImageIndex) -> int:
    """Add findings about images that occur twice; returns the number of images with too many candidates."""
    images = {split.name: split.occurrences.decodable(index, split.locate) for split in splits}
    # Roles may have the same rows; duplicates in them are reported for one role, preferably an evaluated one.
    distinct: list[CheckedSplit] = []
    own = (one for one in splits if not one.is_additional or one.trained)
    for split in sorted(own, key=lambda one: not one.evaluated):
        if not any(split.has_same_rows(other) for other in distinct):
            distinct.append(split)
    skipped = 0
    for split in distinct:
        split.findings += duplicates(images[split.name], split.contradiction)
        findings, count = near_duplicates(images[split.name], index)
        split.findings += findings
        skipped += count
    evaluated = [split for split in splits if split.evaluated]
    trained = [split for split in splits if split.trained and split.role == "train"]
    for train in trained:
        skipped += _compare_with_train(train, [split for split in evaluated if split is not train], images, index)
    validation = next((split for split in splits if split.name == "validation"), None)
    if validation is not None and validation not in evaluated:
        others = [split for split in (*trained, *evaluated) if split.trained or not split.is_additional]
        for name in dict.fromkeys(split.name for split in others if not split.has_same_rows(validation)):
            validation.findings += validation_overlaps(images["validation"], images[name])
    return skipped


def _compare_with_train(
    train: CheckedSplit, evaluated: Sequence[CheckedSplit], images: dict[str, RoleImages], index: ImageIndex
) -> int:
    """Add findings about evaluated images in the train rows; each train row is reported once. Returns as above."""
    skipped = 0
    leaked: dict[int, Finding] = {}
    for split in evaluated:
        if split.has_same_rows(train):
            message = f"{train.split!r} is the split of both the train and the {split.role} role"
            train.findings.append(Finding("leak", train.name, message))
            continue
        for finding in leaks(images[train.name], images[split.name]):
            assert finding.location is not None
            leaked.setdefault(finding.location.row, finding)
        findings, count = near_leaks(images[split.name], images[train.name], index)
        split.findings += findings
        skipped += count
    train.findings += leaked.values()
    return skipped


def whole_split(split: CheckedSplit) -> Iterator[Finding]:
    """What only all rows together show: equal targets, a placeholder in the task's prompt, references cut off."""
    is_train = split.trained and split.role == "train"
    if is_train and len(split.targets) == 1 and (count := split.targets.total()) >= MIN_TARGETS:
        (target,) = split.targets
        yield Finding("constant", split.name, f"all {count:,} targets are {target!r:.{MAX_SHOWN}}")
    if split.prompt_mark:
        yield Finding(
            "placeholder", split.name, f"{split.prompt_mark} in the prompt of the task is not replaced by anything"
        )
    limit = split.config.inference.answer_limit
    if split.evaluated and (message := cut_off(split.answers, limit)) is not None:
        yield Finding("cut-off", split.name, message)


def _property_warnings(split: CheckedSplit, index: ImageIndex) -> Iterator[Finding]:
    """Warnings about unusual images; what most images of a split have in common is one finding."""
    rows, positions, images = (column.tolist() for column in split.occurrences.columns())
    unusual = {name: [n for n, image in enumerate(images) if name in index.properties(image)] for name in UNUSUAL}
    if _shows_lines(split, [index.size(image) for image in images]):
        unusual["narrow"] = []
    for name, found in unusual.items():
        if len(found) > max(FEW, len(images) / 2):
            yield Finding(name, split.name, f"{len(found):,} of {len(images):,} images")
            continue
        for n in found:
            width, height = index.size(images[n])
            yield Finding(name, split.name, f"{width}x{height} pixels", split.locate(rows[n], positions[n]))


def _shows_lines(split: CheckedSplit, sizes: Sequence[tuple[int, int]]) -> bool:
    """Whether a split is made of lines of text, which are narrow by nature."""
    ratios = [max(size) / min(size) for size in sizes if min(size)]
    return split.config.task.name == "ocr" or (bool(ratios) and float(np.median(ratios)) > LINE)


def summarize(
    config: Config, splits: Sequence[CheckedSplit], index: ImageIndex, key: str, skipped: int
) -> dict[str, Any]:
    """The result as plain values.

    Args:
        config: the run's config.
        splits: all of them, after their rows were checked.
        index: their images.
        key: hash of everything the result depends on.
        skipped: number of images that were not compared with all similar ones.
    """
    by_name = {split.name: split for split in splits}

    def place(location: RowLocation) -> Place:
        return by_name[location.role].place(location, index)

    summaries = [_split_summary(split, index) for split in splits]
    findings = [finding for split in splits for finding in _in_order(split.findings)]
    counts = Counter((finding.kind, finding.role) for finding in findings)
    has_warnings = any(finding.severity == "warning" for finding in findings)
    over_budget = any(finding.severity == "error" and finding.location is None for finding in findings) or any(
        summary["bad"] and summary["bad_fraction"] > split.config.dataset.max_bad_fraction
        for split, summary in zip(splits, summaries, strict=True)
    )
    has_bad = any(summary["bad"] for summary in summaries)
    return {
        "schema_version": SCHEMA_VERSION,
        "key": key,
        "status": "errors" if over_budget else "left_out" if has_bad else "warnings" if has_warnings else "clean",
        "max_bad_fraction": config.dataset.max_bad_fraction,
        "evaluated": config.evaluation.split,
        "errors": sum(finding.severity == "error" for finding in findings),
        "warnings": sum(finding.severity == "warning" for finding in findings),
        "counts": [
            {"kind": kind, "severity": KINDS[kind].severity, "role": split.name, "count": counts[kind, split.name]}
            for kind in KINDS
            for split in splits
            if counts[kind, split.name]
        ],
        "splits": summaries,
        "not_fully_compared": skipped,
        "findings": [finding.to_json(place) for finding in _listed(findings)],
    }


def distribution(values: NDArray[Any]) -> dict[str, float] | None:
    """Minimum, quantiles, maximum and mean; None without values."""
    if not len(values):
        return None
    p5, p50, p95 = np.percentile(values, (5, 50, 95)).tolist()
    return {
        "min": int(values.min()),
        "p5": p5,
        "p50": p50,
        "p95": p95,
        "max": int(values.max()),
        "mean": float(values.mean()),
    }


def _in_order(findings: Sequence[Finding]) -> list[Finding]:
    kinds = list(KINDS)
    return sorted(findings, key=lambda one: (kinds.index(one.kind), one.location.row if one.location else -1))


def _listed(findings: Sequence[Finding]) -> Iterator[Finding]:
    seen: Counter[tuple[str, str]] = Counter()
    for finding in findings:
        seen[finding.kind, finding.role] += 1
        if finding.severity == "error" or seen[finding.kind, finding.role] <= MAX_LISTED:
            yield finding


def _split_summary(split: CheckedSplit, index: ImageIndex) -> dict[str, Any]:
    """One split in numbers."""
    numbers = np.unique(np.array(split.occurrences.images, np.int64))
    decodable = [int(number) for number in numbers if index.error(int(number)) is None]
    properties: Counter[str] = Counter()
    for number in split.occurrences.images:
        properties.update(index.properties(number))
    failed = sum(finding.kind == "image" for finding in split.findings)
    unreadable = failed - sum(index.error(number) is not None for number in split.occurrences.images)
    properties.update({"not decoded": failed} if failed else {})
    sides = np.array([index.size(number) for number in decodable], np.int64).reshape(-1, 2)
    bad = bad_rows(split.findings)
    return {
        "role": split.name,
        "split": split.split,
        "rows": split.count,
        "bad": len(bad),
        "bad_fraction": len(bad) / split.count if split.count else 0.0,
        "fingerprint": split.fingerprint,
        "images": len(split.occurrences.images) + unreadable,
        "distinct_images": len(numbers),
        "empty_fields": dict(sorted(split.empty.items())),
        "properties": dict(sorted(properties.items(), key=lambda item: (-item[1], item[0]))),
        "width": distribution(sides[:, 0]),
        "height": distribution(sides[:, 1]),
        "tokens": _token_summary(split),
    }


def _token_summary(split: CheckedSplit) -> dict[str, Any] | None:
    """Lengths of the training examples, or of the prompts of rows that are not trained on."""
    tokens = np.array(split.tokens, np.int64)
    lengths = distribution(tokens)
    if lengths is None:
        return None
    # Integer edges: with fractional ones, bins would contain different numbers of integers and look jagged.
    width = -(-(int(tokens.max()) + 1 - int(tokens.min())) // BINS)
    edges = np.arange(int(tokens.min()), int(tokens.max()) + 1 + width, width)
    counts, _ = np.histogram(tokens, edges)
    total = int(tokens.sum())
    return {
        **lengths,
        "sum": total,
        "image_fraction": sum(split.image_tokens) / total,
        "supervised_fraction": sum(split.supervised) / total,
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }
