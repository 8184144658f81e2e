"""What a run leaves of its way: the curve, a point per logged step, and every example's loss each time it was met."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vlmtune.files import append_lines, read_whole_lines, write_atomic


class History:
    """Two files in a run's work folder, `curve.jsonl` and `visits.jsonl`; `mirror(step, values)` hears of the curve.

    Lines are held back until `save`, and a resumed run cuts off what stands behind its checkpoint: it is made again.
    """

    def __init__(self, work: Path, mirror: Callable[[int, Mapping[str, float]], None]) -> None:
        self.curve, self.visits = work / "curve.jsonl", work / "visits.jsonl"
        self._mirror = mirror
        self._unwritten: list[str] = []

    def visit(self, **facts: Any) -> None:
        """One example met; kept until the next point or checkpoint."""
        self._unwritten.append(json.dumps(facts))

    def point(self, step: int, values: Mapping[str, float]) -> None:
        """One point of the curve: to the local file first, then to trackers."""
        self.save()
        append_lines(self.curve, [json.dumps({"step": step, **values})])
        self._mirror(step, values)

    def save(self) -> None:
        """Write what was held back."""
        append_lines(self.visits, self._unwritten)
        self._unwritten.clear()

    def points(self) -> Iterator[dict[str, Any]]:
        """The curve so far."""
        return map(json.loads, read_whole_lines(self.curve))

    def cut(self, step: int) -> None:
        """Forget everything behind a step."""
        for file in (self.curve, self.visits):
            kept = [line for line in read_whole_lines(file) if json.loads(line)["step"] <= step]
            write_atomic(file, "".join(line + "\n" for line in kept))
