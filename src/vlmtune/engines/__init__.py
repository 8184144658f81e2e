"""Engines turn requests into outcomes. An engine is a file here with `Config` (an `InferenceConfig`) and `open_engine`.

`open_engine(config, model, encoder, precision, adapter) -> Engine`. An engine yields exactly one outcome per request,
in any order; a request that cannot be answered becomes a `Failure`. Engines never inherit from each other.
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
    """What generates answers: a file in `vlmtune/engines`, or the dotted name of your own module."""

    max_new_tokens: PositiveInt = 64
    """Longest answer in tokens; an answer that reaches it counts as truncated."""

    temperature: NonNegativeFloat = 0.0
    """0 decodes greedily, which is what a comparison needs; above 0 samples."""

    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus sampling; only with a temperature above 0."""

    seed: int = 42
    """Seed of sampling; greedy decoding uses none."""

    precision: Literal["bf16", "fp16", "fp32"] | None = None
    """Arithmetic of the model during inference; null takes training.precision."""


class Engine(Protocol):
    """Answers requests."""

    def answer(self, requests: Iterable[Request], done: Container[str] = ()) -> Outcomes:
        """One outcome per request whose id is not `done`, as they are ready.

        All requests of a file are passed, including those answered before an interruption: how they are batched must
        not depend on where that was. Taking a request may raise, when the user wants to stop.
        """

    def adapter_disabled(self) -> AbstractContextManager[None]:
        """Answers come from the model without its adapter inside this block: both sides from one loaded model."""

    def adapter_delta(self, requests: Sequence[Request]) -> float | None:
        """How much the adapter changes the first logits of these requests; None if there is none to probe.

        Raises:
            IntegrityError: there is an adapter, and it changes nothing.
        """

    def facts(self) -> Mapping[str, Any]:
        """What was run, for the manifest: checkpoint, adapter, precision, versions."""

    def close(self) -> None:
        """Release what was opened."""
