"""Which split plays which role, and how much of it is used: two blocks of every dataset."""

from pydantic import PositiveInt

from vlmtune.plugs import Part


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
