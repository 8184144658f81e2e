"""The contract of a source: its config, which maps columns and splits to roles, and the rows it returns."""

from collections.abc import Iterator
from typing import Annotated, Literal, Protocol

from pydantic import Field, PositiveFloat, PositiveInt

from vlmtune.data._download import Host
from vlmtune.data._image_paths import ImagePath
from vlmtune.registry import BaseConfig
from vlmtune.types import Example

SplitRole = Literal["train", "validation", "test"]
ROLES: tuple[SplitRole, ...] = ("train", "validation", "test")


BoxColumns = Annotated[list[str], Field(min_length=4, max_length=4)]


class Splits(BaseConfig):
    """The split of the source for each role."""

    train: str = "train"
    """Rows the adapter is trained on."""

    validation: str = "validation"
    """Rows that choose checkpoints and settings; never reported."""

    test: str = "test"
    """Rows that results are reported on."""


class Limits(BaseConfig):
    """Maximum number of rows per role, the first ones in dataset order; null uses all."""

    train: PositiveInt | None = None
    """Rows of the train role."""

    validation: PositiveInt | None = None
    """Rows of the validation role."""

    test: PositiveInt | None = None
    """Rows of the test role."""


class Shares(BaseConfig):
    """Proportions in which roles with the same split divide its rows."""

    train: PositiveFloat = 0.8
    """Share of the train role."""

    validation: PositiveFloat = 0.1
    """Share of the validation role."""

    test: PositiveFloat = 0.1
    """Share of the test role."""

    seed: int = 0
    """Seed of the division; another one divides the rows otherwise."""


