"""Where rows come from. A source is a file here with `Config` and `open(config, split) -> Rows`.

`Config` extends `DatasetConfig`: the columns of the source are mapped to roles in YAML, so a new dataset is one block
of configuration. `split` is the source's own name of a split; `limit` cuts it in dataset order. No two images of a
dataset have the same `ImageRef.where`, whatever their splits.
"""

from collections.abc import Iterator
from typing import Literal, Protocol

from pydantic import PositiveInt

from vlmtune.plugs import Part
from vlmtune.types import Example

SplitRole = Literal["train", "select", "test"]


class Splits(Part):
    """Which split of the source plays which role."""

    train: str = "train"
    """What the adapter learns from."""

    select: str = "validation"
    """What chooses checkpoints and settings; never evidence."""

    test: str = "test"
    """What is reported."""


class Limits(Part):
    """How many rows of each role are used, in dataset order; null uses all."""

    train: PositiveInt | None = None
    """Rows of the train role."""

    select: PositiveInt | None = None
    """Rows of the select role."""

    test: PositiveInt | None = None
    """Rows of the test role."""


class DatasetConfig(Part):
    """Columns of a source mapped to roles; every source adds where it finds its rows."""

    source: str
    """What reads the dataset: a file in `vlmtune/data`, or the dotted name of your own module."""

    image: str | list[str] | None = "image"
    """Column with the image, or several columns, one image each; null for text-only rows."""

    references: list[str] = []
    """Columns with reference answers; a column may hold a list. Evaluation compares with all of them."""

    target: str | None = None
    """What training teaches: a column, `each` reference in turn, or `sample` (one reference per epoch, by seed).
    Null teaches the first reference."""

    question: str | None = None
    """Column with the question of the row, for tasks that put one to the model."""

    keywords: str | None = None
    """Column with the words a good answer must contain; alternatives are separated by "|"."""

    boxes: str | None = None
    """Column with the box of four numbers that a good answer gives, or a list of boxes; the task says their unit."""

    messages: str | None = None
    """Column with a whole conversation (role and content per turn); replaces the task's prompt."""

    images: str | None = None
    """Column with the list of a conversation's images, in the order of their placeholders."""

    id: str | None = None
    """Column with a stable row id; null takes a hash of the row's content."""

    group: str | None = None
    """Column naming what rows share (patient, document): groups are resampled whole. Null groups rows by picture."""

    meta: list[str] = []
    """Columns carried into the prediction file, for slicing; dates as ISO text."""

    splits: Splits = Splits()
    """Which split plays which role."""

    limit: Limits = Limits()
    """How many rows of each role are used."""


class Rows(Protocol):
    """Rows of one split: random access, images unread, the same example for the same index every time."""

    @property
    def fingerprint(self) -> str:
        """Hash of ids, texts and images of all rows; equal for equal content."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def __iter__(self) -> Iterator[Example]: ...

    def id(self, index: int) -> str:
        """Id of row `index`, without reading it."""

    def choices(self, index: int) -> int:
        """How many training targets row `index` has: references with `each` or `sample`, otherwise 1."""

    def taught(self, index: int, choice: int) -> Example:
        """Row `index` with its `choice`-th target."""
