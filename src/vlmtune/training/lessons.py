"""Examples as lessons: what the model reads and which tokens it learns. Every one is tried before the first step."""

from dataclasses import dataclass

from vlmtune.data import Rows
from vlmtune.errors import DataError
from vlmtune.inputs import Encoded, Inputs
from vlmtune.plugs import Part
from vlmtune.progress import Progress
from vlmtune.signals import StopRequest
from vlmtune.tasks import Task
from vlmtune.training.settings import TrainingConfig
from vlmtune.training.visits import Visit
from vlmtune.types import Example, Turn

MOST_NAMED = 10
"""Bad rows named at once; looking for more would only delay the message."""


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

    def check(self, name: str, progress: Progress, stop: StopRequest) -> tuple[int, int]:
        """Encode every row with every target once.

        Returns:
            (tokens, supervised tokens) over one pass with each row's first target.

        Raises:
            DataError: names the rows that cannot be taught, the first `MOST_NAMED` of them.
        """
        tokens = supervised = 0
        bad: list[DataError] = []
        with progress.step(f"check {name} rows", len(self.rows)) as step:
            for row in range(len(self.rows)):
                try:
                    encoded = [self.encode(Visit(row, choice, 0)) for choice in range(self.rows.choices(row))]
                    tokens += len(encoded[0])
                    supervised += encoded[0].rendered.supervised
                except DataError as error:
                    bad.append(error)
                    if len(bad) == MOST_NAMED:
                        break
                step.advance()
                stop.obey("nothing was trained yet")
        if len(bad) == 1:
            raise bad[0]
        if bad:
            count = f"at least {MOST_NAMED}" if len(bad) == MOST_NAMED else str(len(bad))
            raise DataError(f"{count} {name} rows cannot be taught:\n" + "\n".join(f"  {error}" for error in bad))
        return tokens, supervised


def _named(error: DataError, row: str) -> tuple[str, ...]:
    """Constructor arguments of the same error with the row's id in front; an ImageError has two."""
    where = getattr(error, "where", None)
    return (error.reason, f"{row} ({where})") if where is not None else (f"{row}: {error}",)  # type: ignore[attr-defined]
