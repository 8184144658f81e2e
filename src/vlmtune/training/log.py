"""Training logs: the training curve, the loss of every sample, and the steps at which the run was resumed."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vlmtune.files import append_lines, whole_lines, write_atomic
from vlmtune.run_layout import CURVE, RESUMED, SAMPLES


class TrainingLog:
    """Three files in a run's work folder: `curve.jsonl`, `samples.jsonl` (one line per sample) and `resumed.jsonl`.

    `mirror(step, values)` receives every point of the curve. Samples are buffered until the next point or `flush`. A
    resumed run drops the lines after its checkpoint, because it writes them again.
    """

    def __init__(self, work: Path, mirror: Callable[[int, Mapping[str, float]], None]) -> None:
        self.curve, self.samples, self.resumed = (work / name for name in (CURVE, SAMPLES, RESUMED))
        self._mirror = mirror
        self._buffer: list[str] = []

    def sample(self, **facts: Any) -> None:
        """Record one sample that was trained on."""
        self._buffer.append(json.dumps(facts))

    def point(self, step: int, values: Mapping[str, float]) -> None:
        """Record a point of the curve: in the local file first, then in the mirror."""
        self.flush()
        append_lines(self.curve, [json.dumps({"step": step, **values})])
        self._mirror(step, values)

    def flush(self) -> None:
        """Write the buffered samples."""
        append_lines(self.samples, self._buffer)
        self._buffer.clear()

    def points(self) -> Iterator[dict[str, Any]]:
        """The curve so far."""
        return map(json.loads, whole_lines(self.curve))

    def resume(self, step: int) -> None:
        """Drop everything after a step and record that the run was resumed there; step 0 starts over."""
        for file in (self.curve, self.samples, self.resumed):
            kept = [line for line in whole_lines(file) if json.loads(line)["step"] <= step]
            write_atomic(file, b"".join(line + b"\n" for line in kept))
        if step:
            append_lines(self.resumed, [json.dumps({"step": step})])


def resumed_at(work: Path) -> list[int]:
    """Steps at which the run of a work folder was resumed, without duplicates, in order."""
    return sorted({json.loads(line)["step"] for line in whole_lines(work / RESUMED)})
