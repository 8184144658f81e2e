"""Answers with transformers in this process, in left-padded batches of similar length."""

import contextlib
import functools
import hashlib
import itertools
import math
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import PositiveInt

from vlmtune.engines import InferenceConfig
from vlmtune.errors import DataError, DoesNotFit, EnvironmentProblem, ImageError, IntegrityError
from vlmtune.generation import Choose, GeneratedTokens, Penalised, decode, greedy, sampling, without
from vlmtune.modeling.loading import attach_adapter, load_model, pick_device
from vlmtune.prefetch import Prefetch
from vlmtune.processing.encoder import Encoded, Encoder, collate
from vlmtune.types import Conversation, Failure, Outcome, Outcomes, Prediction, Request

if TYPE_CHECKING:
    import torch

    from vlmtune.modeling.loading import ModelConfig


T = TypeVar("T")

WORKERS = 2
"""Threads that decode images while the model generates."""

CPU_BATCH_TOKENS = 16_384
"""Most tokens of a batch on a CPU, for which the key-value cache of a 2B model takes 3.8 GB in fp32."""

LENGTH_BATCH = 16
"""Requests whose lengths are computed between two checks for a signal."""


class Config(InferenceConfig):
    """Transformers in this process."""

    batch_size: PositiveInt = 64
    """Most requests in a batch; halved automatically when out of memory."""

    batch_tokens: PositiveInt | None = None
    """Most tokens of a batch: its requests times the longest prompt plus `max_new_tokens`. Null derives it from the GPU
    memory that the model leaves for its key-value cache; on a CPU it is 16,384."""


def open_engine(
    config: Config, model: "ModelConfig", encoder: Encoder, precision: str, adapter: Path | None = None
) -> "HfEngine":
    """Load the model, and the adapter if one is given.

    Raises:
        EnvironmentProblem: no GPU, no weights, not enough memory.
        IntegrityError: the adapter does not fit the model.
    """
    device = pick_device(model)
    loaded: Any = load_model(encoder.checkpoint, device, precision)
    if adapter is not None:
        loaded = attach_adapter(loaded, adapter)
    return HfEngine(config, encoder, loaded, device, precision, adapted=adapter is not None)


def attached(model: Any, config: Config, encoder: Encoder, device: str, precision: str) -> "HfEngine":
    """An engine over a model that the caller has loaded, with or without an adapter, and continues to own.

    The caller ensures that the model is in evaluation mode, with the attention that it was loaded with.
    """
    from peft import PeftModel

    return HfEngine(config, encoder, model, device, precision, adapted=isinstance(model, PeftModel))


