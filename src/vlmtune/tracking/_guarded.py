"""A tracker that cannot hurt: what it raises is said once, what it delays is left behind."""

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vlmtune.progress import Progress
from vlmtune.tracking import Changed, Tracker

PATIENCE_S = 5.0


class Guarded:
    """Opens and runs a tracker in a thread of its own; training only puts numbers into a queue."""

    def __init__(self, name: str, opening: Callable[[], Tracker], progress: Progress) -> None:
        self._name, self._opening, self._progress = name, opening, progress
        self._calls: queue.Queue[tuple[str, tuple[Any, ...]] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, daemon=True, name=f"tracker-{name}")
        self._thread.start()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Hand over and return at once."""
        self._calls.put(("log", (step, dict(values))))

    def compared(self, metric: str, rows: Sequence[Changed]) -> None:
        """Hand over and return at once."""
        self._calls.put(("compared", (metric, tuple(rows))))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Hand over, then wait for the tracker, but no longer than `PATIENCE_S` seconds."""
        self._calls.put(("finish", (dict(summary),)))
        self._calls.put(None)
        self._thread.join(PATIENCE_S)
        if self._thread.is_alive():
            self._progress.note(f"{self._name} is slow to finish and is left behind; the local curve is complete")

    def _work(self) -> None:
        try:
            tracker = self._opening()
            while (call := self._calls.get()) is not None:
                getattr(tracker, call[0])(*call[1])
        except Exception as error:  # a tracker is somebody else's program: whatever it raises, training goes on
            self._progress.note(f"{self._name} failed and is left out ({error}); training goes on, its curve is local")
