"""A run that another process works on, as it looks from outside: only files are read, so it cannot be disturbed."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmtune.files import whole_lines
from vlmtune.maintenance import inspect as folder
from vlmtune.maintenance.summary import age, span
from vlmtune.report.text import points, sparkline
from vlmtune.run_folder import ANSWERS, CURVE, SHUFFLED_ANSWERS, validation_answers

EVERY_S = 1.0
"""Seconds between two looks."""

QUIET_S = 60.0
"""After so long without a sign the age of the last one is shown."""

NEWEST = 3
"""Answers shown."""


@dataclass(frozen=True, slots=True)
class Glimpse:
    """A live run at one moment. `curve` and `answers` are of what is in the making; `status` as in `StatusFile`."""

    owner: folder.Owner
    status: Mapping[str, Any] | None
    curve: Sequence[Mapping[str, Any]]
    answers: Sequence[tuple[str, str]]

    @property
    def seen(self) -> tuple[Any, ...]:
        """What is worth a line of a log: another step of the run, a point of the curve, answers."""
        step = (self.status["step"], self.status["total"]) if self.status else None
        counted = self.status["done"] if self.status and not self.curve else None
        return step, counted, len(self.curve), self.answers


def glimpses(root: Path, wait: Callable[[float], object]) -> Iterator[Glimpse]:
    """Looks at a run, `EVERY_S` apart, until nobody works on it any more.

    Args:
        root: the run folder.
        wait: called with the seconds to wait.

    Raises:
        ConfigError: no run folder.
    """
    folder.look(root)
    while (owner := folder.owner(root)) is not None and owner.alive is not False:
        status, made = folder.status(root), _newest(root)
        curve = _curve(made) if made else []
        yield Glimpse(owner, status, curve, _answers(made) if made else [])
        wait(EVERY_S)


def _objects(lines: Sequence[str]) -> list[dict[str, Any]]:
    """The JSON objects among some lines; a blank or torn one is passed over, for the run itself judges its files."""
    found = []
    for line in lines:
        with suppress(ValueError):
            found.append(json.loads(line))
    return [one for one in found if isinstance(one, dict)]


def _curve(work: Path) -> list[dict[str, Any]]:
    """Points with their step; of their other values, those that are numbers."""
    points = _objects(whole_lines(work / CURVE))
    numbers = [{key: value for key, value in point.items() if isinstance(value, int | float)} for point in points]
    return [point for point in numbers if "step" in point]


def _newest(root: Path) -> Path | None:
    """The work that was touched last."""
    found: list[tuple[float, Path]] = []
    for one in folder.makings(root):
        try:
            found.append((max(path.stat().st_mtime for path in one.folder.glob("*")), one.folder))
        except (FileNotFoundError, ValueError):  # published while we looked
            continue
    return max(found)[1] if found else None


def _answers(work: Path) -> list[tuple[str, str]]:
    """(id, answer) of the newest answers; while the validation rows are judged, of those."""
    files = [work / SHUFFLED_ANSWERS, *validation_answers(work), work / ANSWERS]
    for file in files:
        lines = _objects(whole_lines(file)[-NEWEST:])
        if lines:
            return [_answer(line) for line in lines]
    return []


def _answer(line: Mapping[str, Any]) -> tuple[str, str]:
    said, failure = line.get("prediction"), line.get("failure")
    why = failure.get("reason") if isinstance(failure, dict) else None
    return _clean(str(line.get("id"))), _clean(f"(failed: {why})" if said is None else str(said))


def _clean(text: str) -> str:
    """A text in one line; what models and datasets say must not move a terminal's cursor."""
    return " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", text).split())


def screen(seen: Glimpse, root: Path, width: int) -> list[str]:
    """The whole of it, as lines of at most `width` letters."""
    rows = [*_standing(seen.status, width), *_curves(seen, max(8, min(60, width - 50)))]
    rows += [("answer", f"{name}: {text}") for name, text in seen.answers]
    wide = max(len(label) for label, _ in rows)
    lines = [f"{root}  {seen.owner}{_quiet(seen)}", *(f"{label:<{wide}}  {text}" for label, text in rows)]
    return [line if len(line) <= width else line[: width - 1] + "…" for line in lines]


def line(seen: Glimpse) -> str:
    """The same in one line, for a log."""
    status = seen.status
    parts = [f"{status['step']} {status['done']}/{status['total']}" if status else "starting"]
    if seen.curve:
        point = seen.curve[-1]
        parts.append(f"step {point['step']}: " + ", ".join(f"{k} {v:.4g}" for k, v in point.items() if k != "step"))
    parts += [f"{name} {value}" for name, value in _facts(status)]
    eta = _eta(status)
    parts += [f"ETA {eta}"] if eta else []
    parts += [f"{name}: {text}" for name, text in seen.answers[-1:]]
    return "  ".join(parts)


def _standing(status: Mapping[str, Any] | None, width: int) -> Iterator[tuple[str, str]]:
    """The open step as a bar, and how fast it is."""
    if status is None:
        yield "starting", "no step has begun yet"
        return
    done, total, eta = status["done"], max(status["total"], 1), _eta(status)
    room = max(10, min(30, width - 60))
    full = done * room // total
    bar = f"{'━' * full}{'─' * (room - full)} {done}/{status['total']}  {done / total:.0%}"
    yield status["step"], f"{bar}  ETA {eta}" if eta else bar
    speed = [_rate(status["rate"])] if status["rate"] and eta else []
    speed += [f"{name} {value}" for name, value in _facts(status)]
    if speed:
        yield "speed", ", ".join(speed)


def _curves(seen: Glimpse, room: int) -> Iterator[tuple[str, str]]:
    """The loss, and what was measured on the validation rows."""
    losses = points(seen.curve, "loss")
    if losses:
        values = [value for _, value in losses]
        now = (seen.status or {}).get("facts", {}).get("loss")
        later = f", now {now:.4g}" if isinstance(now, int | float) else ""
        yield "loss", f"{values[0]:.4g} {sparkline(values, room)} {values[-1]:.4g} at step {losses[-1][0]}{later}"
    judged = [point for point in seen.curve if "validation_loss" in point]
    for key in judged[-1] if judged else ():
        known = points(judged, key)
        if key != "step" and known:
            values = [value for _, value in known]
            yield key, f"{values[0]:.4g} {sparkline(values, room)} {values[-1]:.4g} at step {known[-1][0]}"


def _rate(rate: float) -> str:
    return f"{rate:,.0f} a second" if rate >= 10 else f"{rate:.1f} a second" if rate >= 1 else f"{1 / rate:.1f} s each"


def _eta(status: Mapping[str, Any] | None) -> str | None:
    """Time left at the rate of the last events; None where it is not known."""
    if status is None or not status["rate"] or status["done"] >= status["total"]:
        return None
    return span(max(0.0, (status["total"] - status["done"]) / status["rate"] - age(status)))


def _facts(status: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    """What a step says of itself beside its count, as the loss; that one stands in the curve."""
    for name, value in (status["facts"] if status else {}).items():
        if name != "loss":
            yield name, f"{value:.4g}" if isinstance(value, float) else str(value)


def _quiet(seen: Glimpse) -> str:
    if seen.status is None or age(seen.status) < QUIET_S:
        return ""
    return f"  no news for {span(age(seen.status))}"
