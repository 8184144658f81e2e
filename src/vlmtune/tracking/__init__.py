"""Experiment trackers behind one seam. A tracker is a file here with `Config` and `open_tracker(config, facts)`.

The local JSONL of the curves is always written, by the training loop itself; a tracker only mirrors it. Nothing a
tracker does may stop or delay training: `_guarded.Guarded` wraps every one.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from vlmtune.plugs import Part


class TrackerConfig(Part):
    """What every tracker lets the user choose."""

    to: str
    """The tracker: a file in `vlmtune/tracking`, or the dotted name of your own module."""


class Tracker(Protocol):
    """Receives numbers as they are made."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of one optimizer step."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """The run ended with these results."""
