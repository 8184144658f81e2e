"""The check of a dataset: every row of every role looked at, copies found across splits, all findings collected."""

import functools
import hashlib
import json
import os
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmtune.checks.rows.findings import KINDS, Finding, Place, bad_rows
from vlmtune.checks.rows.pictures import Pictures
from vlmtune.checks.rows.quarantine import settings_key
from vlmtune.checks.rows.reading import Looked, Reader, SizedInputs, whole
from vlmtune.checks.rows.sharing import Shown, copies, leaks, resembling, shared
from vlmtune.config import Config
from vlmtune.data import Rows, SplitRole
from vlmtune.errors import DataError
from vlmtune.files import read_json
from vlmtune.models import Checkpoint
from vlmtune.prefetch import Prefetch
from vlmtune.progress import Progress
from vlmtune.signals import StopRequest
from vlmtune.tasks import Task

SCHEMA_VERSION = 1
ROLES: tuple[SplitRole, ...] = ("train", "select", "test")
TOGETHER = 64
"""Rows whose findings are kept at once: so many are looked at again after a crash."""

LISTED = 5000
"""Warnings of one kind and role that are listed; further ones are only counted. Errors are listed all."""

BINS = 24


@dataclass(slots=True)
class Seen:
    """What was found in the rows of one role; arrays, for there may be millions."""

    role: SplitRole
    split: str
    rows: Rows | None
    fingerprint: str | None = None
    findings: list[Finding] = field(default_factory=list)
    tokens: "array[int]" = field(default_factory=lambda: array("i"))
    image_tokens: "array[int]" = field(default_factory=lambda: array("i"))
    supervised: "array[int]" = field(default_factory=lambda: array("i"))
    shown: Shown = field(default_factory=Shown)

    @property
    def count(self) -> int:
        """Rows."""
        return 0 if self.rows is None else len(self.rows)

    def fold(self, looked: Looked, numbers: Sequence[int]) -> None:
        """Take in one row; `numbers` are its pictures'."""
        self.findings += looked.findings
        for length in looked.lengths:
            self.tokens.append(length.tokens)
            self.image_tokens.append(length.image_tokens)
            self.supervised.append(length.supervised)
        self.shown.add(looked.row, looked.asked, numbers)


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

    def run(self, before: Path) -> tuple[dict[str, Any], dict[SplitRole, Rows]]:
        """Everything found, as plain values, and the rows of the roles that could be opened.

        Args:
            before: result of an earlier check; taken where nothing has changed since.
        """
        opened = [self._open(role) for role in ROLES]
        rows = {seen.role: seen.rows for seen in opened if seen.rows is not None}
        key = self._key(opened)
        if before.is_file() and (found := read_json(before)).get("key") == key:
            self.progress.note(f"nothing has changed since {before} was written")
            return found, rows
        pictures = Pictures(self.cache)
        for seen in opened:
            if seen.rows is not None:
                self._look(seen, pictures)
                seen.findings += _odd(seen, pictures)
        skipped = self._compare(opened, pictures)
        return self._plain(opened, pictures, key, skipped), rows

    def _open(self, role: SplitRole) -> Seen:
        """The whole split, bad rows and all."""
        split = getattr(self.config.dataset.splits, role)
        try:
            rows = whole(self.config, role)
        except DataError as error:
            return Seen(role, split, None, findings=[Finding("split", role, str(error))])
        return Seen(role, split, rows, rows.fingerprint)

    def _key(self, opened: Sequence[Seen]) -> str:
        """Hash of all that the result depends on."""
        known = [
            SCHEMA_VERSION,
            settings_key(self.config, self.inputs.facts()),
            self.config.evaluation.split,
            self.config.dataset.max_bad_fraction,
            [(seen.role, seen.split, seen.fingerprint) for seen in opened],
        ]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()

    def _look(self, seen: Seen, pictures: Pictures) -> None:
        assert seen.rows is not None
        role, count = seen.role, seen.count
        teaches, answered = role in ("train", "select"), role in ("test", self.config.evaluation.split)
        reader = Reader(self.config, self.task, role, seen.rows, self.inputs, pictures, teaches, answered)
        batches = [range(start, min(start + TOGETHER, count)) for start in range(0, count, TOGETHER)]
        with (
            Prefetch(reader.look, batches, len(os.sched_getaffinity(0))) as feed,
            self.progress.step(f"check {role} rows", count) as step,
        ):
            for looked in feed:
                numbers = iter(pictures.keep([one for row in looked for one in row.pictures]))
                for row in looked:
                    seen.fold(row, [next(numbers) for _ in row.pictures])
                step.advance(len(looked))
                self.stop.obey("the pictures looked at are remembered")

    def _compare(self, opened: Sequence[Seen], pictures: Pictures) -> int:
        """Findings about pictures that stand in two places; returns how many pairs were too many to compare."""
        by_role = {seen.role: seen for seen in opened if seen.rows is not None}
        shown = {role: seen.shown.finished(pictures, _places(seen)) for role, seen in by_role.items()}
        evaluated = self.config.evaluation.split
        # Of two roles with one split, one tells what is inside it: the evaluated one, where it is one of them.
        telling: dict[str, SplitRole] = {}
        for role in sorted(by_role, key=lambda role: role != evaluated):
            telling.setdefault(by_role[role].split, role)
        for role in telling.values():
            by_role[role].findings += copies(shown[role])
        if "train" in by_role and evaluated in by_role and evaluated != "train":
            if by_role["train"].split == by_role[evaluated].split:
                said = f"{by_role['train'].split!r} plays both the train and the {evaluated} role"
                by_role["train"].findings.append(Finding("leak", "train", said))
            else:
                by_role["train"].findings += leaks(shown["train"], shown[evaluated])
        for other in ("train", evaluated):
            both = {"select", other} <= by_role.keys() and other != "select"
            if both and by_role["select"].split != by_role[other].split:
                by_role["select"].findings += shared(shown["select"], shown[other])
        skipped = 0
        if by_role:
            found, skipped = resembling([shown[role] for role in telling.values()], evaluated, pictures)
            for one in found:
                by_role[one.role].findings.append(one)
        return skipped

    def _plain(self, opened: Sequence[Seen], pictures: Pictures, key: str, skipped: int) -> dict[str, Any]:
        allowed = self.config.dataset.max_bad_fraction
        splits = [_split(seen, pictures) for seen in opened]
        findings = [found for seen in opened for found in _in_order(seen.findings)]
        counts = Counter((found.kind, found.role) for found in findings)
        whole = any(found.severity == "error" and found.place is None for found in findings)
        bad = any(split["bad"] for split in splits)
        over = whole or any(split["bad"] and split["bad_fraction"] > allowed for split in splits)
        warned = any(found.severity == "warning" for found in findings)
        return {
            "schema_version": SCHEMA_VERSION,
            "key": key,
            "status": "errors" if over else "left_out" if bad else "warnings" if warned else "clean",
            "max_bad_fraction": allowed,
            "evaluated": self.config.evaluation.split,
            "errors": sum(found.severity == "error" for found in findings),
            "warnings": sum(found.severity == "warning" for found in findings),
            "counts": [
                {"kind": kind, "severity": KINDS[kind].severity, "role": role, "count": counts[kind, role]}
                for kind in KINDS
                for role in ROLES
                if counts[kind, role]
            ],
            "splits": splits,
            "pairs_not_compared": skipped,
            "findings": [found.to_json() for found in _listed(findings)],
        }


