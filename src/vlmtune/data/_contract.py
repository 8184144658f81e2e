"""The contract of a source: its config, which maps columns and splits to roles, and the rows it gives."""

from collections.abc import Iterator
from typing import Literal, Protocol

from pydantic import Field, PositiveFloat, PositiveInt

from vlmtune.data._download import Host
from vlmtune.registry import BaseConfig
from vlmtune.types import Example

SplitRole = Literal["train", "validation", "test"]
ROLES: tuple[SplitRole, ...] = ("train", "validation", "test")


class Splits(BaseConfig):
    """Which split of the source plays which role."""

    train: str = "train"
    """What the adapter learns from."""

    validation: str = "validation"
    """What chooses checkpoints and settings; never evidence."""

    test: str = "test"
    """What is reported."""


class Limits(BaseConfig):
    """How many rows of each role are used, in dataset order; null uses all."""

    train: PositiveInt | None = None
    """Rows of the train role."""

    validation: PositiveInt | None = None
    """Rows of the validation role."""

    test: PositiveInt | None = None
    """Rows of the test role."""


class Shares(BaseConfig):
    """How the roles that name one and the same split part its rows, in proportion."""

    train: PositiveFloat = 0.8
    """Of the train role."""

    validation: PositiveFloat = 0.1
    """Of the validation role."""

    test: PositiveFloat = 0.1
    """Of the test role."""

    seed: int = 0
    """Another seed parts the rows otherwise."""


class DatasetConfig(BaseConfig):
    """Columns of a source mapped to roles; every source adds where it finds its rows."""

    source: str
    """What reads the dataset: a file in `vlmtune/data`, or the dotted name of a custom module."""

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
    """Column with a whole conversation (role and content, or from and value, per turn); replaces the task's prompt."""

    images: str | None = None
    """Column with a conversation's image, or the list of its images in the order of their placeholders; a row without
    it has no image."""

    remote_images: list[Host] = []
    """Hosts whose images may be downloaded over https, as `images.example.org` or `*.example.org`. Empty reads none."""

    id: str | None = None
    """Column with a stable row id; null takes a hash of the row's content."""

    group: str | None = None
    """Column naming what rows share (patient, document): groups are resampled whole. Null groups rows by picture."""

    meta: list[str] = []
    """Columns carried into the prediction file, for slicing; dates as ISO text."""

    splits: Splits = Splits()
    """Which split plays which role."""

    shares: Shares | None = None
    """Parts a split that several roles name, so that no row plays two of them; rows that share a picture or group stay
    together. Null gives each role all rows of its split."""

    limit: Limits = Limits()
    """How many rows of each role are used."""

    max_bad_fraction: float = Field(default=0, ge=0, le=1)
    """Largest share of a role's rows that may be left out because they cannot be used; each is named in
    `quarantine.json`. 0 stops at any such row."""

    @property
    def labelled(self) -> bool:
        """Whether a column says what a good answer is; answers to rows without one get no score."""
        return any((self.references, self.target, self.keywords, self.boxes, self.messages))


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

    def group_key(self, index: int) -> str:
        """Equal for rows that must stay in the same split: those of one group, else those that share an image."""

    def target_count(self, index: int) -> int:
        """Number of training targets of row `index`: its references with `each` or `sample`, otherwise 1."""

    def with_target(self, index: int, target: int) -> Example:
        """Row `index` with its `target`-th target, counted from 0."""
