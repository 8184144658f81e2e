"""Progress events and who shows them: rich bars, plain lines, JSON lines, or nobody. Everything goes to stderr.

Where a run stands is also kept in a small file of its folder, for those who watch it from elsewhere.
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

Facts = Mapping[str, float | int | str]
Style = Literal["auto", "rich", "plain", "jsonl", "none"]
PLAIN_SHARE, PLAIN_SECONDS = 0.05, 30.0
STATUS = "status.json"
"""Name of the file that `Kept` writes, in the folder's `.vlmtune`; gone when the run has ended well."""

KEPT_SECONDS = 1.0
"""The file is written at most so often: 0.2 ms each, and never waiting for the disk."""

RATE_EVENTS = 50
"""Events that the rate is measured over."""


class Listener(Protocol):
    """Shows progress; never decides anything."""

    def note(self, text: str) -> None:
        """Something worth saying once."""

    def at(self, step: str, done: int, total: int, facts: Facts) -> None:
        """`done` of `total` parts of a step; the first call has done = 0, the last done = total."""

    def end(self, step: str) -> None:
        """The step is over: it reached its total, or an exception left it."""


class Progress:
    """What steps report to."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def note(self, text: str) -> None:
        """Say one thing."""
        self._listener.note(text)

    @contextmanager
    def step(self, name: str, total: int) -> Iterator["Step"]:
        """A part of the work with a known size. The listener hears of its end however it ends."""
        try:
            yield Step(name, total, self._listener)
        finally:
            self._listener.end(name)


class Step:
    """Counts up to its total."""

    def __init__(self, name: str, total: int, listener: Listener) -> None:
        self._name, self._total, self._done, self._listener = name, total, 0, listener
        listener.at(name, 0, total, {})

    def advance(self, count: int = 1, **facts: float | int | str) -> None:
        """`count` more are done."""
        self._done += count
        self._listener.at(self._name, self._done, self._total, facts)


class Silent:
    """Shows nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def at(self, step: str, done: int, total: int, facts: Facts) -> None:
        """Nothing."""

    def end(self, step: str) -> None:
        """Nothing."""


class Plain:
    """One line per 5 % or 30 s, for logs."""

    def __init__(self) -> None:
        self._shown: tuple[str, int, float] = ("", 0, 0.0)

    def note(self, text: str) -> None:
        """One line."""
        print(text, file=sys.stderr, flush=True)

    def at(self, step: str, done: int, total: int, facts: Facts) -> None:
        """A line where it is due."""
        name, shown, when = self._shown
        now = time.monotonic()
        due = name != step or done == total or done - shown >= PLAIN_SHARE * total or now - when >= PLAIN_SECONDS
        if due and not (name == step and done == shown):
            self._shown = (step, done, now)
            print(f"{step}: {done}/{total}{_facts(facts)}", file=sys.stderr, flush=True)

    def end(self, step: str) -> None:
        """Nothing: its last line is out."""


class Jsonl:
    """One JSON object per event, for programs."""

    def note(self, text: str) -> None:
        """{"note": …}"""
        print(json.dumps({"note": text}), file=sys.stderr, flush=True)

    def at(self, step: str, done: int, total: int, facts: Facts) -> None:
        """{"step": …, "done": …, "total": …, …}"""
        print(json.dumps({"step": step, "done": done, "total": total, **facts}), file=sys.stderr, flush=True)

    def end(self, step: str) -> None:
        """Nothing: its last event is out."""


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
        self._bars.console.print(text, highlight=False, markup=False)

    def at(self, step: str, done: int, total: int, facts: Facts) -> None:
        """Move the bar."""
        if step not in self._tasks:
            self._tasks[step] = self._bars.add_task(step, total=total, facts="")
            self._bars.start()
        self._bars.update(self._tasks[step], completed=done, facts=_facts(facts))

    def end(self, step: str) -> None:
        """Leave the bar as it stands, and give the terminal back: what is printed next would be overwritten."""
        if step in self._tasks:
            self._bars.refresh()
            self._bars.stop()
            self._bars.remove_task(self._tasks.pop(step))


@dataclass(slots=True)
class _Standing:
    """Where an open step stands. `seen` holds (time, done) of its last events, `RATE_EVENTS` at most."""

    done: int
    total: int
    facts: Facts
    seen: deque[tuple[float, int]]

    @property
    def rate(self) -> float | None:
        """Parts per second over the last events; None where nothing was done yet."""
        if len(self.seen) < 2 or self.seen[-1][0] == self.seen[0][0]:
            return None
        (began, first), (now, done) = self.seen[0], self.seen[-1]
        return (done - first) / (now - began)


class Kept:
    """Leaves in a file where the run stands, and passes everything on.

    The file is replaced whole, so a reader never meets half of one: {"step", "done", "total", "facts", "rate" (parts
    per second, null before any is known), "at" (Unix time), "command" (the process's arguments)}. It is about the
    innermost open step, and behind an exception about the outermost. A hint for people: nothing is resumed from it,
    and where it cannot be written the run goes on without.
    """

    def __init__(self, listener: Listener, file: Path) -> None:
        self._listener, self._file, self._written = listener, file, 0.0
        self._open: dict[str, _Standing] = {}

    def note(self, text: str) -> None:
        """Nothing of its own."""
        self._listener.note(text)

    def at(self, step: str, done: int, total: int, facts: Facts) -> None:
        """Write where it is due: at the beginning and the end of a step, and in between once a second."""
        self._listener.at(step, done, total, facts)
        now = time.monotonic()
        if step not in self._open:
            self._open[step] = _Standing(done, total, facts, deque(maxlen=RATE_EVENTS))
        else:  # the first event after 0 is what an interrupted run had done: speed is measured from there
            standing = self._open[step]
            standing.done, standing.facts = done, facts
            standing.seen.append((now, done))
        if done in (0, total) or now - self._written >= KEPT_SECONDS:
            self._write(step)

    def end(self, step: str) -> None:
        """Back to the step around it. The outermost one leaves how far it came."""
        self._listener.end(step)
        around = [name for name in self._open if name != step]
        if around or step in self._open:
            self._write(around[-1] if around else step)
        self._open.pop(step, None)

    def _write(self, step: str) -> None:
        self._written = time.monotonic()
        standing = self._open[step]
        counted = {"step": step, "done": standing.done, "total": standing.total, "rate": standing.rate}
        status = {**counted, "facts": dict(standing.facts), "at": round(time.time(), 3), "command": sys.argv}
        building = self._file.with_name(f".{self._file.name}.building")
        with suppress(OSError):
            building.write_text(json.dumps(status), encoding="utf-8")
            building.replace(self._file)


def _facts(facts: Facts) -> str:
    return "".join(f"  {k} {v:.4g}" if isinstance(v, float) else f"  {k} {v}" for k, v in facts.items())


def open_progress(style: Style, kept: Path | None = None) -> Progress:
    """The listener of that style; `auto` takes rich in a terminal and plain elsewhere. `kept`: see `Kept`."""
    if style == "auto":
        style = "rich" if sys.stderr.isatty() else "plain"
    listeners: dict[Style, Callable[[], Listener]] = {"rich": Rich, "plain": Plain, "jsonl": Jsonl, "none": Silent}
    shown = listeners[style]()
    return Progress(shown if kept is None else Kept(shown, kept))