def _places(seen: Seen) -> Any:
    """Makes a place of a row and one of its pictures."""
    rows = seen.rows
    assert rows is not None
    return lambda row, image: Place(seen.role, row, rows.id(row), image)


def _in_order(findings: Sequence[Finding]) -> list[Finding]:
    kinds = list(KINDS)
    return sorted(findings, key=lambda one: (kinds.index(one.kind), one.place.row if one.place else -1))


def _listed(findings: Sequence[Finding]) -> Iterator[Finding]:
    seen: Counter[tuple[str, str]] = Counter()
    for found in findings:
        seen[found.kind, found.role] += 1
        if found.severity == "error" or seen[found.kind, found.role] <= LISTED:
            yield found


def _split(seen: Seen, pictures: Pictures) -> dict[str, Any]:
    """One role in numbers."""
    numbers = np.unique(np.array(seen.shown.pictures, np.int64))
    good = [int(number) for number in numbers if pictures.error(int(number)) is None]
    traits: Counter[str] = Counter()
    for number in seen.shown.pictures:
        traits.update(pictures.traits(number))
    failed = sum(found.kind == "image" for found in seen.findings)
    unread = failed - sum(pictures.error(number) is not None for number in seen.shown.pictures)
    traits.update({"not decoded": failed} if failed else {})
    sides = np.array([pictures.size(number) for number in good], np.int64).reshape(-1, 2)
    bad = bad_rows(seen.findings, seen.role)
    return {
        "role": seen.role,
        "split": seen.split,
        "rows": seen.count,
        "bad": len(bad),
        "bad_fraction": len(bad) / seen.count if seen.count else 0.0,
        "fingerprint": seen.fingerprint,
        "pictures": len(seen.shown.pictures) + unread,
        "different_files": len(numbers),
        "traits": dict(sorted(traits.items(), key=lambda item: (-item[1], item[0]))),
        "width": _spread(sides[:, 0]),
        "height": _spread(sides[:, 1]),
        "tokens": _tokens(seen),
    }


def _odd(seen: Seen, pictures: Pictures) -> list[Finding]:
    """Warnings that follow from what a picture is."""
    found = []
    place = _places(seen)
    for row, image, number in zip(*(column.tolist() for column in seen.shown.occurrences()), strict=True):
        for trait in pictures.traits(number):
            if trait in ("tiny", "narrow", "animated"):
                width, height = pictures.size(number)
                found.append(Finding(trait, seen.role, f"{width}x{height} pixels", place(row, image)))
    return found


def _spread(values: NDArray[Any]) -> dict[str, float] | None:
    if not len(values):
        return None
    return {
        "min": int(values.min()),
        "p50": float(np.percentile(values, 50)),
        "p95": float(np.percentile(values, 95)),
        "max": int(values.max()),
    }


def _tokens(seen: Seen) -> dict[str, Any] | None:
    """Lengths of lessons, or of prompts where nothing is taught."""
    tokens = np.array(seen.tokens, np.int64)
    spread = _spread(tokens)
    if spread is None:
        return None
    # Whole edges: bins with different numbers of values in them would look like a comb.
    width = -(-(int(tokens.max()) + 1 - int(tokens.min())) // BINS)
    edges = np.arange(int(tokens.min()), int(tokens.max()) + 1 + width, width)
    counts, _ = np.histogram(tokens, edges)
    total = int(tokens.sum())
    return {
        **spread,
        "mean": float(tokens.mean()),
        "sum": total,
        "image_share": sum(seen.image_tokens) / total,
        "supervised_share": sum(seen.supervised) / total,
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }
