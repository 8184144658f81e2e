"""Questions that the data leaves open: several readings, each with the `--set` options that choose it."""

from collections.abc import Sequence
from dataclasses import dataclass

from vlmtune.errors import DataError


@dataclass(frozen=True)
class Option:
    """One reading of the data: what it means, and the settings (`a.b=c`) that choose it."""

    meaning: str
    sets: tuple[str, ...]

    @property
    def arguments(self) -> str:
        """The settings as command-line arguments."""
        return " ".join(f"--set {_quoted(setting)}" for setting in self.sets)


class Undecided(DataError):
    """Several readings are possible. The message lists them with the arguments that choose one.

    Args:
        question: what is to be decided, and what was found.
        options: the readings.
    """

    def __init__(self, question: str, options: Sequence[Option]) -> None:
        lines = [f"  {option.arguments}  # {option.meaning}" for option in options]
        super().__init__("\n".join([f"{question} Run it again with one of:", *lines]))
        self.question = question
        self.options = tuple(options)


def _quoted(setting: str) -> str:
    """A setting in single quotes where a shell would change it."""
    is_plain = all(char.isalnum() or char in "._-=/" for char in setting)
    return setting if is_plain else "'" + setting.replace("'", "'\\''") + "'"
