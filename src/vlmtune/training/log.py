"""What a run leaves of its way: the curve, a point per logged step, every example's loss each time it was met, and the
steps at which it was resumed.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vlmtune.files import append_lines, read_whole_lines, write_atomic


class History:
    """Three files in a run's work folder, `curve.jsonl`, `visits.jsonl` and `resumed.jsonl`.

    `mirror(step, values)` hears of the curve. Lines are held back until `save`, and a resumed run cuts off what stands
    behind its checkpoint: it is made again.
    """

    def __init__(self, work: Path, mirror: Callable[[int, Mapping[str, float]], None]) -> None:
        self.curve, self.visits, self.resumed = (work / f"{name}.jsonl" for name in ("curve", "visits", "resumed"))
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

    def go_on(self, step: int) -> None:
        """Forget everything behind a step, and note that the run was resumed there; at 0 it begins anew."""
        for file in (self.curve, self.visits, self.resumed):
            kept = [line for line in read_whole_lines(file) if json.loads(line)["step"] <= step]
            write_atomic(file, "".join(line + "\n" for line in kept))
        if step:
            append_lines(self.resumed, [json.dumps({"step": step})])


def resumed_at(work: Path) -> list[int]:
    """The steps at which the run of a work folder was resumed, each once, in order."""
    return sorted({json.loads(line)["step"] for line in read_whole_lines(work / "resumed.jsonl")})
