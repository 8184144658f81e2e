"""Inference over a dataset: rows in, prediction lines out.

Answers are appended to a partial file as they arrive, so a resumed run computes only the rest. The caller publishes
the result.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlmtune.engines import NEW_TOKENS, THINKING_TOKENS, Engine, InferenceConfig
from vlmtune.errors import ImageError, VlmtuneError
from vlmtune.files import append_lines, cut_torn_line, write_atomic
from vlmtune.images import identified, thumbnail
from vlmtune.predictions import LOGPROB_DIGITS, Line, read
from vlmtune.processing.encoder import Encoder
from vlmtune.progress import Progress
from vlmtune.registry import BaseConfig
from vlmtune.run_layout import thumbnail_path
from vlmtune.signals import StopRequest
from vlmtune.tasks import Task, parse_answer
from vlmtune.types import Conversation, Example, Failure, ImageRef, Message, Outcome, Prediction, Request, Unparsed

FLUSH_EVERY = 16
"""Answers per write to disk; a crash loses at most this many."""


@dataclass(frozen=True, slots=True)
class Predictor:
    """Turns examples into requests and outcomes into lines; thumbnails are written to `thumbnails`."""

    task: Task
    task_config: BaseConfig
    thumbnails: Path
    progress: Progress
    stop: StopRequest
    prompt: Callable[[Example], Conversation] | None = None
    """Builds the prompt in place of the task."""

    def request(self, example: Example) -> Request:
        """The request for an example."""
        return Request(example.id, self.prompt(example) if self.prompt else self.task.prompt(self.task_config, example))

    def answer(self, name: str, engine: Engine, examples: Sequence[Example], partial: Path) -> list[Line]:
        """One line per example, in order. Requests that failed before an interruption are repeated.

        Raises:
            Interrupted, Terminated: a signal was received; the answers so far are in `partial`.
        """
        done = self._resume(partial)
        remaining = {example.id: example for example in examples if example.id not in done}
        if not remaining:
            return [done[example.id] for example in examples]
        if done:
            self.progress.note(f"{len(done)} of {len(examples)} answers exist already; computing the rest")
        with self.progress.step(name, len(examples)) as step:
            step.advance(len(done))
            answered = frozenset(example.id for example in examples if example.id in done)
            # Closed here, because threads must not outlive an interruption.
            with (
                self._images(remaining.values()) as images,
                closing(engine.answer(self._requests(examples, done), answered)) as outcomes,
            ):
                for batch in _batches(outcomes, FLUSH_EVERY):
                    lines = [self._line(remaining[one.id], one, images[one.id].result()) for one in batch]
                    append_lines(partial, [line.to_json() for line in lines])
                    done |= {line.id: line for line in lines}
                    step.advance(len(lines))
                    self.stop.raise_if_requested(_saved(done, len(examples)))
        return [done[example.id] for example in examples]

    def _resume(self, partial: Path) -> dict[str | None, Line]:
        """The answers of an interrupted run by id; its failures are removed from the file and will be repeated."""
        cut_torn_line(partial)
        lines = read(partial) if partial.is_file() else []
        kept = [line for line in lines if line.failure is None]
        if len(kept) < len(lines):
            self.progress.note(f"{len(lines) - len(kept)} requests failed before and are repeated")
            write_atomic(partial, "".join(line.to_json() + "\n" for line in kept))
        return {line.id: line for line in kept}

    def _requests(self, examples: Sequence[Example], done: Sized) -> Iterator[Request]:
        """Lazy, so that an engine that prepares many requests before its first answer can be stopped."""
        for example in examples:
            self.stop.raise_if_requested(_saved(done, len(examples)))
            yield self.request(example)

    def _line(self, example: Example, outcome: Outcome, image: str | None) -> Line:
        truth = truth_or_error(self.task, self.task_config, example)
        if isinstance(truth, ImageError):
            truth, outcome = example.truth, Failure(example.id, "image", str(truth))
        question = _question(example)
        line = Line(
            id=example.id,
            prediction=None,
            truth=truth if question is None else {**truth, "question": question, **truth},
            image=image,
            # Questions about one image are not independent: without a group key, the image is the group.
            cluster=example.cluster or image or example.id,
            meta=example.meta,
        )
        if not isinstance(outcome, Prediction):
            return replace(line, failure={"stage": outcome.stage, "reason": outcome.reason})
        answer = parse_answer(self.task, self.task_config, outcome.text, truth)
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
    def _images(self, examples: Iterable[Example]) -> Iterator[dict[str, Future[str | None]]]:
        """`_image` of every example by its id, computed while the engine works: a photo takes 17 ms.

        In a single thread, because two could write the thumbnail of equal images at the same time.
        """
        pool = ThreadPoolExecutor(1, "vlmtune-thumbnails")
        try:
            yield {example.id: pool.submit(self._image, example) for example in examples}
        finally:
            pool.shutdown(cancel_futures=True)

    def _image(self, example: Example) -> str | None:
        """Write the thumbnail of the first image; returns its identity, None without a readable image."""
        if not example.images:
            return None
        try:
            image, digest = identified(example.images[0])
        except ImageError:
            return None
        file = thumbnail_path(self.thumbnails, digest)
        if not file.is_file():
            write_atomic(file, thumbnail(image))
        return digest


FEW_FOR_A_THOUGHT = 512
"""`max_new_tokens` below which thoughts are likely to be cut off."""

FROM_CHECKPOINT = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""Settings that a checkpoint's generation_config.json may have."""

