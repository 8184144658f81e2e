"""What experiment trackers are told: a training as it goes, and the comparison with the rows that changed most."""

import functools
import queue
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmtune import registry
from vlmtune.compare_files import pictures
from vlmtune.config import config_json
from vlmtune.files import read_json, write_json
from vlmtune.pipeline.session import Session
from vlmtune.progress import Progress
from vlmtune.scoring.comparison import Comparison
from vlmtune.tracking import Changed, Tracker

SHOWN = 25
"""Rows shown of the largest gains, and of the largest losses."""


PATIENCE_S = 5.0
"""How long a run waits for a tracker to finish."""


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


def open_trackers(session: Session, part: str, anew: bool = False) -> list[Guarded]:
    """The config's trackers, each in a thread of its own.

    A part of a run (an adapter, a comparison of several) has the same id whenever it is opened again: a resumed
    training goes on where it was shown, and what is compared stands beside its curves. `anew` draws another one.
    """
    if not session.config.tracking:
        return []
    root = session.folder.root
    facts = {
        "config": config_json(session.config),
        "dir": str(root),
        "name": f"{root.resolve().name}-{part}",
        "id": _id(root, part, anew),
    }
    opened = []
    for config in session.config.tracking:
        plugin = registry.load("tracking", config.to)
        opened.append(Guarded(config.to, functools.partial(plugin.open_tracker, config, facts), session.progress))
    return opened


def _id(root: Path, part: str, anew: bool) -> str:
    """Drawn once, and again for a training that begins again: a tracker takes no step twice."""
    file = root / ".vlmtune" / "tracking.json"
    known = read_json(file) if file.is_file() else {}
    if anew or part not in known:
        known |= {part: secrets.token_hex(4)}
        write_json(file, known)
    return str(known[part])


def tell_comparison(session: Session, comparison: Comparison, sources: Sequence[Path]) -> None:
    """The final metrics, and the rows that changed most; beside the curves where there is one training."""
    alone = len(session.seeds) == 1
    trackers = open_trackers(session, session.config.output.adapter if alone else "comparison")
    if not trackers:
        return
    facts, rows = comparison.facts, changed(comparison, sources)
    for tracker in trackers:
        tracker.compared(facts["primary"], rows)
    for tracker in trackers:
        tracker.finish(_summary(comparison))


def _summary(comparison: Comparison) -> dict[str, Any]:
    found: dict[str, Any] = {"status": comparison.status, "verdict": comparison.verdict}
    for entry in comparison.facts["metrics"]:
        named = {"before": entry["a"], "after": entry["b"], "change": entry["delta"]}
        found |= {f"{entry['name']}/{key}": value for key, value in named.items()}
    return found


def changed(comparison: Comparison, sources: Sequence[Path]) -> list[Changed]:
    """The rows with the largest gains and losses in the primary metric, at most `SHOWN` of each, the best first."""
    metrics = comparison.facts["metrics"]
    sign = 1 if not metrics or metrics[0]["higher_is_better"] else -1
    moved = [example for example in comparison.examples if example["gain"]]
    moved.sort(key=lambda example: -sign * example["gain"])
    gains = [example for example in moved if sign * example["gain"] > 0][:SHOWN]
    losses = [example for example in moved if sign * example["gain"] < 0][-SHOWN:]
    shown = [*gains, *losses]
    thumbnails = pictures([example["image"] for example in shown if example["image"]], sources)
    return [_row(example, number, thumbnails) for number, example in enumerate(shown)]


def _row(example: Mapping[str, Any], number: int, thumbnails: Mapping[str, bytes]) -> Changed:
    return Changed(
        id=example["id"] if example["id"] is not None else f"row {number}",
        image=thumbnails.get(example["image"]),
        references=tuple(example["references"]),
        before=example["a"],
        after=example["b"],
        change=example["gain"],
    )
