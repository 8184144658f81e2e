"""Experiment trackers. A tracker is a file here with `Config` and `open_tracker(config, run)`.

Trackers only mirror the local learning curve, which the training loop always writes itself. They can neither stop nor
delay a training: `pipeline.tracking.BackgroundTracker` wraps each one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict

from vlmtune.registry import BaseConfig


class TrackerConfig(BaseConfig):
    """What every tracker lets the user choose."""

    to: str
    """The tracker: a file in `vlmtune/tracking`, or the dotted name of a custom module."""


class TrackedRun(TypedDict):
    """What a tracker is told about a run when it is opened."""

    config: Mapping[str, Any]
    """The resolved config, with placeholders for secrets."""

    dir: str
    """The run folder."""

    name: str
    id: str
    """Hex digits; the same when the run is opened again to resume a training or to add a comparison."""


@dataclass(frozen=True, slots=True)
class ChangedRow:
    """A row whose score the adapter changed, with the answers before and after.

    `image` is a WebP thumbnail, `change` that of the primary metric.
    """

    id: str
    image: bytes | None
    references: tuple[str, ...]
    before: str | None
    after: str | None
    change: float


class Tracker(Protocol):
    """Receives numbers as they are measured."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of one optimizer step."""

    def log_rows(self, metric: str, rows: Sequence[ChangedRow]) -> None:
        """The rows with the largest gains and losses in the primary metric, the best first."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Final results; the run is over."""
