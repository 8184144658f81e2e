"""Experiment trackers behind one seam. A tracker is a file here with `Config` and `open_tracker(config, facts)`.

The local JSONL of the curves is always written, by the training loop itself; a tracker only mirrors it. Nothing a
tracker does may stop or delay training: `pipeline.tracking.Guarded` wraps each one.

`facts` are {"config": the resolved configuration, secrets as placeholders, "dir": the run folder, "name": of the run,
"id": hex digits, the same whenever this run is opened again: resumed, or compared}.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from vlmtune.registry import BaseConfig


class TrackerConfig(BaseConfig):
    """What every tracker lets the user choose."""

    to: str
    """The tracker: a file in `vlmtune/tracking`, or the dotted name of a custom module."""


@dataclass(frozen=True, slots=True)
class Changed:
    """A row that the adapter changed. `image` is a WebP thumbnail, `change` that of the primary metric."""

    id: str
    image: bytes | None
    references: tuple[str, ...]
    before: str | None
    after: str | None
    change: float


class Tracker(Protocol):
    """Receives numbers as they are made."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of one optimizer step."""

    def compared(self, metric: str, rows: Sequence[Changed]) -> None:
        """The rows with the largest gains and losses in the primary metric, the best first."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """The run ended with these results."""
