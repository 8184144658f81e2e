"""Training logs: the training curve, the loss of every sample, and the steps at which the run was resumed."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import NonNegativeInt
from typing_extensions import TypedDict

from vlmtune.errors import IntegrityError
from vlmtune.files import append_lines, whole_lines, write_atomic
from vlmtune.json_values import mismatch, parse_json
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
        """Record a point of the curve: in the local file first, then in the mirror. What is no number is null there."""
        self.flush()
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        append_lines(self.curve, [json.dumps({"step": step, **finite})])
        self._mirror(step, values)

    def flush(self) -> None:
        """Write the buffered samples."""
        append_lines(self.samples, self._buffer)
        self._buffer.clear()

    def points(self) -> Iterator[dict[str, Any]]:
        """The curve so far."""
        return iter(read_steps(self.curve))

    def resume(self, step: int) -> None:
        """Drop everything after a step and record that the run was resumed there; step 0 starts over."""
        for file in (self.curve, self.samples, self.resumed):
            lines = zip(whole_lines(file), read_steps(file), strict=True)
            write_atomic(file, b"".join(line + b"\n" for line, record in lines if record["step"] <= step))
        if step:
            append_lines(self.resumed, [json.dumps({"step": step})])


def resumed_at(work: Path) -> list[int]:
    """Steps at which the run of a work folder was resumed, without duplicates, in order."""
    return sorted({record["step"] for record in read_steps(work / RESUMED)})


class _Step(TypedDict):
    """A line of a log: the step, and numbers, of samples also their ids."""

    step: NonNegativeInt


def read_steps(file: Path, shape: Any = _Step) -> list[dict[str, Any]]:
    """The lines of a log, each with its step, or with all that a TypedDict documents.

    Raises:
        IntegrityError: a line is none; a crash only tears the last one, which is left out.
    """
    records = []
    for number, line in enumerate(whole_lines(file), start=1):
        try:
            record = parse_json(line)
            wrong = mismatch(record, shape)
        except ValueError as error:
            wrong = str(error)
        if wrong is not None:
            raise IntegrityError(
                f"{file}:{number}: {wrong}; restore the file, or move {file.parent} away to start over"
            )
        records.append(record)
    return records