class HfEngine:
    """One loaded model."""

    def __init__(
        self, config: Config, encoder: Encoder, model: Any, device: str, precision: str, adapted: bool
    ) -> None:
        self._config = config
        self._encoder = encoder
        self._model = model
        self._device = device
        self._precision = precision
        self._adapted = adapted
        self._batch_tokens = config.batch_tokens or self._default_batch_tokens()
        self._halved = 0

    @contextmanager
    def adapter_disabled(self) -> Iterator[None]:
        """Answer without the adapter inside this block, so that one loaded model serves both sides."""
        with self._model.disable_adapter() if self._adapted else contextlib.nullcontext():
            yield

    def answer(self, requests: Iterable[Request], done: Container[str] = ()) -> Outcomes:
        """Answers, longest prompts first, so that running out of memory shows at once.

        Batches are a function of all requests. A batch that lacks an answer is computed again as a whole, so that the
        answers of a resumed run are byte-identical to those of an uninterrupted one.
        """
        usable: list[tuple[int, Request]] = []
        with Prefetch(self._with_length, _chunks(requests, LENGTH_BATCH), WORKERS) as lengths:
            for request, length in itertools.chain.from_iterable(lengths):
                if isinstance(length, int):
                    usable.append((length, request))
                elif request.id not in done:
                    yield length
        batches = [batch for batch in self._batches(usable) if not all(request.id in done for request in batch)]
        with Prefetch(self._encode, batches, WORKERS) as encoded:
            for batch in encoded:
                yield from self._missing(batch, done)

    def _batches(self, usable: Sequence[tuple[int, Request]]) -> list[list[Request]]:
        """Batches of requests of similar length, within `batch_size` and `batch_tokens`."""
        ordered = sorted(usable, key=lambda pair: (-pair[0], pair[1].id))
        # With sampling, each request is a batch with its own seed, so that no answer depends on the others.
        limit = 1 if self._config.temperature > 0 else self._config.batch_size
        batches: list[list[Request]] = []
        room = 0
        for length, request in ordered:
            if room == 0:
                batches.append([])
                room = max(1, min(limit, self._batch_tokens // (length + self._config.answer_limit)))
            batches[-1].append(request)
            room -= 1
        return batches

    def _default_batch_tokens(self) -> int:
        """Tokens whose key-value cache fills half of the memory that the model leaves; the same on equal GPUs."""
        import torch

        if self._device != "cuda":
            return CPU_BATCH_TOKENS
        settings = self._model.config.get_text_config()
        width = getattr(settings, "head_dim", None) or settings.hidden_size // settings.num_attention_heads
        kinds = getattr(settings, "layer_types", None) or [""] * settings.num_hidden_layers
        layers = sum(kind != "linear_attention" for kind in kinds)  # linear attention keeps a state of fixed size
        token_bytes = 2 * layers * settings.num_key_value_heads * width * self._model.dtype.itemsize
        free_bytes = torch.cuda.get_device_properties().total_memory - torch.cuda.memory_allocated()
        return max(1, int(free_bytes // 2 // token_bytes))

    def sample(self, prompts: Sequence[Encoded], copies: int, key: str) -> list[GeneratedTokens]:
        """So many answers to each prompt, one after the other, drawn from the model's own distribution.

        At temperature 1, whatever the settings say, and without tokens that no text has, but for those that end an
        answer. Batches hold all answers to a prompt, which is computed once for them.

        Args:
            prompts: encoded by this engine's encoder.
            copies: answers to each.
            key: what is drawn is a function of it, of the prompts and of the settings, unless memory runs out: the
                halves of a batch draw other answers.

        Raises:
            DoesNotFit: the answers to one prompt do not fit into memory.
        """
        # What is drawn depends on the batches, which must not follow the memory that is left, as those of `answer` do.
        most = (self._config.batch_tokens or CPU_BATCH_TOKENS) // (max(map(len, prompts)) + self._config.answer_limit)
        room = min(self._config.batch_size, most) // copies
        answers: list[GeneratedTokens] = []
        for at in range(0, len(prompts), max(1, room)):
            answers += self._sampled(prompts[at : at + max(1, room)], copies, f"{key}/{at}")
        return answers

    def _sampled(self, prompts: Sequence[Encoded], copies: int, key: str) -> list[GeneratedTokens]:
        """Answers to the prompts of a batch, halved as often as it does not fit into memory."""
        import torch

        with contextlib.suppress(torch.OutOfMemoryError), torch.inference_mode():
            choose = without(self._banned, sampling(1.0, 1.0, _seed(self._config.seed, key)))
            return decode(
                *(self._inner, prompts, self._encoder, self._device, self._config.answer_limit, choose), copies
            )
        if len(prompts) == 1:
            raise DoesNotFit(
                f"{copies} answers to one prompt do not fit into this GPU's memory. Try one of: "
                f"--set training.grpo.answers={max(2, copies // 2)}, --set model.max_pixels=401408"
            )
        torch.cuda.empty_cache()
        half = len(prompts) // 2
        return [*self._sampled(prompts[:half], copies, key), *self._sampled(prompts[half:], copies, f"{key}/{half}")]

    @functools.cached_property
    def _banned(self) -> "torch.Tensor":
        """Tokens that are never sampled: an image's placeholder has no image behind it."""
        import torch

        size, stops = self._inner.get_output_embeddings().weight.shape[0], set(self._encoder.stop_ids)
        return torch.tensor(
            [token for token in self._encoder.renderer.never_written(size) if token not in stops], device=self._device
        )

    @property
    def _inner(self) -> Any:
        """The model inside its PEFT wrapper."""
        return self._model.base_model.model if self._adapted else self._model

    def adapter_delta(self, requests: Sequence[Request]) -> float | None:
        """Largest change the adapter makes to a first-token logit of these requests; None without an adapter.

        Raises:
            IntegrityError: there is an adapter, and it changes nothing.
        """
        import torch

        if not self._adapted:
            return None
        encoded = [item for _, item in map(self._encode, requests) if isinstance(item, Encoded)]
        if not encoded:
            return None
        tensors = collate(encoded, self._encoder, "left", self._device, self._model.dtype)
        with torch.inference_mode():
            tuned = self._model(**tensors, use_cache=False, logits_to_keep=1).logits
            with self._model.disable_adapter():
                base = self._model(**tensors, use_cache=False, logits_to_keep=1).logits
        change: float = (tuned.float() - base.float()).abs().max().item()
        if not math.isfinite(change):
            raise IntegrityError("base or tuned logits are not finite numbers; the model's weights are damaged")
        if change == 0:
            raise IntegrityError(
                "the adapter loads but changes nothing: base and tuned logits are equal. It was trained on another "
                "model, or not at all"
            )
        return change

    def facts(self) -> Mapping[str, Any]:
        """Checkpoint, precision, versions, and how answers were batched."""
        import torch
        import transformers

        versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        batches = {"batch_tokens": self._batch_tokens, "batches_halved": self._halved}
        return {"device": self._device, "precision": self._precision, **batches, "versions": versions}

    def close(self) -> None:
        """Release the model and its memory."""
        import torch

        del self._model
        if self._device == "cuda":
            torch.cuda.empty_cache()

    def _with_length(self, request: Request) -> tuple[Request, int | Failure]:
        return request, self._read(request, self._encoder.prompt_length)

    def _encode(self, request: Request) -> tuple[Request, Encoded | Failure]:
        return request, self._read(request, self._encoder.prompt)

    @staticmethod
    def _read(request: Request, read: Callable[[Conversation], T]) -> T | Failure:
        try:
            return read(request.conversation)
        except ImageError as error:
            return Failure(request.id, "image", str(error))
        except DataError as error:
            return Failure(request.id, "prompt", str(error))

    def _missing(self, batch: Sequence[tuple[Request, Encoded | Failure]], done: Container[str]) -> Iterator[Outcome]:
        """Outcomes of a batch that are not `done`; the model runs only if it can answer one of them."""
        yield from (encoded for request, encoded in batch if isinstance(encoded, Failure) and request.id not in done)
        answerable = [(request, encoded) for request, encoded in batch if isinstance(encoded, Encoded)]
        if not all(request.id in done for request, _ in answerable):
            yield from (outcome for outcome in self._generate(answerable) if outcome.id not in done)

    def _generate(self, batch: Sequence[tuple[Request, Encoded]]) -> Iterator[Outcome]:
        """Answers of a batch, halved as often as it does not fit into memory."""
        import torch

        outcomes: list[Outcome] | None = None
        with contextlib.suppress(torch.OutOfMemoryError):
            outcomes = self._generate_batch(batch)
        if outcomes is not None:
            yield from outcomes
            return
        # Not inside `except`: there, the traceback would keep the tensors of the failed batch alive.
        if len(batch) == 1:
            raise EnvironmentProblem(
                "one request alone does not fit into this GPU's memory. Try one of: "
                "--set model.max_pixels=401408, --set inference.precision=bf16, --set inference.max_new_tokens=32"
            )
        torch.cuda.empty_cache()
        self._halved += 1
        half = len(batch) // 2
        yield from self._generate(batch[:half])
        yield from self._generate(batch[half:])

    def _generate_batch(self, batch: Sequence[tuple[Request, Encoded]]) -> list[Outcome]:
        import torch

        config = self._config
        seed = _seed(config.seed, batch[0][0].id)
        choose: Choose = greedy
        if config.temperature > 0:
            choose = sampling(config.temperature, config.top_p, seed, config.top_k, config.min_p)
        if (config.repetition_penalty, config.presence_penalty) != (1, 0):
            choose = Penalised(choose, config.repetition_penalty, config.presence_penalty)
        encoded = [item for _, item in batch]
        with torch.inference_mode():
            answers = decode(self._inner, encoded, self._encoder, self._device, config.answer_limit, choose)
        return [self._prediction(request, answer) for (request, _), answer in zip(batch, answers, strict=True)]

    def _prediction(self, request: Request, answer: GeneratedTokens) -> Prediction:
        if not all(map(math.isfinite, answer.logprobs)):
            raise IntegrityError(
                f"row {request.id}: the model computes values that are not finite numbers; its weights are damaged, or "
                f"exceed the range of {self._precision}"
            )
        stopped = answer.ids[-1] in self._encoder.stop_ids
        return Prediction(
            id=request.id,
            text=self._encoder.answer_text(answer.ids),
            finish_reason="stop" if stopped else "length",
            tokens=len(answer.ids),
            logprobs=tuple(answer.logprobs),
        )


def _chunks(requests: Iterable[Request], size: int) -> Iterator[tuple[Request, ...]]:
    remaining = iter(requests)
    while chunk := tuple(itertools.islice(remaining, size)):
        yield chunk


def _seed(seed: int, request: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{request}".encode()).digest()[:8], "big") >> 1
