"""An engine without a model: answers are instant and deterministic."""

import hashlib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmtune.engines import InferenceConfig
from vlmtune.types import Outcomes, Prediction, Request

if TYPE_CHECKING:
    from vlmtune.modeling.loading import ModelConfig
    from vlmtune.processing.encoder import Encoder

WORDS = ("a", "picture", "of", "some", "thing", "red", "blue", "large", "small", "on", "the", "grass", "street")


class Config(InferenceConfig):
    """No model."""

    engine: str = "fakes.engine"
    """The engine."""


def open_engine(
    config: Config, model: "ModelConfig", encoder: "Encoder", precision: str, adapter: Path | None = None
) -> "FakeEngine":
    """Loads nothing; an adapter only changes which words are drawn."""
    return FakeEngine(config, str(adapter or ""))


class FakeEngine:
    """Words drawn from a hash of the request."""

    def __init__(self, config: Config, salt: str) -> None:
        self._config = config
        self._salt = salt

    def answer(self, requests: Iterable[Request], done: Container[str] = ()) -> Outcomes:
        """Eight words per request; a function of its id and texts."""
        for request in requests:
            if request.id in done:
                continue
            texts = [part for turn in request.conversation for part in turn.content if isinstance(part, str)]
            digest = hashlib.sha256("\0".join([self._salt, request.id, *texts]).encode()).digest()
            words = [WORDS[byte % len(WORDS)] for byte in digest[: min(8, self._config.answer_limit)]]
            yield Prediction(request.id, " ".join(words), "stop", len(words) + 1)

    @contextmanager
    def adapter_disabled(self) -> Iterator[None]:
        """The words of the base model inside this block."""
        salt, self._salt = self._salt, ""
        try:
            yield
        finally:
            self._salt = salt

    def adapter_delta(self, requests: Sequence[Request]) -> float | None:
        """None: there is no model to probe."""
        return None

    def facts(self) -> Mapping[str, Any]:
        """Says that no model answered."""
        return {"device": "none", "precision": "none", "versions": {}}

    def close(self) -> None:
        """Nothing to release."""
