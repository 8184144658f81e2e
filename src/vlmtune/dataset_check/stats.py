"""A dataset in numbers, from texts and image headers alone: nothing is decoded, no torch is loaded."""

import os
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vlmtune.config import Config
from vlmtune.data import ROLES, Rows, SplitRole
from vlmtune.dataset_check.examples import whole
from vlmtune.dataset_check.runner import TOGETHER, spread
from vlmtune.errors import DataError
from vlmtune.images import size_of
from vlmtune.modeling.loading import Checkpoint
from vlmtune.prefetch import Prefetch
from vlmtune.processing.encoder import Encoded, Encoder, ImageHeaders
from vlmtune.progress import Progress
from vlmtune.tasks import Task
from vlmtune.training.dataset import TrainingExamples

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class _Row:
    """One row in numbers."""

    tokens: Sequence[int]
    image_tokens: int
    supervised: int
    sizes: Sequence[tuple[int, int]]
    pictures: Sequence[bytes]
    words: Sequence[int]
    label: str | None


@dataclass(slots=True)
class _Sums:
    """All rows of a role in numbers."""

    tokens: "array[int]" = field(default_factory=lambda: array("i"))
    image_tokens: int = 0
    supervised: int = 0
    sides: "array[int]" = field(default_factory=lambda: array("i"))
    words: "array[int]" = field(default_factory=lambda: array("i"))
    references: "array[int]" = field(default_factory=lambda: array("i"))
    labels: Counter[str] = field(default_factory=Counter)
    pictures: Counter[tuple[bytes, ...]] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)

    def add(self, row: "_Row | str") -> None:
        """One more row, or why it is none."""
        if isinstance(row, str):
            self.bad.append(row)
            return
        self.tokens.extend(row.tokens)
        self.image_tokens += row.image_tokens
        self.supervised += row.supervised
        self.sides.extend(side for size in row.sizes for side in size)
        self.words.extend(row.words)
        self.references.append(len(row.words))
        if row.label is not None:
            self.labels[row.label] += 1
        if row.pictures:
            self.pictures[tuple(row.pictures)] += 1


def describe(config: Config, task: Task, checkpoint: Checkpoint, progress: Progress) -> dict[str, Any]:
    """Every role in numbers; rows that cannot be used are counted apart.

    Raises:
        DataError: a split cannot be opened.
    """
    encoder = Encoder(checkpoint, config.model, ImageHeaders)
    roles = []
    for role in ROLES:
        rows = whole(config, role)
        reader = _Reader(config, task, role, rows, encoder)
        batches = [range(at, min(at + TOGETHER, len(rows))) for at in range(0, len(rows), TOGETHER)]
        sums = _Sums()
        with (
            Prefetch(reader.read, batches, len(os.sched_getaffinity(0))) as feed,
            progress.step(f"read {role} rows", len(rows)) as step,
        ):
            for batch in feed:
                for row in batch:
                    sums.add(row)
                step.advance(len(batch))
        roles.append({"role": role, "split": getattr(config.dataset.splits, role), "rows": len(rows), **_plain(sums)})
    return {"schema_version": SCHEMA_VERSION, "roles": roles}


@dataclass(frozen=True, slots=True)
class _Reader:
    config: Config
    task: Task
    role: SplitRole
    rows: Rows
    encoder: Encoder

    def read(self, row: int) -> "_Row | str":
        """A row in numbers, or why it cannot be used; from any thread."""
        try:
            example = self.rows[row]
            encoded = list(self._encoded(row))
            truth = self.task.truth(self.config.task, example) if "labels" in self.config.task.model_dump() else {}
            return _Row(
                [len(one) for one in encoded],
                sum(map(self.encoder.image_tokens, encoded)),
                sum(one.rendered.supervised for one in encoded),
                [size_of(ref) for ref in example.images],
                [image.digest for image in encoded[0].images],
                [len(text.split()) for text in example.truth["references"]],
                truth.get("label"),
            )
        except DataError as error:
            return f"row {row} ({self.rows.id(row)}): {error}"

    def _encoded(self, row: int) -> Iterator[Encoded]:
        task = self.config.task
        if self.role == "test":
            yield self.encoder.prompt(self.task.ask(task, self.rows[row]))
            return
        lessons = TrainingExamples(self.rows, self.task, task, self.encoder, self.config.training)
        for n in range(self.rows.target_count(row)):
            yield lessons.encode_example(self.rows.with_target(row, n))


def _plain(sums: _Sums) -> dict[str, Any]:
    tokens = sum(sums.tokens)
    sides = np.array(sums.sides, np.int64).reshape(-1, 2)
    shared = sum(count for count in sums.pictures.values() if count > 1)
    pictured = sum(sums.pictures.values())
    return {
        "bad": len(sums.bad),
        "first_bad": sums.bad[:3],
        "tokens": spread(np.array(sums.tokens, np.int64)),
        "image_share": sums.image_tokens / tokens if tokens else None,
        "supervised_share": sums.supervised / tokens if tokens else None,
        "width": spread(sides[:, 0]),
        "height": spread(sides[:, 1]),
        "references_per_row": spread(np.array(sums.references, np.int64)),
        "words_per_reference": spread(np.array(sums.words, np.int64)),
        "labels": dict(sums.labels.most_common()),
        "share_with_a_picture_of_another_row": shared / pictured if pictured else None,
    }


def render(found: Mapping[str, Any]) -> str:
    """As text: one block per role."""
    return "\n\n".join("\n".join(_lines(role)) for role in found["roles"])


def _lines(role: Mapping[str, Any]) -> Iterator[str]:
    bad = f", {role['bad']:,} of them cannot be used" if role["bad"] else ""
    yield f"{role['role']} ({role['split']}): {role['rows']:,} rows{bad}"
    for reason in role["first_bad"]:
        yield f"  {reason}"
    yield f"  {'':<22} {'min':>8} {'p5':>8} {'median':>8} {'p95':>8} {'max':>8} {'mean':>9}"
    for key in ("tokens", "width", "height", "references_per_row", "words_per_reference"):
        if (told := role[key]) is not None:
            numbers = " ".join(f"{told[name]:>8,.0f}" for name in ("min", "p5", "p50", "p95", "max"))
            yield f"  {key.replace('_', ' '):<22} {numbers} {told['mean']:>9,.1f}"
    if role["image_share"] is not None:
        yield f"  tokens of pictures: {role['image_share']:.1%}; learnt: {role['supervised_share']:.1%}"
    if role["share_with_a_picture_of_another_row"] is not None:
        yield f"  rows that show the same as another row: {role['share_with_a_picture_of_another_row']:.1%}"
    if role["labels"]:
        yield "  labels: " + ", ".join(f"{label} {count:,}" for label, count in role["labels"].items())
