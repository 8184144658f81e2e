"""Prediction files of vlmtune or of a classic script: one JSON object per row, in dataset order.

Lines of vlmtune have all that a score needs, so scoring never reads the dataset. `PredictionRecord` documents its
keys, and `schemas/prediction.schema.json` is generated from it. `NAME.controls.json` (`Controls`) is next to the file.
"""

import codecs
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired

from pydantic import FiniteFloat, NonNegativeInt
from typing_extensions import TypedDict

from vlmtune.errors import DataError
from vlmtune.json_values import mismatch, parse_json

NO_META: Mapping[str, Any] = {}
"""The metadata of all rows that have none."""

LOGPROB_DIGITS = 4
"""Decimals of a log-probability in the file."""


class FailureRecord(TypedDict):
    """Why a row has no answer."""

    stage: str
    """Where it failed: image, prompt or engine."""
    reason: str
    """What went wrong."""


class PredictionRecord(TypedDict):
    """One line of a prediction file.

    Further keys hold what metrics compare the answer with, such as `keywords`, `label`, `boxes` or `record`.
    """

    id: str | None
    """Id of the row."""
    prediction: str | None
    """The model's text, unchanged; null where the row failed."""
    failure: FailureRecord | None
    """Why there is no prediction; null where there is one."""
    references: list[str]
    """The reference answers."""
    answer: NotRequired[Any]
    """What the task read from the prediction."""
    unparsed: NotRequired[str]
    """Why the task could not read the prediction; then there is no `answer`."""
    finish_reason: str | None
    """`stop` where the answer ended by itself, `length` where it was cut off."""
    tokens: int | None
    """Generated tokens, the end-of-turn token included."""
    logprob: NotRequired[float]
    """Natural log-probability of the whole answer."""
    token_logprobs: NotRequired[list[float]]
    """Natural log-probability of every generated token, where the engine gives them."""
    image: str | None
    """SHA-256 of the first image's pixels, or of the video in its place."""
    cluster: str | None
    """The row's group: rows of one group are not independent."""
    meta: dict[str, Any]
    """The row's metadata (`dataset.meta`)."""


class ShuffledAnswers(TypedDict):
    """Answers to the same questions with the images of other rows."""

    lines: list[PredictionRecord]
    """One per row of the control."""


class AdapterDelta(TypedDict):
    """How much the adapter changes the model's output."""

    max_logit_difference: float
    """Largest change of a first token's logit by the adapter, over a few rows."""


class Controls(TypedDict):
    """`NAME.controls.json`: controls that show what the answers depend on; null for one that was not run."""

    schema_version: int
    """Version of this format."""
    image: ShuffledAnswers | None
    """The shuffled-image control."""
    adapter_delta: AdapterDelta | None
    """How much the adapter changes."""


@dataclass(frozen=True, slots=True)
class Line:
    """One row of a prediction file. Fields are the keys of `PredictionRecord`, which documents them.

    `truth` holds what metrics compare the answer with, by name; "references" is always there.
    """

    id: str | None
    prediction: str | None
    truth: Mapping[str, Any]
    failure: FailureRecord | None = None
    answer: Any = None
    unparsed: str | None = None
    finish_reason: str | None = None
    tokens: int | None = None
    image: str | None = None
    cluster: str | None = None
    meta: Mapping[str, Any] = field(default_factory=lambda: NO_META)
    token_logprobs: Sequence[float] | None = None

    @property
    def references(self) -> tuple[str, ...]:
        """The reference answers."""
        return tuple(self.truth["references"])

    @property
    def logprob(self) -> float | None:
        """Log-probability of the whole answer."""
        return None if self.token_logprobs is None else round(sum(self.token_logprobs), LOGPROB_DIGITS)

    def to_json(self) -> str:
        """The line of the file, without its newline."""
        record: dict[str, Any] = {"id": self.id, "prediction": self.prediction, "failure": self.failure}
        record |= self.truth
        if self.prediction is not None:
            record |= {"unparsed": self.unparsed} if self.unparsed else {"answer": self.answer}
        record |= {"finish_reason": self.finish_reason, "tokens": self.tokens}
        if self.token_logprobs is not None:
            record |= {"logprob": self.logprob, "token_logprobs": list(self.token_logprobs)}
        record |= {"image": self.image}
        record |= {"cluster": self.cluster, "meta": dict(self.meta)}
        return json.dumps(record, ensure_ascii=False, allow_nan=False)


