"""Inference engines: they answer requests with a model.

An engine is a module here with `Config`, an `InferenceConfig`, and `open_engine(config, model, encoder, precision,
adapter) -> Engine`. It yields exactly one outcome per request, in any order; a request that cannot be answered becomes
a `Failure`. Engines never inherit from each other.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Literal, Protocol

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from vlmtune.engines._http import SERVER_KEY, server_key
from vlmtune.engines._vllm_server import has_vllm, install_command
from vlmtune.registry import BaseConfig
from vlmtune.types import Outcomes, Request

__all__ = ["SERVER_KEY", "Engine", "InferenceConfig", "has_vllm", "install_command", "server_key"]


class InferenceConfig(BaseConfig):
    """How answers are generated; the same for the base and the tuned model."""

    reads_videos: ClassVar[bool] = True
    """Whether the engine's model can be given the frames that ours is."""

    engine: str = "hf"
    """What generates answers: a module in `vlmtune/engines`, or the dotted name of a custom one."""

    max_new_tokens: PositiveInt | None = None
    """Longest answer in tokens, thoughts included; an answer of this length counts as truncated. Null is 64, and 2,048
    for a model that thinks before it answers."""

    temperature: NonNegativeFloat = 0.0
    """0 decodes greedily, which is what a comparison needs; above 0 samples."""

    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus sampling; only with a temperature above 0."""

    top_k: NonNegativeInt = 0
    """Sample from this many of the likeliest tokens; 0 from all. Only with a temperature above 0."""

    min_p: float = Field(default=0.0, ge=0, le=1)
    """Sample only tokens with at least this fraction of the likeliest one's probability; only with a temperature
    above 0."""

    repetition_penalty: PositiveFloat = 1.0
    """Divides the positive logits of tokens that prompt or answer contain, and multiplies the negative ones; 1 changes
    nothing."""

    presence_penalty: float = Field(default=0.0, ge=-2, le=2)
    """Subtracted from the logits of tokens that the answer contains."""

    settings: Literal["config", "checkpoint"] = "config"
    """`checkpoint` takes temperature, top_p, top_k, min_p and the repetition penalty from the checkpoint's
    generation_config.json, except for those that are set here; `config` decodes greedily unless set otherwise."""

    seed: int = 42
    """Seed of sampling; greedy decoding uses none."""

    precision: Literal["bf16", "fp16", "fp32"] | None = None
    """Precision of the model during inference; null uses `training.precision`."""

    @property
    def answer_limit(self) -> int:
        """Most tokens of an answer."""
        return self.max_new_tokens or NEW_TOKENS


NEW_TOKENS, THINKING_TOKENS = 64, 2048
"""Defaults of `max_new_tokens`: of models that answer at once, and of those that think before."""


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
