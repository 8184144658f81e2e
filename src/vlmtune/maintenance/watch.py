"""Live view of a run that another process works on; it only reads files, so it cannot disturb the run."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmtune.files import whole_lines
from vlmtune.maintenance import inspect
from vlmtune.maintenance.summary import age, format_duration
from vlmtune.report.text import points, sparkline
from vlmtune.run_layout import ANSWERS, CURVE, SHUFFLED_ANSWERS, validation_answers

EVERY_S = 1.0
"""Seconds between two snapshots."""

QUIET_S = 60.0
"""Seconds without a status update after which its age is shown."""

NEWEST = 3
"""Answers shown."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A live run at one moment; `status` is as `StatusFile` wrote it, `curve` and `answers` of the work in progress."""

    owner: inspect.Owner
    status: Mapping[str, Any] | None
    curve: Sequence[Mapping[str, Any]]
    answers: Sequence[tuple[str, str]]

    @property
    def changes(self) -> tuple[Any, ...]:
        """What is worth a line in a log when it changes: the step of the run, points of the curve, answers."""
        step = (self.status["step"], self.status["total"]) if self.status else None
        counted = self.status["done"] if self.status and not self.curve else None
        return step, counted, len(self.curve), self.answers


def snapshots(root: Path, wait: Callable[[float], object]) -> Iterator[Snapshot]:
    """Snapshots of a run, `EVERY_S` apart, until no process works on it.

    Args:
        root: the run folder.
        wait: sleeps for the given seconds, as `time.sleep` does.

    Raises:
        ConfigError: not a run folder.
    """
    inspect.inspect_run(root)
    while (shown := snapshot(root)) is not None:
        yield shown
        wait(EVERY_S)


def snapshot(root: Path) -> Snapshot | None:
    """A run as it is now; None if no process works on it."""
    owner = inspect.owner(root)
    if owner is None or owner.alive is False:
        return None
    status, work = inspect.status(root), _newest(root)
    return Snapshot(owner, status, _curve(work) if work else [], _answers(work) if work else [])


def _objects(lines: Sequence[bytes]) -> list[dict[str, Any]]:
    """The JSON objects in some lines; others are skipped, since checking the files is up to the run itself."""
    objects = []
    for line in lines:
        with suppress(ValueError, RecursionError):
            objects.append(json.loads(line))
    return [one for one in objects if isinstance(one, dict)]


def _curve(work: Path) -> list[dict[str, Any]]:
    """Points that have a step, with their numeric values."""
    points = _objects(whole_lines(work / CURVE))
    numbers = [{key: value for key, value in point.items() if isinstance(value, int | float)} for point in points]
    return [point for point in numbers if "step" in point]


def _newest(root: Path) -> Path | None:
    """The work folder that changed last."""
    changes: list[tuple[float, Path]] = []
    for work in inspect.work_in_progress(root):
        try:
            changes.append((max(path.stat().st_mtime for path in work.folder.glob("*")), work.folder))
        except (FileNotFoundError, ValueError):  # published in the meantime
            continue
    return max(changes)[1] if changes else None


def _answers(work: Path) -> list[tuple[str, str]]:
    """(row id, text) of the newest answers; during a validation, of its answers."""
    files = [work / SHUFFLED_ANSWERS, *validation_answers(work), work / ANSWERS]
    for file in files:
        lines = _objects(whole_lines(file)[-NEWEST:])
        if lines:
            return [_answer(line) for line in lines]
    return []


def _answer(line: Mapping[str, Any]) -> tuple[str, str]:
    prediction, failure = line.get("prediction"), line.get("failure")
    why = failure.get("reason") if isinstance(failure, dict) else None
    return _clean(str(line.get("id"))), _clean(f"(failed: {why})" if prediction is None else str(prediction))


def _clean(text: str) -> str:
    """A text in one line without control characters, so that an answer cannot move the terminal's cursor."""
    return " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", text).split())


