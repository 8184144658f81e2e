"""Rows of a dataset to prediction lines: asks an engine, keeps every answer the moment it comes, loses none.

Answers are appended to a partial file; an interrupted run asks only for the rest. The caller publishes the result.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlmtune.engines import Engine
from vlmtune.errors import ImageError, VlmtuneError
from vlmtune.files import append_lines, cut_torn_line, write_atomic
from vlmtune.images import decode_rgb, pixel_hash, thumbnail
from vlmtune.predictions import LOGPROB_DIGITS, Line, read
from vlmtune.progress import Progress
from vlmtune.registry import BaseConfig
from vlmtune.run_folder import thumbnail_path
from vlmtune.signals import StopRequest
from vlmtune.tasks import Task, read_answer
from vlmtune.types import Conversation, Example, Failure, ImageRef, Outcome, Prediction, Request, Turn, Unparsed

KEPT_AT_ONCE = 16
"""Answers written to disk together; at most so many are asked again after a crash."""


@dataclass(frozen=True, slots=True)
class Predictor:
    """What turns examples into requests and outcomes into lines. Thumbnails are written to `pictures`."""

    task: Task
    task_config: BaseConfig
    pictures: Path
    progress: Progress
    stop: StopRequest
    ask: Callable[[Example], Conversation] | None = None
    """Another conversation than the task's."""

    def request(self, example: Example) -> Request:
        """What the engine is asked about an example."""
        return Request(example.id, self.ask(example) if self.ask else self.task.ask(self.task_config, example))

    def answer(self, name: str, engine: Engine, examples: Sequence[Example], partial: Path) -> list[Line]:
        """One line per example, in their order. What failed before an interruption is asked again.

        Raises:
            Interrupted, Terminated: a signal came; what was answered is in `partial`.
        """
        done = self._answered(partial)
        left = {example.id: example for example in examples if example.id not in done}
        if not left:
            return [done[example.id] for example in examples]
        if done:
            self.progress.note(f"{len(done)} of {len(examples)} answers are there already; asking for the rest")
        with self.progress.step(name, len(examples)) as step:
            step.advance(len(done))
            answered = frozenset(example.id for example in examples if example.id in done)
            # Closed here: threads must not outlive an interruption.
            with (
                self._pictures(left.values()) as pictures,
                closing(engine.answer(self._requests(examples, done), answered)) as outcomes,
            ):
                for some in _grouped(outcomes, KEPT_AT_ONCE):
                    lines = [self._line(left[one.id], one, pictures[one.id].result()) for one in some]
                    append_lines(partial, [line.to_json() for line in lines])
                    done |= {line.id: line for line in lines}
                    step.advance(len(lines))
                    self.stop.obey(_saved(done, len(examples)))
        return [done[example.id] for example in examples]

    def _answered(self, partial: Path) -> dict[str | None, Line]:
        """What an interrupted run left, by id; its failures are cut out of the file, so that they are not permanent."""
        cut_torn_line(partial)
        found = read(partial) if partial.is_file() else []
        kept = [line for line in found if line.failure is None]
        if len(kept) < len(found):
            self.progress.note(f"{len(found) - len(kept)} requests failed before and are asked again")
            write_atomic(partial, "".join(line.to_json() + "\n" for line in kept))
        return {line.id: line for line in kept}

    def _requests(self, examples: Sequence[Example], done: Sized) -> Iterator[Request]:
        """One at a time: an engine that prepares many requests before it answers the first can be stopped meanwhile."""
        for example in examples:
            self.stop.obey(_saved(done, len(examples)))
            yield self.request(example)

    def _line(self, example: Example, outcome: Outcome, picture: str | None) -> Line:
        truth = known_truth(self.task, self.task_config, example)
        if isinstance(truth, ImageError):
            truth, outcome = example.truth, Failure(example.id, "image", str(truth))
        line = Line(
            id=example.id,
            prediction=None,
            truth=truth,
            image=picture,
            # Without a group of its own a row belongs to its picture: questions about one image are not independent.
            cluster=example.cluster or picture or example.id,
            meta=example.meta,
        )
        if not isinstance(outcome, Prediction):
            return replace(line, failure={"stage": outcome.stage, "reason": outcome.reason})
        answer = read_answer(self.task, self.task_config, outcome.text, truth)
        return replace(
            line,
            prediction=outcome.text,
            answer=None if isinstance(answer, Unparsed) else answer,
            unparsed=answer.reason if isinstance(answer, Unparsed) else None,
            finish_reason=outcome.finish_reason,
            tokens=outcome.tokens,
            token_logprobs=_rounded(outcome.logprobs),
        )

    @contextmanager
    def _pictures(self, examples: Iterable[Example]) -> Iterator[dict[str, Future[str | None]]]:
        """`_picture` of every example by its id, made while the engine works: a GPU would wait 17 ms for each photo.

        By one thread: two would write the file of equal pictures at once.
        """
        pool = ThreadPoolExecutor(1, "vlmtune-pictures")
        try:
            yield {example.id: pool.submit(self._picture, example) for example in examples}
        finally:
            pool.shutdown(cancel_futures=True)

    def _picture(self, example: Example) -> str | None:
        """Hash of the first image's pixels, its thumbnail written; None where there is no readable image."""
        if not example.images:
            return None
        try:
            image = decode_rgb(example.images[0])
        except ImageError:
            return None
        digest = pixel_hash(image)
        file = thumbnail_path(self.pictures, digest)
        if not file.is_file():
            write_atomic(file, thumbnail(image))
        return digest


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count` parts of some rows; `index` counts from 0. An id decides its part alone, whatever the others."""

    index: int
    count: int

    def owns(self, name: str) -> bool:
        """Whether the row with this id is in this part."""
        return int.from_bytes(hashlib.sha256(name.encode()).digest(), "big") % self.count == self.index


def known_truth(task: Task, config: BaseConfig, example: Example) -> Mapping[str, Any] | ImageError:
    """What the task compares an answer with; the error where that takes an image which cannot be read."""
    try:
        return task.truth(config, example)
    except ImageError as error:
        return error


def exchanged(examples: Sequence[Example], count: int) -> list[Example]:
    """Up to `count` examples, each with the images of another: a derangement by the pixels of the first image.

    Rows are tried in the order of a hash of their id. One per picture and group is chosen, whose first image can be
    read; each takes the images of the next, so none gets a picture equal to its own first one, whatever file it is in.
    """
    rows: list[Example] = []
    taken: set[str] = set()
    for example in sorted(examples, key=lambda e: hashlib.sha256(e.id.encode()).digest()):
        if len(rows) == count:
            break
        group = f"group {example.cluster}" if example.cluster is not None else None
        if not example.images or group in taken:
            continue
        picture = _pixels(example.images[0])
        if picture is None or picture in taken:
            continue
        taken |= {picture, group} if group is not None else {picture}
        rows.append(example)
    if len(rows) < 2:
        return []
    return [_with_images(row, other.images) for row, other in zip(rows, [*rows[1:], rows[0]], strict=True)]


def _pixels(ref: ImageRef) -> str | None:
    try:
        return pixel_hash(decode_rgb(ref))
    except ImageError:
        return None


def _with_images(example: Example, images: tuple[ImageRef, ...]) -> Example:
    """The example with other images; where it shows more than there are, they repeat."""
    own = [images[n % len(images)] for n in range(len(example.images))]
    left = iter(own)

    def turn(old: Turn) -> Turn:
        return Turn(old.role, tuple(next(left) if isinstance(part, ImageRef) else part for part in old.content))

    turns = tuple(turn(old) for old in example.turns) if example.turns is not None else None
    return replace(example, images=tuple(own), turns=turns)


def _rounded(logprobs: Sequence[float] | None) -> list[float] | None:
    # + 0.0: the file says 0.0 for a certain token, not -0.0.
    return None if logprobs is None else [round(value, LOGPROB_DIGITS) + 0.0 for value in logprobs]


def _saved(done: Sized, total: int) -> str:
    return f"{len(done)} of {total} answers are saved"


def _grouped(outcomes: Iterator[Outcome], size: int) -> Iterator[list[Any]]:
    """Some at a time; what came before an engine gave up is handed on first, then its error."""
    group: list[Outcome] = []
    try:
        for outcome in outcomes:
            group.append(outcome)
            if len(group) == size:
                yield group
                group = []
    except VlmtuneError:
        if group:
            yield group
        raise
    if group:
        yield group
