"""Statistics of a dataset, from texts and image headers: no image is decoded, and torch is not imported."""

import os
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vlmtune.config import Config
from vlmtune.data import Rows
from vlmtune.dataset_check.examples import all_rows
from vlmtune.dataset_check.runner import BATCH_ROWS, distribution
from vlmtune.dataset_check.splits import splits_of
from vlmtune.errors import DataError
from vlmtune.images import size_of
from vlmtune.modeling.loading import Checkpoint
from vlmtune.prefetch import Prefetch
from vlmtune.processing.encoder import Encoded, Encoder, ImageHeaders
from vlmtune.progress import Progress
from vlmtune.tasks import Task
from vlmtune.training.dataset import TrainingExamples
from vlmtune.training.thinking import open_encoder

SCHEMA_VERSION = 2


@dataclass(frozen=True, slots=True)
class _RowStats:
    """Statistics of one row."""

    tokens: Sequence[int]
    image_tokens: int
    supervised: int
    sizes: Sequence[tuple[int, int]]
    images: Sequence[bytes]
    words: Sequence[int]
    label: str | None


@dataclass(slots=True)
class _RoleStats:
    """Statistics of all rows of a role."""

    tokens: "array[int]" = field(default_factory=lambda: array("i"))
    image_tokens: int = 0
    supervised: int = 0
    sides: "array[int]" = field(default_factory=lambda: array("i"))
    words: "array[int]" = field(default_factory=lambda: array("i"))
    references: "array[int]" = field(default_factory=lambda: array("i"))
    labels: Counter[str] = field(default_factory=Counter)
    images: Counter[tuple[bytes, ...]] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)

    def add(self, row: _RowStats | str) -> None:
        """Add a row, or the reason why it cannot be used."""
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
        if row.images:
            self.images[tuple(row.images)] += 1


def describe(config: Config, task: Task, checkpoint: Checkpoint, progress: Progress) -> dict[str, Any]:
    """Statistics of every role, and of every mixed dataset and additional evaluation set; rows that cannot be used are
    only counted.

    Raises:
        DataError: a split cannot be opened.
    """
    encoder = open_encoder(checkpoint, config.model, config.training, config.dataset, ImageHeaders)
    roles = []
    for split in splits_of(config, task):
        role, rows = split.name, all_rows(split.config, split.role)
        reader = _Reader(split.config, split.task, split.trained, rows, encoder)
        batches = [range(at, min(at + BATCH_ROWS, len(rows))) for at in range(0, len(rows), BATCH_ROWS)]
        stats = _RoleStats()
        with (
            Prefetch(reader.read, batches, len(os.sched_getaffinity(0))) as feed,
            progress.step(f"read {role} rows", len(rows)) as step,
        ):
            for batch in feed:
                for row in batch:
                    stats.add(row)
                step.advance(len(batch))
        roles.append({"role": role, "split": split.split, "rows": len(rows), **_summary(stats)})
    return {"schema_version": SCHEMA_VERSION, "roles": roles}


@dataclass(frozen=True, slots=True)
class _Reader:
    config: Config
    task: Task
    trained: bool
    rows: Rows
    encoder: Encoder

    def read(self, row: int) -> _RowStats | str:
        """Statistics of a row, or why it cannot be used; callable from any thread."""
        try:
            example = self.rows[row]
            encoded = list(self._encoded(row))
            truth = self.task.truth(self.config.task, example) if "labels" in self.config.task.model_dump() else {}
            return _RowStats(
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
        if not self.trained:
            yield self.encoder.prompt(self.task.prompt(task, self.rows[row]))
            return
        examples = TrainingExamples(self.rows, self.task, task, self.encoder, self.config.training)
        for n in range(self.rows.target_count(row)):
            yield examples.encode_example(self.rows.with_target(row, n))


def _summary(stats: _RoleStats) -> dict[str, Any]:
    tokens = sum(stats.tokens)
    sides = np.array(stats.sides, np.int64).reshape(-1, 2)
    repeated = sum(count for count in stats.images.values() if count > 1)
    with_images = sum(stats.images.values())
    return {
        "bad": len(stats.bad),
        "first_bad": stats.bad[:3],
        "tokens": distribution(np.array(stats.tokens, np.int64)),
        "image_fraction": stats.image_tokens / tokens if tokens else None,
        "supervised_fraction": stats.supervised / tokens if tokens else None,
        "width": distribution(sides[:, 0]),
        "height": distribution(sides[:, 1]),
        "references_per_row": distribution(np.array(stats.references, np.int64)),
        "words_per_reference": distribution(np.array(stats.words, np.int64)),
        "labels": dict(stats.labels.most_common()),
        "repeated_image_fraction": repeated / with_images if with_images else None,
    }


def render(result: Mapping[str, Any]) -> str:
    """The statistics as text, one block per role."""
    return "\n\n".join("\n".join(_lines(role)) for role in result["roles"])


def _lines(role: Mapping[str, Any]) -> Iterator[str]:
    bad = f", {role['bad']:,} of them cannot be used" if role["bad"] else ""
    yield f"{role['role']} ({role['split']}): {role['rows']:,} rows{bad}"
    for reason in role["first_bad"]:
        yield f"  {reason}"
    yield f"  {'':<22} {'min':>8} {'p5':>8} {'median':>8} {'p95':>8} {'max':>8} {'mean':>9}"
    for key in ("tokens", "width", "height", "references_per_row", "words_per_reference"):
        if (values := role[key]) is not None:
            numbers = " ".join(f"{values[name]:>8,.0f}" for name in ("min", "p5", "p50", "p95", "max"))
            yield f"  {key.replace('_', ' '):<22} {numbers} {values['mean']:>9,.1f}"
    if role["image_fraction"] is not None:
        yield f"  image tokens: {role['image_fraction']:.1%}; supervised tokens: {role['supervised_fraction']:.1%}"
    if role["repeated_image_fraction"] is not None:
        yield f"  rows with the same images as another row: {role['repeated_image_fraction']:.1%}"
    if role["labels"]:
        yield "  labels: " + ", ".join(f"{label} {count:,}" for label, count in role["labels"].items())