PLAIN_KEYS = ("answer", "unparsed", "finish_reason", "tokens", "token_logprobs", "image")
"""Keys of a record that a `Line` has unchanged."""

NOT_TRUTH = ("id", "prediction", "failure", "logprob", "cluster", "meta", "reference", "references", *PLAIN_KEYS)
"""Keys of a record that are not truth; references are read separately, as classic scripts spell them in two ways."""


_Name = str | int | float | None


class _Checked(TypedDict, total=False):
    """Types of the keys that a `Line` takes over; ids of classic scripts may be numbers."""

    id: _Name
    prediction: str | None
    failure: FailureRecord | None
    unparsed: str | None
    finish_reason: str | None
    tokens: NonNegativeInt | None
    token_logprobs: list[FiniteFloat] | None
    image: str | None
    cluster: _Name
    meta: dict[str, Any] | None


def read(file: Path) -> list[Line]:
    """All lines of a prediction file, of vlmtune or of a classic script (`prediction`, `reference` or `references`).

    Raises:
        DataError: the file is missing, a line is not a prediction, or an id occurs twice; names file and line.
    """
    if not file.is_file():
        raise DataError(f"{file}: no such prediction file")
    lines = []
    # Not splitlines(): a caption may contain U+2028, which does not end a line of JSON.
    for number, text in enumerate(file.read_bytes().split(b"\n"), start=1):
        if text.strip():
            lines.append((f"{file}:{number}", _line(text, f"{file}:{number}")))
    check_ids(lines)
    return [line for _, line in lines]


def check_ids(lines: Sequence[tuple[str, Line]]) -> None:
    """Check that no id occurs twice, in lines with the places where they are.

    Raises:
        DataError: one does.
    """
    seen: dict[str, str] = {}
    for at, line in lines:
        if line.id is not None and line.id in seen:
            first = seen[line.id].rpartition(":")[2] if ":" in seen[line.id] else seen[line.id]
            raise DataError(f"{at}: id {line.id!r} is already used in line {first}; ids must be unique")
        if line.id is not None:
            seen[line.id] = at


def _line(text: bytes, at: str) -> Line:
    try:
        record = parse_json(text.removeprefix(codecs.BOM_UTF8))
    except ValueError as error:
        raise DataError(f"{at}: not JSON: {error}") from None
    if not isinstance(record, dict) or "prediction" not in record:
        raise DataError(f"{at}: a prediction line is a JSON object with the key 'prediction'")
    return line_of(record, at)


def line_of(record: Mapping[str, Any], at: str) -> Line:
    """The line of a record in our own format.

    Raises:
        DataError: a value is of another type; names its place.
    """
    if (wrong := mismatch(record, _Checked)) is not None:
        raise DataError(f"{at}: {wrong}; the keys of a prediction line are in docs/prediction-files.md")
    prediction, failure = record["prediction"], record.get("failure")
    if prediction is None:
        failure = failure or {"stage": "engine", "reason": "no prediction recorded"}
    row_id, cluster = record.get("id"), record.get("cluster")
    truth = {key: value for key, value in record.items() if key not in NOT_TRUTH}
    return Line(
        id=None if row_id is None else sys.intern(str(row_id)),  # the other file has the same ids
        prediction=prediction,
        truth={"references": _references(record, at), **truth},
        failure=failure,
        cluster=None if cluster is None else str(cluster),
        meta=record.get("meta") or NO_META,
        **{key: record[key] for key in PLAIN_KEYS if key in record},
    )


def _references(record: Mapping[str, Any], at: str) -> list[str]:
    references = record.get("references", record.get("reference", []))
    texts: Sequence[Any] = [references] if isinstance(references, str) else references
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{at}: 'references' must be a text or a list of texts")
    return [*map(sys.intern, texts)]  # the other file's rows have the same references