class DatasetConfig(BaseConfig):
    """Maps the columns of a source to roles; every source adds where its rows are."""

    source: str
    """Source plugin that reads the dataset: a module of `vlmtune.data`, or the dotted name of a custom one."""

    image: str | list[str] | None = "image"
    """Column with the image or a list of them, or several such columns; null for text-only rows."""

    image_path: ImagePath | None = None
    """Path of an image as a template: `{file}` is the value of the image column, `{NAME}` that of another column, as in
    `images/{file}` or `val2014/COCO_val2014_{image_id:012d}.jpg`; `{file:name}` is a path without its folders,
    `{file:stem}` also without its ending. With `video` it is the path of the video. Null: the column holds the path."""

    image_roots: list[str] = []
    """Folders outside of the dataset's from which images may be read, by absolute paths and by links."""

    video: str | None = None
    """Column with a video: the path of a file, the path of a folder of frames, or a list of frames, each an image; or
    with a list of files. The model sees it after the images."""

    videos: str | None = None
    """Column with the video or videos of a row with messages, in the order of their placeholders `<video>`; rows may
    lack it."""

    frame_rate: PositiveFloat = 2
    """How many frames per second a video has that is given as its frames; files say it themselves."""

    references: list[str] = []
    """Columns with reference answers; a column may hold a list. Answers are compared with all of them. An object is
    read as JSON text."""

    record: list[str] = []
    """Columns that together are the reference, as a JSON object, for the task extraction."""

    target: str | None = None
    """Training target: a column, `each` (every reference is a target) or `sample` (one random reference per epoch).
    Null means the first reference."""

    question: str | None = None
    """Column with the question, for tasks that ask one."""

    choices: str | list[str] | None = None
    """Column with the choices of a multiple-choice question, as a list or an object; or a column for each, of which the
    last may be empty. They stand behind the question, each with a letter, and the reference becomes the letter of the
    right one: its number, letter or text is read."""

    choices_from: Literal[0, 1] = 0
    """What a number counts the choices from."""

    keywords: str | None = None
    """Column with the list of words a good answer must contain; "|" separates alternatives."""

    boxes: str | BoxColumns | None = None
    """Column with the expected box (four numbers), a list of boxes, or a list of objects with a box and a label; or
    four columns with a number each. The task defines their unit. An empty list is an image without objects."""

    box_labels: str | None = None
    """Column with the label of the box, or a list of labels, one for each box."""

    join: list[str] = []
    """Columns whose equal values make several records one row, as `[image]` does for one caption or box per line: it
    has all their references, boxes with labels, and keywords."""

    messages: str | None = None
    """Column with a conversation (messages of role and content, or from and value); replaces the task's prompt. If it
    ends with a user, the answer is the reference of the row: text, or messages, as TRL's `completion`."""

    images: str | None = None
    """Column with the image or images of a row, in a conversation in the order of their placeholders; rows may lack it,
    and are then text only."""

    system: str | None = "system"
    """Column with the system prompt of a row with messages; rows may lack it. Null does not read it."""

    tools: str | None = "tools"
    """Column with the definitions of the tools that a conversation may call; rows may lack it. Null does not read
    it."""

    objects: str | None = "objects"
    """Column with the names and boxes that stand for `<ref-object>` and `<bbox>` in the messages of a row, in
    ms-swift's format; rows may lack it. They are written as the model writes them (`model.box_form`). Null does not
    read it."""

    ignored_keys: list[str] = []
    """Keys of messages and of their parts that mean nothing, and columns that belong to conversations or instructions
    (`history`). Any other of these that vlmtune does not read is an error."""

    remote_images: list[Host] = []
    """Hosts from which images may be downloaded: `images.example.org`, `*.example.org`. Empty allows none."""

    id: str | None = None
    """Column with a stable row id; null uses a hash of the row's content."""

    group: str | None = None
    """Column with what rows have in common (patient, document): groups are resampled whole. Null groups by image."""

    meta: list[str] = []
    """Columns copied to the prediction file, for slicing; dates become ISO text."""

    splits: Splits = Splits()
    """The split of each role."""

    split_column: str | None = None
    """Column with the official split of each row: `splits` then names its values (`train|restval` takes both), and
    `all_rows` where the rows are. Null where every split is stored by itself."""

    all_rows: str | None = None
    """Where the rows of all splits are if `split_column` tells them apart: what `splits` would name otherwise."""

    unused_splits: list[str] = []
    """Values of `split_column` whose rows are left out. Any other value that `splits` does not name is an error."""

    shares: Shares | None = None
    """Divides a split that several roles name, so that no row has two roles; rows with a common image or group stay
    together. Fewer than 50 rows are divided exactly, with the same mix of answers in every role. Null gives each role
    all rows of its split."""

    limit: Limits = Limits()
    """Maximum number of rows of each role."""

    max_bad_fraction: float = Field(default=0, ge=0, le=1)
    """Largest fraction of a role's rows that may be skipped because they cannot be used; `quarantine.json` lists them.
    0 makes any such row an error."""

    @property
    def labelled(self) -> bool:
        """Whether any column defines the expected answer; without one, answers are not scored."""
        return any((self.references, self.record, self.target, self.keywords, self.boxes, self.messages))

    @property
    def box_columns(self) -> list[str]:
        """The columns that `boxes` names: none, one or four."""
        return [self.boxes] if isinstance(self.boxes, str) else list(self.boxes or [])

    @property
    def choice_columns(self) -> list[str]:
        """The columns that `choices` names."""
        return [self.choices] if isinstance(self.choices, str) else list(self.choices or [])


class Rows(Protocol):
    """Rows of one split by index; images are not read yet, and an index always returns the same example."""

    @property
    def fingerprint(self) -> str:
        """Hash of the ids, texts and images of all rows."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def __iter__(self) -> Iterator[Example]: ...

    def id(self, index: int) -> str:
        """Id of row `index`, without reading it."""

    def where(self, index: int) -> str:
        """File and line of row `index`, as far as the source knows them."""

    def group_key(self, index: int) -> str:
        """Equal for rows that must stay in the same split: those of one group, else those that share an image."""

    def target_count(self, index: int) -> int:
        """Number of training targets of row `index`: its references with `each` or `sample`, otherwise 1."""

    def with_target(self, index: int, target: int) -> Example:
        """Row `index` with its `target`-th target, counted from 0."""
