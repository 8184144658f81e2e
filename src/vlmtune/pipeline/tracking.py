"""Experiment trackers: they mirror a training while it runs, and show the comparison with its largest changes."""

import functools
import queue
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmtune import registry
from vlmtune.compare_files import thumbnails
from vlmtune.config import config_json
from vlmtune.files import read_json, write_json
from vlmtune.pipeline.session import Session
from vlmtune.progress import Progress
from vlmtune.run_layout import tracking_path
from vlmtune.scoring.comparison import Comparison
from vlmtune.scoring.results import ExampleResult
from vlmtune.tracking import ChangedRow, TrackedRun, Tracker

SHOWN = 25
"""Rows shown of the largest gains, and of the largest losses."""

FINISH_TIMEOUT_S = 5.0
"""Longest time that a run waits for a tracker to finish."""


class BackgroundTracker:
    """Opens and runs a tracker in its own thread, so that it can neither stop nor delay training."""

    def __init__(self, name: str, open_tracker: Callable[[], Tracker], progress: Progress) -> None:
        self._name, self._open, self._progress = name, open_tracker, progress
        self._calls: queue.Queue[tuple[str, tuple[Any, ...]] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, daemon=True, name=f"tracker-{name}")
        self._thread.start()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Queue the call and return immediately."""
        self._calls.put(("log", (step, dict(values))))

    def log_rows(self, metric: str, rows: Sequence[ChangedRow]) -> None:
        """Queue the call and return immediately."""
        self._calls.put(("log_rows", (metric, tuple(rows))))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Queue the call, then wait for the tracker, but no longer than `FINISH_TIMEOUT_S` seconds."""
        self._calls.put(("finish", (dict(summary),)))
        self._calls.put(None)
        self._thread.join(FINISH_TIMEOUT_S)
        if self._thread.is_alive():
            self._progress.note(
                f"{self._name} does not finish in time; continuing without it, the local curve is complete"
            )

    def _work(self) -> None:
        try:
            tracker = self._open()
            while (call := self._calls.get()) is not None:
                getattr(tracker, call[0])(*call[1])
        except Exception as error:  # a tracker is third-party code: whatever it raises, training continues
            self._progress.note(f"{self._name} failed ({error}); continuing without it, the local curve is complete")


def open_trackers(session: Session, name: str, new_id: bool = False) -> list[BackgroundTracker]:
    """Open the config's trackers.

    Args:
        session: the run.
        name: what is tracked: an adapter, or the comparison of several. It keeps its id when it is opened again, so
            that a resumed training continues its curves and a comparison appears next to them.
        new_id: take a new id, for a training that starts from scratch: trackers accept a step only once.
    """
    if not session.config.tracking:
        return []
    root = session.folder.root
    run: TrackedRun = {
        "config": config_json(session.config),
        "dir": str(root),
        "name": f"{root.resolve().name}-{name}",
        "id": _run_id(root, name, new_id),
    }
    opened = []
    for config in session.config.tracking:
        plugin = registry.load("tracking", config.to)
        opened.append(
            BackgroundTracker(config.to, functools.partial(plugin.open_tracker, config, run), session.progress)
        )
    return opened


def _run_id(root: Path, name: str, new: bool) -> str:
    """The id under which a name of this run folder is tracked, generated on first use."""
    file = tracking_path(root)
    known = read_json(file) if file.is_file() else {}
    if new or name not in known:
        known |= {name: secrets.token_hex(4)}
        write_json(file, known)
    return str(known[name])


def track_comparison(session: Session, comparison: Comparison, sources: Sequence[Path]) -> None:
    """Track the final metrics and the rows that changed most; with a single training, next to its curves."""
    single = len(session.seeds) == 1
    trackers = open_trackers(session, session.config.output.adapter if single else "comparison")
    if not trackers:
        return
    rows = changed_rows(comparison, sources)
    for tracker in trackers:
        tracker.log_rows(comparison.result["primary"], rows)
    for tracker in trackers:
        tracker.finish(_summary(comparison))


def _summary(comparison: Comparison) -> dict[str, Any]:
    summary: dict[str, Any] = {"status": comparison.status, "verdict": comparison.verdict}
    for entry in comparison.metrics:
        values = {"before": entry["a"], "after": entry["b"], "change": entry["delta"]}
        summary |= {f"{entry['name']}/{key}": value for key, value in values.items()}
    return summary


def changed_rows(comparison: Comparison, sources: Sequence[Path]) -> list[ChangedRow]:
    """The rows with the largest gains and losses in the primary metric, at most `SHOWN` of each, the best first."""
    sign = 1 if not comparison.metrics or comparison.metrics[0]["higher_is_better"] else -1
    changed = [(sign * example["gain"], example) for example in comparison.examples if example["gain"]]
    changed.sort(key=lambda pair: -pair[0])
    gains = [example for gain, example in changed if gain > 0][:SHOWN]
    losses = [example for gain, example in changed if gain < 0][-SHOWN:]
    largest = [*gains, *losses]
    images = thumbnails([example["image"] for example in largest if example["image"]], sources)
    return [_row(example, number, images) for number, example in enumerate(largest)]


def _row(example: ExampleResult, number: int, images: Mapping[str, bytes]) -> ChangedRow:
    return ChangedRow(
        id=example["id"] if example["id"] is not None else f"row {number}",
        image=images.get(example["image"] or ""),
        references=tuple(example["references"]),
        before=example["a"],
        after=example["b"],
        change=example["gain"] or 0.0,
    )
