"""Rows of a dataset to prediction lines: asks an engine, keeps every answer the moment it comes, loses none.

Answers are appended to a partial file; an interrupted run asks only for the rest. The caller publishes the result.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlmtune.engines import Engine
from vlmtune.errors import ImageError
from vlmtune.files import append_lines, read_whole_lines
from vlmtune.images import decode_rgb, pixel_hash, thumbnail
from vlmtune.plugs import Part
from vlmtune.predictions import Line, read
from vlmtune.progress import Progress
from vlmtune.signals import StopRequest
from vlmtune.tasks import Task
from vlmtune.types import Example, ImageRef, Outcome, Prediction, Request, Turn, Unparsed

KEPT_AT_ONCE = 16
"""Answers written to disk together; at most so many are asked again after a crash."""


@dataclass(frozen=True, slots=True)
class Answering:
    """What turns examples into requests and outcomes into lines. Thumbnails are written to `pictures`."""

    task: Task
    task_config: Part
    pictures: Path
    progress: Progress
    stop: StopRequest

    def request(self, example: Example) -> Request:
        """What the engine is asked about an example."""
        return Request(example.id, self.task.ask(self.task_config, example))

    def answer(self, name: str, engine: Engine, examples: Sequence[Example], partial: Path) -> list[Line]:
        """One line per example, in their order.

        Raises:
            Interrupted, Terminated: a signal came; what was answered is in `partial`.
        """
        read_whole_lines(partial)
        done = {line.id: line for line in read(partial)} if partial.is_file() else {}
        left = {example.id: example for example in examples if example.id not in done}
        if done and left:
            self.progress.note(f"{len(done)} of {len(examples)} answers are there already; asking for the rest")
        with self.progress.step(name, len(examples)) as step:
            step.advance(len(done))
            outcomes = engine.answer([self.request(example) for example in left.values()])
            for some in _grouped(outcomes, KEPT_AT_ONCE):
                lines = [self._line(left[outcome.id], outcome) for outcome in some]
                append_lines(partial, [line.to_json() for line in lines])
                done |= {line.id: line for line in lines}
                step.advance(len(lines))
                self.stop.obey(f"{len(done)} of {len(examples)} answers are saved")
        return [done[example.id] for example in examples]

    def _line(self, example: Example, outcome: Outcome) -> Line:
        line = Line(
            id=example.id,
            prediction=None,
            truth=example.truth,
            image=self._picture(example),
            cluster=example.cluster,
            meta=example.meta,
        )
        if not isinstance(outcome, Prediction):
            return replace(line, failure={"stage": outcome.stage, "reason": outcome.reason})
        answer = self.task.read(self.task_config, outcome.text)
        return replace(
            line,
            prediction=outcome.text,
            answer=None if isinstance(answer, Unparsed) else answer,
            unparsed=answer.reason if isinstance(answer, Unparsed) else None,
            finish_reason=outcome.finish_reason,
            tokens=outcome.tokens,
        )

    def _picture(self, example: Example) -> str | None:
        """Hash of the first image's pixels, its thumbnail written; None where there is no readable image."""
        if not example.images:
            return None
        try:
            image = decode_rgb(example.images[0])
        except ImageError:
            return None
        digest = pixel_hash(image)
        file = self.pictures / f"{digest[:16]}.webp"
        if not file.is_file():
            self.pictures.mkdir(parents=True, exist_ok=True)
            file.write_bytes(thumbnail(image))
        return digest


def exchanged(examples: Sequence[Example], count: int) -> list[Example]:
    """Up to `count` examples, each with the images of another: a derangement, so none keeps its own picture.

    Rows are chosen by a hash of their id, among those with images, one per cluster; each takes the images of the next.
    """
    chosen: dict[str, Example] = {}
    for example in sorted(examples, key=lambda e: hashlib.sha256(e.id.encode()).digest()):
        if example.images and len(chosen) < count:
            chosen.setdefault(example.cluster, example)
    rows = list(chosen.values())
    if len(rows) < 2:
        return []
    return [_with_images(row, other.images) for row, other in zip(rows, [*rows[1:], rows[0]], strict=True)]


def _with_images(example: Example, images: tuple[ImageRef, ...]) -> Example:
    """The example with other images; where it shows more than there are, they repeat."""
    own = [images[n % len(images)] for n in range(len(example.images))]
    left = iter(own)

    def turn(old: Turn) -> Turn:
        return Turn(old.role, tuple(next(left) if isinstance(part, ImageRef) else part for part in old.content))

    turns = tuple(turn(old) for old in example.turns) if example.turns is not None else None
    return replace(example, images=tuple(own), turns=turns)


def _grouped(outcomes: Iterator[Outcome], size: int) -> Iterator[list[Any]]:
    group: list[Outcome] = []
    for outcome in outcomes:
        group.append(outcome)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
