"""The prediction file: one JSON object per line and row, in dataset order. Ours, and the ones classic scripts leave.

Knows the format alone. A line of ours carries everything a score needs, so that scoring never needs the dataset.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlmtune.errors import DataError

LOGPROB_DIGITS = 4
"""Decimals of a log-probability in the file."""


@dataclass(frozen=True, slots=True)
class Line:
    """One row's outcome.

    `prediction` is the model's raw text, None where `failure` ({"stage", "reason"}) says why there is none. `truth` is
    what metrics compare with, by name; "references" is always there. `answer` is what the task read from the
    prediction, `unparsed` why it could not. `image` is the sha256 of the first image's pixels. `token_logprobs` are
    natural log-probabilities of the answer's tokens, its end included, where the engine told them.
    """

    id: str | None
    prediction: str | None
    truth: Mapping[str, Any]
    failure: Mapping[str, str] | None = None
    answer: Any = None
    unparsed: str | None = None
    finish_reason: str | None = None
    tokens: int | None = None
    image: str | None = None
    cluster: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
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
        """The line as it stands in the file, without its newline."""
        record: dict[str, Any] = {"id": self.id, "prediction": self.prediction, "failure": self.failure}
        record |= self.truth
        if self.prediction is not None:
            record |= {"unparsed": self.unparsed} if self.unparsed else {"answer": self.answer}
        record |= {"finish_reason": self.finish_reason, "tokens": self.tokens}
        if self.token_logprobs is not None:
            record |= {"logprob": self.logprob, "token_logprobs": list(self.token_logprobs)}
        record |= {"image": self.image}
        record |= {"cluster": self.cluster, "meta": dict(self.meta)}
        return json.dumps(record, ensure_ascii=False)


_READ = ("answer", "unparsed", "finish_reason", "tokens", "token_logprobs", "image")
_OWN = ("id", "prediction", "failure", "logprob", "cluster", "meta", *_READ)
"""Keys of a line that are not truth."""


def read(file: Path) -> list[Line]:
    """All lines of a prediction file: ours, or a classic script's (`prediction`, `reference` or `references`).

    Raises:
        DataError: the file is missing, a line is not a prediction, an id stands twice; names file and line.
    """
    if not file.is_file():
        raise DataError(f"{file}: no such prediction file")
    lines: list[Line] = []
    seen: dict[str, int] = {}
    # Not splitlines(): a caption may hold U+2028, which ends no line of JSON.
    for number, text in enumerate(file.read_bytes().split(b"\n"), start=1):
        if not text.strip():
            continue
        line = _line(text, f"{file}:{number}")
        if line.id is not None and line.id in seen:
            raise DataError(f"{file}:{number}: id {line.id!r} stands in line {seen[line.id]} already; ids must differ")
        if line.id is not None:
            seen[line.id] = number
        lines.append(line)
    return lines


def _line(text: bytes, at: str) -> Line:
    try:
        record = json.loads(text.decode("utf-8-sig"))
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeError:
        raise DataError(f"{at}: not UTF-8, or half a surrogate pair; save the file as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{at}: not JSON: {error}") from None
    if not isinstance(record, dict) or "prediction" not in record:
        raise DataError(f"{at}: a prediction line is a JSON object with the key 'prediction'")
    prediction, failure = record["prediction"], record.get("failure")
    if prediction is None:
        failure = failure or {"stage": "engine", "reason": "no prediction recorded"}
    elif not isinstance(prediction, str):
        raise DataError(f"{at}: 'prediction' must be text or null (got {type(prediction).__name__})")
    own = {key: record[key] for key in _READ if key in record}
    name, cluster = record.get("id"), record.get("cluster")
    return Line(
        id=None if name is None else str(name),
        prediction=prediction,
        truth={"references": _references(record, at), **_truth(record)},
        failure=failure,
        cluster=None if cluster is None else str(cluster),
        meta=record.get("meta") or {},
        **own,
    )


def _truth(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in (*_OWN, "reference", "references")}


def _references(record: Mapping[str, Any], at: str) -> list[str]:
    found = record.get("references", record.get("reference", []))
    texts: Sequence[Any] = [found] if isinstance(found, str) else found
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{at}: 'references' must be a text or a list of texts")
    return texts
