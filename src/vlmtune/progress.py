"""Progress events and who shows them: rich bars, plain lines, JSON lines, or nobody. Everything goes to stderr."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, Protocol

Facts = Mapping[str, float | int | str]
Style = Literal["auto", "rich", "plain", "jsonl", "none"]
PLAIN_SHARE, PLAIN_SECONDS = 0.05, 30.0


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


def _facts(facts: Facts) -> str:
    return "".join(f"  {k} {v:.4g}" if isinstance(v, float) else f"  {k} {v}" for k, v in facts.items())


def open_progress(style: Style) -> Progress:
    """The listener of that style; `auto` takes rich in a terminal and plain elsewhere."""
    if style == "auto":
        style = "rich" if sys.stderr.isatty() else "plain"
    listeners: dict[Style, Callable[[], Listener]] = {"rich": Rich, "plain": Plain, "jsonl": Jsonl, "none": Silent}
    return Progress(listeners[style]())
