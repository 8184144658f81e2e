"""Inference engines: they answer requests with a model.

An engine is a module here with `Config`, an `InferenceConfig`, and `open_engine(config, model, encoder, precision,
adapter) -> Engine`. It yields exactly one outcome per request, in any order; a request that cannot be answered becomes
a `Failure`. Engines never inherit from each other.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

from pydantic import Field, NonNegativeFloat, PositiveInt

from vlmtune.engines._http import SERVER_KEY, server_key
from vlmtune.engines._vllm_server import has_vllm, install_command
from vlmtune.registry import BaseConfig
from vlmtune.types import Outcomes, Request

__all__ = ["SERVER_KEY", "Engine", "InferenceConfig", "has_vllm", "install_command", "server_key"]


class InferenceConfig(BaseConfig):
    """How answers are generated; the same for the base and the tuned model."""

    engine: str = "hf"
    """What generates answers: a module in `vlmtune/engines`, or the dotted name of a custom one."""

    max_new_tokens: PositiveInt = 64
    """Longest answer in tokens; an answer of this length counts as truncated."""

    temperature: NonNegativeFloat = 0.0
    """0 decodes greedily, which is what a comparison needs; above 0 samples."""

    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus sampling; only with a temperature above 0."""

    seed: int = 42
    """Seed of sampling; greedy decoding uses none."""

    precision: Literal["bf16", "fp16", "fp32"] | None = None
    """Precision of the model during inference; null uses `training.precision`."""


class Engine(Protocol):
    """Answers requests."""

    def answer(self, requests: Iterable[Request], done: Container[str] = ()) -> Outcomes:
        """One outcome per request whose id is not in `done`, as they are ready.

        `requests` contains all requests of a file, including those answered before an interruption, so that batches do
        not depend on where it happened. Taking the next request may raise, if the user stops the run.
        """

    def adapter_disabled(self) -> AbstractContextManager[None]:
        """Answer without the adapter inside this block, so that one loaded model serves both sides."""

    def adapter_delta(self, requests: Sequence[Request]) -> float | None:
        """How much the adapter changes the first logits of these requests; None if there is nothing to compare.

        Raises:
            IntegrityError: there is an adapter, and it changes nothing.
        """

    def facts(self) -> Mapping[str, Any]:
        """Device, precision, versions and the like, for the manifest."""

    def close(self) -> None:
        """Release what was opened."""
