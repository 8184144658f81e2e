"""The prediction file: one JSON object per line and row, in dataset order. Ours, and the ones classic scripts leave.

Knows the format alone. A line of ours carries everything a score needs, so that scoring never needs the dataset.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlmtune.errors import DataError


@dataclass(frozen=True, slots=True)
class Line:
    """One row's outcome.

    `prediction` is the model's raw text, None where `failure` ({"stage", "reason"}) says why there is none. `truth` is
    what metrics compare with, by name; "references" is always there. `image` is the sha256 of the first image's pixels.
    """

    id: str | None
    prediction: str | None
    truth: Mapping[str, Any]
    failure: Mapping[str, str] | None = None
    unparsed: str | None = None
    finish_reason: str | None = None
    tokens: int | None = None
    image: str | None = None
    cluster: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def references(self) -> tuple[str, ...]:
        """The reference answers."""
        return tuple(self.truth["references"])

    def to_json(self) -> str:
        """The line as it stands in the file, without its newline."""
        record: dict[str, Any] = {"id": self.id, "prediction": self.prediction, "failure": self.failure}
        record |= self.truth
        if self.prediction is not None:
            record |= {"unparsed": self.unparsed} if self.unparsed else {"answer": self.prediction.strip()}
        record |= {"finish_reason": self.finish_reason, "tokens": self.tokens, "image": self.image}
        record |= {"cluster": self.cluster, "meta": dict(self.meta)}
        return json.dumps(record, ensure_ascii=False)
