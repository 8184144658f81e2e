"""Rows as training examples: token ids, images and the supervision mask. All rows are checked before the first step."""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmtune.data import Rows
from vlmtune.errors import DataError, ImageError
from vlmtune.prefetch import Prefetch
from vlmtune.processing.encoder import Encoded, Encoder
from vlmtune.progress import Progress
from vlmtune.registry import BaseConfig
from vlmtune.signals import StopRequest
from vlmtune.tasks import Task, for_model
from vlmtune.training.augmentation import augment, refuse_sides
from vlmtune.training.config import TrainingConfig
from vlmtune.training.sampler import Sample
from vlmtune.types import Example, Message

MAX_REPORTED = 10
"""Bad rows reported at once; looking for more would only delay the message."""

HINT = (
    "`vlmtune data check` lists all bad rows and images. Repair or remove them, or let some be skipped with "
    "dataset.max_bad_fraction"
)
CHECK_BATCH = 16
"""Rows handed to the worker threads at once."""


@dataclass(frozen=True, slots=True)
class ExampleLengths:
    """Tokens and supervised tokens of every training example, [examples], ordered by row and target.

    The example of row r and target t has index `starts[r] + t`. For three rows with 1, 2 and 1 targets, `starts` is
    [0, 1, 3, 4]. Takes eight bytes per example.
    """

    tokens: NDArray[np.int32]
    supervised: NDArray[np.int32]
    starts: NDArray[np.int64]

    def indices(self, samples: Sequence[Sample]) -> list[int]:
        """Index of each sample's example."""
        return [int(self.starts[sample.row]) + sample.target for sample in samples]

    def first_targets(self) -> tuple[int, int]:
        """(tokens, supervised tokens) of one pass over all rows, each with its first target."""
        first = self.starts[:-1]
        return int(self.tokens[first].sum()), int(self.supervised[first].sum())


@dataclass(frozen=True, slots=True)
class TrainingExamples:
    """The rows of one split with their targets, encoded on access.

    `mixed` holds the examples of the further datasets of a mixture by name; their tasks ask their rows, which follow in
    `rows`.
    """

    rows: Rows
    task: Task
    task_config: BaseConfig
    encoder: Encoder
    settings: TrainingConfig
    mixed: Mapping[str, "TrainingExamples"] = field(default_factory=dict)

    def encode(self, sample: Sample) -> Encoded:
        """Token ids, supervision mask and image patches of one sample, augmented if it is one of a step.

        Raises:
            DataError: names the row and what is wrong with it.
        """
        example = self.rows.with_target(sample.row, sample.target)
        own = self.mixed.get(example.dataset or "", self)
        try:
            if sample.step is None or not self.settings.augmentation.active:
                return own.encode_example(example)
            # Boxes that moved may need a few more tokens than those that were checked.
            return own.encode_example(own.augmented(example, sample.step), self.encoder.max_positions)
        except DataError as error:
            raise with_row(error, example.id) from None

    def prompt(self, sample: Sample) -> Encoded:
        """The prompt of one sample's row.

        Raises:
            DataError: names the row and what is wrong with it.
        """
        example = self.rows.with_target(sample.row, sample.target)
        try:
            return self.encoder.prompt(self.task.prompt(self.task_config, self.encoder.with_objects(example)))
        except DataError as error:
            raise with_row(error, example.id) from None

    def truth(self, sample: Sample) -> Mapping[str, Any]:
        """What metrics compare answers to a sample's row with."""
        return self.task.truth(self.task_config, self.rows.with_target(sample.row, sample.target))

    def encode_example(self, example: Example, max_tokens: int | None = None) -> Encoded:
        """As `encode`, for an example that carries its target; errors do not name the row."""
        example = self.encoder.with_objects(example)
        answer = Message("assistant", (self.target(example),), reasoning=example.reasoning)
        conversation = (*self.task.prompt(self.task_config, example), answer)
        if self.settings.augmentation.flip:
            refuse_sides(conversation)
        limit = max_tokens or self.settings.max_tokens
        return self.encoder.training_example(conversation, self.settings.trained_turns, limit)

    def augmented(self, example: Example, step: int) -> Example:
        """The example as it is trained on in optimizer step `step`, from 0."""
        key = f"{self.settings.seed}/{step}/{example.id}"
        return augment(example, self.task, self.task_config, self.settings.augmentation, key)

    def target(self, example: Example) -> str:
        """The text to train on, with boxes as the model writes them."""
        return for_model(self.task, self.encoder.with_box_scale, self.encoder.with_objects).target(
            self.task_config, example
        )

    def check(self, name: str, progress: Progress, stop: StopRequest) -> ExampleLengths:
        """Encode every row with each of its targets once, in threads.

        Args:
            name: of the split, for messages.
            progress: notified of every batch of rows.
            stop: checked after every batch of rows.

        Raises:
            DataError: lists the rows that cannot be trained on, at most the first `MAX_REPORTED`.
        """
        tokens, supervised, starts = array("i"), array("i"), array("q", [0])
        bad: list[DataError] = []
        for result in self._check_rows(name, progress, stop):
            if isinstance(result, DataError):
                bad.append(result)
                if len(bad) == MAX_REPORTED:
                    break
                continue
            tokens.extend(length for length, _ in result)
            supervised.extend(count for _, count in result)
            starts.append(len(tokens))
        if len(bad) == 1:
            raise DataError(f"{bad[0]}\n{HINT}")
        if bad:
            count = f"at least {MAX_REPORTED}" if len(bad) == MAX_REPORTED else str(len(bad))
            listed = "".join(f"  {error}\n" for error in bad)
            raise DataError(f"{count} {name} rows cannot be trained on:\n{listed}{HINT}")
        return ExampleLengths(np.array(tokens, np.int32), np.array(supervised, np.int32), np.array(starts, np.int64))

    def bad_rows(self, name: str, progress: Progress, stop: StopRequest) -> dict[int, str]:
        """Index of every row that cannot be trained on with one of its targets, and why."""
        results = enumerate(self._check_rows(name, progress, stop))
        return {row: str(result) for row, result in results if isinstance(result, DataError)}

    def _check_rows(
        self, name: str, progress: Progress, stop: StopRequest
    ) -> Iterator[list[tuple[int, int]] | DataError]:
        """For each row, (tokens, supervised tokens) of its examples, or the first error."""
        count = len(self.rows)
        batches = [range(start, min(start + CHECK_BATCH, count)) for start in range(0, count, CHECK_BATCH)]
        with (
            Prefetch(self._check_row, batches, self.settings.workers) as results,
            progress.step(f"check {name} rows", count) as step,
        ):
            for batch in results:
                yield from batch
                step.advance(len(batch))
                stop.raise_if_requested("nothing was trained yet")

    def _check_row(self, row: int) -> list[tuple[int, int]] | DataError:
        try:
            encoded = [self.encode(Sample(row, target, 0)) for target in range(self.rows.target_count(row))]
        except DataError as error:
            return error
        return [(len(each), each.rendered.supervised) for each in encoded]


def check_examples(
    train: TrainingExamples, validation: TrainingExamples, progress: Progress, stop: StopRequest
) -> ExampleLengths:
    """Check both splits and return the lengths of the train rows; errors as in `TrainingExamples.check`."""
    lengths = train.check("train", progress, stop)
    validation.check("validation", progress, stop)
    return lengths


def with_row(error: DataError, row: str) -> DataError:
    """The same error with a row's id or place in front."""
    if isinstance(error, ImageError):
        return ImageError(error.reason, f"{row} ({error.where})")
    return type(error)(f"{row}: {error}")
