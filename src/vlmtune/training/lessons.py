"""Examples as lessons: what the model reads and which tokens it learns. Every one is tried before the first step."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmtune.data import Rows
from vlmtune.errors import DataError
from vlmtune.inputs import Encoded, Inputs
from vlmtune.plugs import Part
from vlmtune.prefetch import Prefetch
from vlmtune.progress import Progress
from vlmtune.signals import StopRequest
from vlmtune.tasks import Task
from vlmtune.training.settings import TrainingConfig
from vlmtune.training.visits import Visit
from vlmtune.types import Example, Turn

MOST_NAMED = 10
"""Bad rows named at once; looking for more would only delay the message."""


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
    task_config: Part
    inputs: Inputs
    settings: TrainingConfig

    def encode(self, visit: Visit) -> Encoded:
        """Token ids, mask and patches of one visit.

        Raises:
            DataError: names the row and what is wrong with it.
        """
        example = self.rows.taught(visit.row, visit.choice)
        try:
            return self._encode(example)
        except DataError as error:
            raise type(error)(*_named(error, example.id)) from None

    def _encode(self, example: Example) -> Encoded:
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
        batches = [[Visit(row, n, 0) for n in range(self.rows.choices(row))] for row in range(len(self.rows))]
        with (
            Prefetch(self._tried, batches, self.settings.workers) as feed,
            progress.step(f"check {name} rows", len(self.rows)) as step,
        ):
            for _ in batches:
                tried = next(feed)
                sizes = [found for found in tried if not isinstance(found, DataError)]
                bad += [found for found in tried if isinstance(found, DataError)][:1]
                if len(bad) == MOST_NAMED:
                    break
                tokens.extend(size[0] for size in sizes)
                supervised.extend(size[1] for size in sizes)
                starts.append(len(tokens))
                step.advance()
                stop.obey("nothing was trained yet")
        if len(bad) == 1:
            raise bad[0]
        if bad:
            count = f"at least {MOST_NAMED}" if len(bad) == MOST_NAMED else str(len(bad))
            raise DataError(f"{count} {name} rows cannot be taught:\n" + "\n".join(f"  {error}" for error in bad))
        return Sizes(np.array(tokens, np.int32), np.array(supervised, np.int32), np.array(starts, np.int64))

    def _tried(self, visit: Visit) -> tuple[int, int] | DataError:
        """(tokens, supervised tokens) of a lesson, or what is wrong with it."""
        try:
            encoded = self.encode(visit)
        except DataError as error:
            return error
        return len(encoded), encoded.rendered.supervised


def _named(error: DataError, row: str) -> tuple[str, ...]:
    """Constructor arguments of the same error with the row's id in front; an ImageError has two."""
    where = getattr(error, "where", None)
    return (error.reason, f"{row} ({where})") if where is not None else (f"{row}: {error}",)  # type: ignore[attr-defined]
