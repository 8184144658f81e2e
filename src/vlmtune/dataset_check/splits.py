"""The splits that are checked: those of the three roles, and of every additional evaluation set."""

import hashlib
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from vlmtune import registry
from vlmtune.config import Config, EvaluationSetConfig
from vlmtune.data import ROLES, Rows, SplitRole, have_common_rows
from vlmtune.dataset_check.examples import CheckedRow, accepted_answers, all_rows
from vlmtune.dataset_check.findings import Finding, Place, RowLocation
from vlmtune.dataset_check.image_index import ImageIndex
from vlmtune.dataset_check.leakage import ImageOccurrences
from vlmtune.errors import DataError
from vlmtune.scoring.contradictions import disagree
from vlmtune.tasks import Task

PATH = re.compile(r" \(.+\)\Z", re.DOTALL)
"""The path or address of an image at the end of its location."""

MAX_SHOWN = 120
"""Characters of the answers that a message shows."""


@dataclass(slots=True)
class CheckedSplit:
    """The rows of a role with their config and all results; in arrays, as there may be millions.

    `name` is the role, or NAME/ROLE for an additional evaluation set or a mixed dataset. `trained` rows need targets,
    of which `targets` counts at most two different ones. `references` counts all references and `short` those of a few
    words, `empty` the rows with nothing in a column, by column.
    """

    name: str
    role: SplitRole
    config: Config
    task: Task
    trained: bool
    rows: Rows | None = None
    fingerprint: str | None = None
    findings: list[Finding] = field(default_factory=list)
    targets: Counter[str] = field(default_factory=Counter)
    references: int = 0
    short: int = 0
    answers: "array[int]" = field(default_factory=lambda: array("i"))
    prompt_mark: str = ""
    empty: Counter[str] = field(default_factory=Counter)
    tokens: "array[int]" = field(default_factory=lambda: array("i"))
    image_tokens: "array[int]" = field(default_factory=lambda: array("i"))
    supervised: "array[int]" = field(default_factory=lambda: array("i"))
    occurrences: ImageOccurrences = field(default_factory=ImageOccurrences)

    @property
    def split(self) -> str:
        """The source's name of the split."""
        split: str = getattr(self.config.dataset.splits, self.role)
        return split

    @property
    def count(self) -> int:
        """Number of rows."""
        return 0 if self.rows is None else len(self.rows)

    @property
    def is_additional(self) -> bool:
        """Whether the rows belong to an additional evaluation set or a mixed dataset."""
        return self.name != self.role

    @property
    def evaluated(self) -> bool:
        """Whether both models answer these rows."""
        return self.role == self.config.evaluation.split

    def open(self) -> None:
        """Open the rows, including bad ones; a split that cannot be opened is a finding."""
        try:
            self.rows = all_rows(self.config, self.role)
            self.fingerprint = self.rows.fingerprint
        except DataError as error:
            self.findings.append(Finding("split", self.name, str(error)))

    def has_same_rows(self, other: "CheckedSplit") -> bool:
        """Whether both contain all rows of one split of the main dataset, under whatever name."""
        if self.is_additional or other.is_additional:
            return False
        if self.split == other.split:
            return self.config.dataset.shares is None
        return have_common_rows(self.config.dataset, self.split, other.split)

    def locate(self, row: int, image: int) -> RowLocation:
        """The location of an image of a row."""
        assert self.rows is not None
        return RowLocation(self.name, row, self.rows.id(row), image)

    def add(self, row: CheckedRow, images: Sequence[int]) -> None:
        """Add the result of one row; `images` are the numbers of its images in the index."""
        self.findings += row.findings
        for target in row.targets:
            if len(self.targets) < 2 or target in self.targets:
                self.targets[target] += 1
        self.references += row.references
        self.short += row.short
        self.answers.extend(row.answers)
        self.prompt_mark = self.prompt_mark or row.prompt_mark
        self.empty.update(filter(None, [row.empty, *(finding.field for finding in row.findings)]))
        for length in row.lengths:
            self.tokens.append(length.tokens)
            self.image_tokens.append(length.image_tokens)
            self.supervised.append(length.supervised)
        answers = hashlib.blake2b(repr(sorted(row.accepted)).encode(errors="replace"), digest_size=8).digest()
        self.occurrences.add(row.row, (row.prompt_hash or bytes(8)) + answers, row.positions, images)

    def contradiction(self, row: int, other: int) -> str | None:
        """In words, how the answers of two rows about the same image exclude each other; None if they do not.

        Captions of an image may say different things: only texts of a few words exclude each other.
        """
        assert self.rows is not None
        if not self.task.one_answer and self.short * 2 <= self.references:
            return None
        one, another = (accepted_answers(self.rows[each]) for each in (row, other))
        if not disagree([one, another]):
            return None
        shown = [" or ".join(sorted(answers))[:MAX_SHOWN] for answers in (one, another)]
        return f"expects {shown[0]!r}, and {self.rows.id(other)} {shown[1]!r}"

    def place(self, location: RowLocation, index: ImageIndex) -> Place:
        """Where an image is, and its size."""
        assert self.rows is not None
        numbers = self.occurrences.number(location.row, location.image)
        size = None if numbers is None or index.error(numbers) is not None else list(index.size(numbers))
        try:
            refs = self.rows[location.row].images
        except DataError:
            refs = ()
        named = PATH.search(refs[location.image].where) if location.image < len(refs) else None
        return self.rows.where(location.row) + (named[0] if named else ""), size


def splits_of(config: Config, task: Task) -> Iterator[CheckedSplit]:
    """The roles, then the train rows of mixed datasets and the additional evaluation sets; not opened yet."""
    for role in ROLES:
        yield CheckedSplit(role, role, config, task, trained=role != "test")
    sets: list[tuple[EvaluationSetConfig, SplitRole, bool]] = [(one, "train", True) for one in config.datasets]
    for one, role, trained in [*sets, *((one, one.split, False) for one in config.evaluation_sets)]:
        own = registry.load("tasks", one.task.name).TASK
        yield CheckedSplit(f"{one.name}/{role}", role, config.for_set(one), own, trained)


def evaluated_fingerprints(config: Config) -> dict[str, str]:
    """Name and fingerprint of all evaluated rows, whose images no train row may contain.

    Raises:
        DataError: some cannot be opened.
    """
    task = registry.load("tasks", config.task.name).TASK
    evaluated = [split for split in splits_of(config, task) if split.evaluated and split.name != "train"]
    return {split.name: all_rows(split.config, split.role).fingerprint for split in evaluated}