ADDED_SETTINGS = ("top_k", "min_p", "repetition_penalty", "presence_penalty", "settings", "json_object", "json_schema")
"""Settings that manifests hold only where they are not at their defaults, as those of earlier versions lack them."""


def resolved(config: InferenceConfig, encoder: Encoder) -> InferenceConfig:
    """The settings with what a checkpoint decides: the longest answer, and how it is sampled."""
    update: dict[str, Any] = {}
    if config.max_new_tokens is None:
        update["max_new_tokens"] = THINKING_TOKENS if encoder.renderer.may_think else NEW_TOKENS
    if config.settings == "checkpoint":
        own = encoder.generation_config
        # transformers samples from 50 tokens unless told otherwise.
        found = {"temperature": 1.0, "top_k": 50, **own} if own.get("do_sample") else {**own, "temperature": 0.0}
        update |= {
            key: found[key]
            for key in FROM_CHECKPOINT
            if found.get(key) is not None and key not in config.model_fields_set
        }
    return config.model_copy(update=update)


def thinking_warning(config: InferenceConfig, encoder: Encoder) -> str | None:
    """What to know about the length of answers of a model that thinks; None for any other."""
    if not encoder.renderer.may_think:
        return None
    if config.max_new_tokens is None:
        return (
            f"the model thinks before it answers: inference.max_new_tokens is {THINKING_TOKENS:,} by default, and "
            "answers take as much longer; an answer whose thought does not end is scored as wrong"
        )
    if config.max_new_tokens >= FEW_FOR_A_THOUGHT:
        return None
    return (
        f"inference.max_new_tokens is {config.max_new_tokens}, which is little for a model that thinks before it "
        f"answers: an answer whose thought does not end is scored as wrong. Set it to null for {THINKING_TOKENS:,}"
    )


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count` shards of a dataset; `index` counts from 0. A row's shard is a function of its id alone."""

    index: int
    count: int

    def owns(self, row_id: str) -> bool:
        """Whether the row with this id is in this shard."""
        return int.from_bytes(hashlib.sha256(row_id.encode()).digest(), "big") % self.count == self.index


def _question(example: Example) -> str | None:
    """What a row asks about its image: its question, or the text of its last message; None where all rows ask alike."""
    if example.question is not None or example.messages is None:
        return example.question
    return "\n".join(part for part in example.messages[-1].content if isinstance(part, str))


def truth_or_error(task: Task, config: BaseConfig, example: Example) -> Mapping[str, Any] | ImageError:
    """What the task compares an answer with; the error if that needs an image which cannot be read."""
    try:
        return task.truth(config, example)
    except ImageError as error:
        return error


def shuffle_images(examples: Sequence[Example], count: int) -> list[Example]:
    """Up to `count` examples, each with the images of another: the shuffled-image control.

    Rows are taken in the order of a hash of their id, one per image and group, if their first image can be read. Each
    gets the images of the next. The first images differ by their identity, so no row gets its own from another file.
    """
    rows: list[Example] = []
    used: set[str] = set()
    for example in sorted(examples, key=lambda e: hashlib.sha256(e.id.encode()).digest()):
        if len(rows) == count:
            break
        group = f"group {example.cluster}" if example.cluster is not None else None
        if not example.images or group in used:
            continue
        image = identity_of(example.images[0])
        if image is None or image in used:
            continue
        used |= {image, group} if group is not None else {image}
        rows.append(example)
    if len(rows) < 2:
        return []
    return [_with_images(row, other.images) for row, other in zip(rows, [*rows[1:], rows[0]], strict=True)]


def identity_of(ref: ImageRef) -> str | None:
    """Identity of an image or a video; None if it cannot be read."""
    try:
        return identified(ref)[1]
    except ImageError:
        return None


def _with_images(example: Example, images: tuple[ImageRef, ...]) -> Example:
    """The example with other images, which repeat if it has more."""
    replaced = [images[n % len(images)] for n in range(len(example.images))]
    remaining = iter(replaced)

    def with_new_images(old: Message) -> Message:
        content = tuple(next(remaining) if isinstance(part, ImageRef) else part for part in old.content)
        return replace(old, content=content)

    messages = tuple(map(with_new_images, example.messages)) if example.messages is not None else None
    return replace(example, images=tuple(replaced), messages=messages)


def _rounded(logprobs: Sequence[float] | None) -> list[float] | None:
    # A certain token has -0.0; adding 0.0 makes it 0.0.
    return None if logprobs is None else [round(value, LOGPROB_DIGITS) + 0.0 for value in logprobs]


def _saved(done: Sized, total: int) -> str:
    return f"{len(done)} of {total} answers are saved"


def _batches(outcomes: Iterator[Outcome], size: int) -> Iterator[list[Any]]:
    """Outcomes in batches; an error of the engine is raised after those that preceded it."""
    batch: list[Outcome] = []
    try:
        for outcome in outcomes:
            batch.append(outcome)
            if len(batch) == size:
                yield batch
                batch = []
    except VlmtuneError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch
