"""Examples as lessons: what the model reads and which tokens it learns. Every one is tried before the first step."""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmtune.data import Rows
from vlmtune.errors import DataError
from vlmtune.prefetch import Prefetch
from vlmtune.processing.encoder import Encoded, Inputs
from vlmtune.progress import Progress
from vlmtune.registry import BaseConfig
from vlmtune.signals import StopRequest
from vlmtune.tasks import Task
from vlmtune.training.config import TrainingConfig
from vlmtune.training.sampler import Visit
from vlmtune.types import Example, Turn

MOST_NAMED = 10
"""Bad rows named at once; looking for more would only delay the message."""

HOW_TO_GO_ON = (
    "vlmtune data check names all bad rows and pictures. Repair or remove them, or allow some to be left out with "
    "dataset.max_bad_fraction"
)
TRIED_TOGETHER = 16
"""Rows that the threads are given at once."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Tokens of every lesson, and how many of them are learnt: [lessons], row after row, target after target.

    Lesson n of row r stands at `starts[r]` + n; eight bytes a lesson.
    """

    tokens: NDArray[np.int32]
    supervised: NDArray[np.int32]
    starts: NDArray[np.int64]

    def places(self, visits: Sequence[Visit]) -> list[int]:
        """Where the lessons of some visits stand."""
        return [int(self.starts[visit.row]) + visit.choice for visit in visits]

    def first_targets(self) -> tuple[int, int]:
        """(tokens, supervised tokens) over one pass with each row's first target."""
        return int(self.tokens[self.starts[:-1]].sum()), int(self.supervised[self.starts[:-1]].sum())


@dataclass(frozen=True, slots=True)
class Lessons:
    """The rows of one split, taught by one task."""

    rows: Rows
    task: Task
    task_config: BaseConfig
    inputs: Inputs
    settings: TrainingConfig

    def encode(self, visit: Visit) -> Encoded:
        """Token ids, mask and patches of one visit.

        Raises:
            DataError: names the row and what is wrong with it.
        """
        example = self.rows.with_target(visit.row, visit.choice)
        try:
            return self.encoded(example)
        except DataError as error:
            raise type(error)(*_named(error, example.id)) from None

    def encoded(self, example: Example) -> Encoded:
        """What one example teaches with its target.

        Raises:
            DataError: what is wrong with it.
        """
        answer = Turn("assistant", (self.task.teach(self.task_config, example),))
        conversation = (*self.task.ask(self.task_config, example), answer)
        return self.inputs.lesson(conversation, self.settings.trained_turns, self.settings.max_tokens)

    def check(self, name: str, progress: Progress, stop: StopRequest) -> Sizes:
        """Encode every row with every target once, in threads.

        Raises:
            DataError: names the rows that cannot be taught, the first `MOST_NAMED` of them.
        """
        tokens, supervised, starts = array("i"), array("i"), array("q", [0])
        bad: list[DataError] = []
        for found in self._tried_rows(name, progress, stop):
            if isinstance(found, DataError):
                bad.append(found)
                if len(bad) == MOST_NAMED:
                    break
                continue
            tokens.extend(size[0] for size in found)
            supervised.extend(size[1] for size in found)
            starts.append(len(tokens))
        if len(bad) == 1:
            raise DataError(f"{bad[0]}\n{HOW_TO_GO_ON}")
        if bad:
            count = f"at least {MOST_NAMED}" if len(bad) == MOST_NAMED else str(len(bad))
            named = "".join(f"  {error}\n" for error in bad)
            raise DataError(f"{count} {name} rows cannot be taught:\n{named}{HOW_TO_GO_ON}")
        return Sizes(np.array(tokens, np.int32), np.array(supervised, np.int32), np.array(starts, np.int64))

    def bad_rows(self, name: str, progress: Progress, stop: StopRequest) -> dict[int, str]:
        """Rows that cannot be taught with each of their targets, and why; all of them."""
        tried = enumerate(self._tried_rows(name, progress, stop))
        return {row: str(found) for row, found in tried if isinstance(found, DataError)}

    def _tried_rows(
        self, name: str, progress: Progress, stop: StopRequest
    ) -> Iterator[list[tuple[int, int]] | DataError]:
        """Of each row (tokens, supervised tokens) of its lessons, or the first thing that is wrong with it."""
        count = len(self.rows)
        batches = [range(start, min(start + TRIED_TOGETHER, count)) for start in range(0, count, TRIED_TOGETHER)]
        with (
            Prefetch(self._tried, batches, self.settings.workers) as feed,
            progress.step(f"check {name} rows", count) as step,
        ):
            for tried in feed:
                yield from tried
                step.advance(len(tried))
                stop.obey("nothing was trained yet")

    def _tried(self, row: int) -> list[tuple[int, int]] | DataError:
        try:
            made = [self.encode(Visit(row, n, 0)) for n in range(self.rows.target_count(row))]
        except DataError as error:
            return error
        return [(len(encoded), encoded.rendered.supervised) for encoded in made]


def _named(error: DataError, row: str) -> tuple[str, ...]:
    """Constructor arguments of the same error with the row's id in front; an ImageError has two."""
    where = getattr(error, "where", None)
    return (error.reason, f"{row} ({where})") if where is not None else (f"{row}: {error}",)  # type: ignore[attr-defined]
