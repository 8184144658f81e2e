"""Progress events and their display: progress bars, plain lines, JSON lines or nothing. Everything goes to stderr.

A run also writes its latest event to a small status file, so that other processes can watch it.
"""

import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from vlmtune.files import building_path
from vlmtune.terminal import echo, safe

Facts = Mapping[str, float | int | str]
"""Numbers that belong to an event, such as the loss, by name."""

Style = Literal["auto", "rich", "plain", "jsonl", "none"]
PLAIN_SHARE, PLAIN_SECONDS = 0.05, 30.0
"""The plain style prints a line after this share of a step, or after this time."""

STATUS_SECONDS = 1.0
"""Shortest time between two writes of the status file. A write takes 0.2 ms and does not wait for the disk."""

RATE_EVENTS = 50
"""Events over which the rate is measured."""


class Listener(Protocol):
    """Displays progress. It never affects the work."""

    def note(self, text: str) -> None:
        """Show a message."""

    def update(self, step: str, done: int, total: int, facts: Facts) -> None:
        """`done` of `total` parts of a step are done; the first call has done = 0, the last done = total."""

    def end(self, step: str) -> None:
        """The step is over, because it reached its total or an exception ended it."""


class Progress:
    """Passes the progress of steps to a listener."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def note(self, text: str) -> None:
        """Show a message."""
        self._listener.note(text)

    @contextmanager
    def step(self, name: str, total: int) -> Iterator["Step"]:
        """A part of the work with a known size. The listener is notified of its end even after an exception."""
        try:
            yield Step(name, total, self._listener)
        finally:
            self._listener.end(name)


class Step:
    """Counts up to its total."""

    def __init__(self, name: str, total: int, listener: Listener) -> None:
        self._name, self._total, self._done, self._listener = name, total, 0, listener
        listener.update(name, 0, total, {})

    def advance(self, count: int = 1, **facts: float | int | str) -> None:
        """Count `count` more parts as done."""
        self._done += count
        self._listener.update(self._name, self._done, self._total, facts)


class Silent:
    """Shows nothing; a base for listeners that handle only some events."""

    def note(self, text: str) -> None:
        """Nothing."""

    def update(self, step: str, done: int, total: int, facts: Facts) -> None:
        """Nothing."""

    def end(self, step: str) -> None:
        """Nothing."""


class Plain:
    """One line per 5 % of a step or 30 s, for logs."""

    def __init__(self) -> None:
        self._shown: tuple[str, int, float] = ("", 0, 0.0)

    def note(self, text: str) -> None:
        """One line."""
        echo(text, err=True)

    def update(self, step: str, done: int, total: int, facts: Facts) -> None:
        """Print a line if one is due."""
        name, shown, when = self._shown
        now = time.monotonic()
        due = name != step or done == total or done - shown >= PLAIN_SHARE * total or now - when >= PLAIN_SECONDS
        if due and not (name == step and done == shown):
            self._shown = (step, done, now)
            echo(f"{step}: {done}/{total}{_facts(facts)}", err=True)

    def end(self, step: str) -> None:
        """Nothing: the last line is already printed."""


class Jsonl:
    """One JSON object per event, for programs."""

    def note(self, text: str) -> None:
        """{"note": …}"""
        echo(json.dumps({"note": text}), err=True)

    def update(self, step: str, done: int, total: int, facts: Facts) -> None:
        """{"step": …, "done": …, "total": …, …}"""
        echo(json.dumps({"step": step, "done": done, "total": total, **facts}), err=True)

    def end(self, step: str) -> None:
        """Nothing: the last event is already printed."""


class Rich:
    """A bar per step, for a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._bars = Progress(
            TextColumn("{task.description:<22}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
            TimeRemainingColumn(), TextColumn("{task.fields[facts]}"), console=Console(stderr=True),
        )  # fmt: skip
        self._tasks: dict[str, Any] = {}

    def note(self, text: str) -> None:
        """One line above the bars."""
        self._bars.console.print(safe(text), highlight=False, markup=False)

    def update(self, step: str, done: int, total: int, facts: Facts) -> None:
        """Move the bar."""
        if step not in self._tasks:
            self._tasks[step] = self._bars.add_task(step, total=total, facts="")
            self._bars.start()
        self._bars.update(self._tasks[step], completed=done, facts=_facts(facts))

    def end(self, step: str) -> None:
        """Stop the live display, leaving the bar in place: it would overwrite what is printed next."""
        if step in self._tasks:
            self._bars.refresh()
            self._bars.stop()
            self._bars.remove_task(self._tasks.pop(step))


@dataclass(slots=True)
class _OpenStep:
    """The state of an open step. `recent` holds (time, done) of its last events, at most `RATE_EVENTS`."""

    done: int
    total: int
    facts: Facts
    recent: deque[tuple[float, int]]

    @property
    def rate(self) -> float | None:
        """Parts per second over the recent events; None where nothing was done yet."""
        if len(self.recent) < 2 or self.recent[-1][0] == self.recent[0][0]:
            return None
        (start, first), (now, done) = self.recent[0], self.recent[-1]
        return (done - first) / (now - start)


class StatusFile:
    """Writes the state of the innermost open step to a file, and passes every event on.

    The file holds {"step", "done", "total", "facts", "rate" (parts per second; null until one is known), "at" (Unix
    time), "command" (the process's arguments)}, and is replaced as a whole, so that a reader never sees half of it.
    After an exception it describes the outermost step. It only informs people: nothing is resumed from it, and where it
    cannot be written, the run continues without it.
    """

    def __init__(self, listener: Listener, file: Path) -> None:
        self._listener, self._file, self._written = listener, file, 0.0
        self._open: dict[str, _OpenStep] = {}

    def note(self, text: str) -> None:
        """Pass it on."""
        self._listener.note(text)

    def update(self, step: str, done: int, total: int, facts: Facts) -> None:
        """Write if it is due: at the start and the end of a step, and once a second in between."""
        self._listener.update(step, done, total, facts)
        now = time.monotonic()
        if step not in self._open:
            self._open[step] = _OpenStep(done, total, facts, deque(maxlen=RATE_EVENTS))
        else:  # the first event after 0 may be what an interrupted run had done: the rate is measured from there
            step_state = self._open[step]
            step_state.done, step_state.facts = done, facts
            step_state.recent.append((now, done))
        if done in (0, total) or now - self._written >= STATUS_SECONDS:
            self._write(step)

    def end(self, step: str) -> None:
        """Write the state of the enclosing step; of the outermost step, how far it came."""
        self._listener.end(step)
        enclosing = [name for name in self._open if name != step]
        if enclosing or step in self._open:
            self._write(enclosing[-1] if enclosing else step)
        self._open.pop(step, None)

    def _write(self, step: str) -> None:
        self._written = time.monotonic()
        step_state = self._open[step]
        counted = {"step": step, "done": step_state.done, "total": step_state.total, "rate": step_state.rate}
        status = {**counted, "facts": dict(step_state.facts), "at": round(time.time(), 3), "command": sys.argv}
        building = building_path(self._file)
        with suppress(OSError):
            building.write_text(json.dumps(status), encoding="utf-8")
            building.replace(self._file)


def _facts(facts: Facts) -> str:
    return "".join(f"  {k} {v:.4g}" if isinstance(v, float) else f"  {k} {v}" for k, v in facts.items())


def open_progress(style: Style, status_file: Path | None = None) -> Progress:
    """Progress in a style; `auto` is rich in a terminal and plain otherwise.

    Args:
        style: how events are shown.
        status_file: where `StatusFile` writes; None for no file.
    """
    if style == "auto":
        style = "rich" if sys.stderr.isatty() else "plain"
    listeners: dict[Style, Callable[[], Listener]] = {"rich": Rich, "plain": Plain, "jsonl": Jsonl, "none": Silent}
    listener = listeners[style]()
    return Progress(listener if status_file is None else StatusFile(listener, status_file))
