"""The parts of a dataset that are checked: the rows of each role, and those of every further evaluation set."""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from vlmtune import registry
from vlmtune.config import Config
from vlmtune.data import ROLES, Rows, SplitRole
from vlmtune.dataset_check.examples import Looked, whole
from vlmtune.dataset_check.findings import Finding, Place
from vlmtune.dataset_check.leakage import Shown
from vlmtune.errors import DataError
from vlmtune.tasks import Task


@dataclass(slots=True)
class Part:
    """Some rows with the config that speaks of them, and what was found in them; arrays, for there may be millions.

    `name` is the role, in front of it that of a further set (`NAME/ROLE`).
    """

    name: str
    role: SplitRole
    config: Config
    task: Task
    rows: Rows | None = None
    fingerprint: str | None = None
    findings: list[Finding] = field(default_factory=list)
    tokens: "array[int]" = field(default_factory=lambda: array("i"))
    image_tokens: "array[int]" = field(default_factory=lambda: array("i"))
    supervised: "array[int]" = field(default_factory=lambda: array("i"))
    shown: Shown = field(default_factory=Shown)

    @property
    def split(self) -> str:
        """Name of the split."""
        split: str = getattr(self.config.dataset.splits, self.role)
        return split

    @property
    def count(self) -> int:
        """Rows."""
        return 0 if self.rows is None else len(self.rows)

    @property
    def further(self) -> bool:
        """Whether they are of a further evaluation set."""
        return self.name != self.role

    @property
    def evaluated(self) -> bool:
        """Whether both models answer these rows."""
        return self.role == self.config.evaluation.split

    def open(self) -> None:
        """All of the rows, bad ones too; where they cannot be opened, that is a finding."""
        try:
            self.rows = whole(self.config, self.role)
            self.fingerprint = self.rows.fingerprint
        except DataError as error:
            self.findings.append(Finding("split", self.name, str(error)))

    def same_rows(self, other: "Part") -> bool:
        """Whether both are all rows of one split of the config's own dataset."""
        own = not self.further and not other.further and self.config.dataset.shares is None
        return own and self.split == other.split

    def place(self, row: int, image: int) -> Place:
        """A row and one of its pictures."""
        assert self.rows is not None
        return Place(self.name, row, self.rows.id(row), image)

    def fold(self, looked: Looked, numbers: Sequence[int]) -> None:
        """Take in one row; `numbers` are its pictures'."""
        self.findings += looked.findings
        for length in looked.lengths:
            self.tokens.append(length.tokens)
            self.image_tokens.append(length.image_tokens)
            self.supervised.append(length.supervised)
        self.shown.add(looked.row, looked.asked, looked.images, numbers)


def parts_of(config: Config, task: Task) -> Iterator[Part]:
    """The roles, then the further evaluation sets; nothing is opened."""
    for role in ROLES:
        yield Part(role, role, config, task)
    for one in config.evaluation.additional:
        evaluation = config.evaluation.model_copy(update={"split": one.split, "additional": []})
        about = config.model_copy(update={"dataset": one.dataset, "task": one.task, "evaluation": evaluation})
        yield Part(f"{one.name}/{one.split}", one.split, about, registry.load("tasks", one.task.name).TASK)


def compared_with_train(config: Config) -> dict[str, str]:
    """Name and fingerprint of all rows that no train row may show a picture of.

    Raises:
        DataError: some cannot be opened.
    """
    found = {}
    for part in parts_of(config, registry.load("tasks", config.task.name).TASK):
        if part.evaluated and part.name != "train":
            found[part.name] = whole(part.config, part.role).fingerprint
    return found