def render(snapshot: Snapshot, root: Path, width: int) -> list[str]:
    """A snapshot as lines of at most `width` characters."""
    rows = [*_current_step(snapshot.status, width), *_curves(snapshot, max(8, min(60, width - 50)))]
    rows += [("answer", f"{name}: {text}") for name, text in snapshot.answers]
    wide = max(len(label) for label, _ in rows)
    lines = [f"{root}  {snapshot.owner}{_quiet(snapshot)}", *(f"{label:<{wide}}  {text}" for label, text in rows)]
    return [line if len(line) <= width else line[: width - 1] + "…" for line in lines]


def log_line(snapshot: Snapshot) -> str:
    """A snapshot in one line, for a log."""
    status = snapshot.status
    parts = [f"{status['step']} {status['done']}/{status['total']}" if status else "starting"]
    if snapshot.curve:
        point = snapshot.curve[-1]
        parts.append(f"step {point['step']}: " + ", ".join(f"{k} {v:.4g}" for k, v in point.items() if k != "step"))
    parts += [f"{name} {value}" for name, value in _facts(status)]
    left = eta(status)
    parts += [f"ETA {left}"] if left else []
    parts += [f"{name}: {text}" for name, text in snapshot.answers[-1:]]
    return "  ".join(parts)


def _current_step(status: Mapping[str, Any] | None, width: int) -> Iterator[tuple[str, str]]:
    """Progress bar and speed of the current step."""
    if status is None:
        yield "starting", "no step has started yet"
        return
    done, total, left = status["done"], max(status["total"], 1), eta(status)
    room = max(10, min(30, width - 60))
    full = done * room // total
    bar = f"{'━' * full}{'─' * (room - full)} {done}/{status['total']}  {done / total:.0%}"
    yield status["step"], f"{bar}  ETA {left}" if left else bar
    speed = [_rate(status["rate"])] if status["rate"] and left else []
    speed += [f"{name} {value}" for name, value in _facts(status)]
    if speed:
        yield "speed", ", ".join(speed)


def _curves(snapshot: Snapshot, room: int) -> Iterator[tuple[str, str]]:
    """The training loss and the validation metrics."""
    losses = points(snapshot.curve, "loss")
    if losses:
        values = [value for _, value in losses]
        now = (snapshot.status or {}).get("facts", {}).get("loss")
        later = f", now {now:.4g}" if isinstance(now, int | float) else ""
        yield "loss", f"{values[0]:.4g} {sparkline(values, room)} {values[-1]:.4g} at step {losses[-1][0]}{later}"
    validated = [point for point in snapshot.curve if "validation_loss" in point]
    for key in validated[-1] if validated else ():
        known = points(validated, key)
        if key != "step" and known:
            values = [value for _, value in known]
            yield key, f"{values[0]:.4g} {sparkline(values, room)} {values[-1]:.4g} at step {known[-1][0]}"


def _rate(rate: float) -> str:
    return f"{rate:,.0f} a second" if rate >= 10 else f"{rate:.1f} a second" if rate >= 1 else f"{1 / rate:.1f} s each"


def eta(status: Mapping[str, Any] | None) -> str | None:
    """Time left at the current rate; None if it is not known."""
    if status is None or not status["rate"] or status["done"] >= status["total"]:
        return None
    return format_duration(max(0.0, (status["total"] - status["done"]) / status["rate"] - age(status)))


def _facts(status: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    """(name, value) of what a step reports besides its count; the loss is left to the curve."""
    for name, value in (status["facts"] if status else {}).items():
        if name != "loss":
            yield name, f"{value:.4g}" if isinstance(value, float) else str(value)


def _quiet(snapshot: Snapshot) -> str:
    if snapshot.status is None or age(snapshot.status) < QUIET_S:
        return ""
    return f"  no update for {format_duration(age(snapshot.status))}"
