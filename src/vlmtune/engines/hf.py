"""Answers with transformers, in this process: batches of like length, padded on the left, greedy by default."""

import contextlib
import hashlib
import itertools
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import PositiveInt

from vlmtune.engines import InferenceConfig
from vlmtune.errors import DataError, EnvironmentProblem, ImageError, IntegrityError
from vlmtune.generation import GeneratedTokens, decode, greedy, sampling
from vlmtune.modeling.loading import attach_adapter, load_model, pick_device
from vlmtune.prefetch import Prefetch
from vlmtune.processing.encoder import Encoded, Encoder, collate
from vlmtune.types import Conversation, Failure, Outcome, Outcomes, Prediction, Request

if TYPE_CHECKING:
    from vlmtune.modeling.loading import ModelConfig


Made = TypeVar("Made")
WORKERS = 2
"""Threads that decode pictures while the model answers the batch before."""

CPU_TOKENS = 16_384
"""Most tokens of a batch on a CPU: keys and values of a 2B model take 3.8 GB for them in fp32."""

MEASURED_AT_ONCE = 16
"""Requests whose length is found before a signal is looked for again."""


class Config(InferenceConfig):
    """Transformers in this process."""

    batch_size: PositiveInt = 64
    """Most requests decoded together; halves by itself where memory does not suffice."""

    batch_tokens: PositiveInt | None = None
    """Most tokens of a batch: its requests times the longest prompt plus `max_new_tokens`. Null takes what fits into
    the GPU beside the model, by the size of its key-value cache, and 16,384 on a CPU."""


def open_engine(
    config: Config, model: "ModelConfig", encoder: Encoder, precision: str, adapter: Path | None = None
) -> "HfEngine":
    """Load the model, and the adapter where one is given.

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
    """An engine over a model that is loaded already, with an adapter or without, and stays the caller's.

    The caller sees to it that the model is in evaluation mode and attends as it was loaded.
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
        self._budget = config.batch_tokens or self._room()
        self._halved = 0

    @contextmanager
    def adapter_disabled(self) -> Iterator[None]:
        """The same model answers without its adapter inside this block: two columns from one load."""
        with self._model.disable_adapter() if self._adapted else contextlib.nullcontext():
            yield

    def answer(self, requests: Iterable[Request], done: Container[str] = ()) -> Outcomes:
        """Answers, longest prompts first: what does not fit into memory shows at once.

        Batches are a function of all requests. One with an answer missing is made again as a whole, so that a resumed
        file is the uninterrupted one, to the last digit.
        """
        ready: list[tuple[int, Request]] = []
        with Prefetch(self._measured, _groups(requests, MEASURED_AT_ONCE), WORKERS) as measuring:
            for request, length in itertools.chain.from_iterable(measuring):
                if isinstance(length, int):
                    ready.append((length, request))
                elif request.id not in done:
                    yield length
        batches = [batch for batch in self._batches(ready) if not all(request.id in done for request in batch)]
        with Prefetch(self._encoded, batches, WORKERS) as encoding:
            for batch in encoding:
                yield from self._missing(batch, done)

    def _batches(self, ready: Sequence[tuple[int, Request]]) -> list[list[Request]]:
        """Requests of like length together, within `batch_size` and the token budget."""
        ordered = sorted(ready, key=lambda pair: (-pair[0], pair[1].id))
        # Samples are drawn one by one, each with a seed of its own: then no answer depends on its company.
        most = 1 if self._config.temperature > 0 else self._config.batch_size
        batches: list[list[Request]] = []
        room = 0
        for length, request in ordered:
            if room == 0:
                batches.append([])
                room = max(1, min(most, self._budget // (length + self._config.max_new_tokens)))
            batches[-1].append(request)
            room -= 1
        return batches

    def _room(self) -> int:
        """Tokens whose keys and values fill half of the GPU beside the model: the same on every GPU of one kind."""
        import torch

        if self._device != "cuda":
            return CPU_TOKENS
        settings = self._model.config.get_text_config()
        width = getattr(settings, "head_dim", None) or settings.hidden_size // settings.num_attention_heads
        token = 2 * settings.num_hidden_layers * settings.num_key_value_heads * width * self._model.dtype.itemsize
        left = torch.cuda.get_device_properties().total_memory - torch.cuda.memory_allocated()
        return max(1, int(left // 2 // token))

    def adapter_delta(self, requests: Sequence[Request]) -> float | None:
        """Largest change the adapter makes to a first-token logit of these requests; None without an adapter.

        Raises:
            IntegrityError: there is an adapter, and it changes nothing.
        """
        import torch

        if not self._adapted:
            return None
        encoded = [item for _, item in map(self._encoded, requests) if isinstance(item, Encoded)]
        if not encoded:
            return None
        tensors = collate(encoded, self._encoder, "left", self._device, self._model.dtype)
        with torch.inference_mode():
            tuned = self._model(**tensors, use_cache=False, logits_to_keep=1).logits
            with self._model.disable_adapter():
                base = self._model(**tensors, use_cache=False, logits_to_keep=1).logits
        change: float = (tuned.float() - base.float()).abs().max().item()
        if change == 0:
            raise IntegrityError(
                "the adapter loads but changes nothing: base and tuned logits are equal. It was trained on another "
                "model, or not trained at all"
            )
        return change

    def facts(self) -> Mapping[str, Any]:
        """Checkpoint, precision, versions, and how answers were batched."""
        import torch
        import transformers

        versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        batches = {"batch_tokens": self._budget, "batches_halved": self._halved}
        return {"device": self._device, "precision": self._precision, **batches, "versions": versions}

    def close(self) -> None:
        """Forget the model and give its memory back."""
        import torch

        del self._model
        if self._device == "cuda":
            torch.cuda.empty_cache()

    def _measured(self, request: Request) -> tuple[Request, int | Failure]:
        return request, self._tried(request, self._encoder.prompt_length)

    def _encoded(self, request: Request) -> tuple[Request, Encoded | Failure]:
        return request, self._tried(request, self._encoder.prompt)

    @staticmethod
    def _tried(request: Request, read: Callable[[Conversation], Made]) -> Made | Failure:
        try:
            return read(request.conversation)
        except ImageError as error:
            return Failure(request.id, "image", str(error))
        except DataError as error:
            return Failure(request.id, "prompt", str(error))

    def _missing(self, batch: Sequence[tuple[Request, Encoded | Failure]], done: Container[str]) -> Iterator[Outcome]:
        """Outcomes of a batch that are not done; the model works where one of them can be answered."""
        yield from (encoded for request, encoded in batch if isinstance(encoded, Failure) and request.id not in done)
        good = [(request, encoded) for request, encoded in batch if isinstance(encoded, Encoded)]
        if not all(request.id in done for request, _ in good):
            yield from (outcome for outcome in self._fitting(good) if outcome.id not in done)

    def _fitting(self, batch: Sequence[tuple[Request, Encoded]]) -> Iterator[Outcome]:
        import torch

        made: list[Outcome] | None = None
        with contextlib.suppress(torch.OutOfMemoryError):
            made = self._generate(batch)
        if made is not None:
            yield from made
            return
        # Out here the failed batch is really gone: inside `except` its traceback would keep it alive.
        if len(batch) == 1:
            raise EnvironmentProblem(
                "one request alone does not fit into this GPU's memory. Try one of: "
                "--set model.max_pixels=401408, --set inference.precision=bf16, --set inference.max_new_tokens=32"
            )
        torch.cuda.empty_cache()
        self._halved += 1
        half = len(batch) // 2
        yield from self._fitting(batch[:half])
        yield from self._fitting(batch[half:])

    def _generate(self, batch: Sequence[tuple[Request, Encoded]]) -> list[Outcome]:
        import torch

        config, bare = self._config, self._model.base_model.model if self._adapted else self._model
        seed = _seed(config.seed, batch[0][0].id)
        choose = sampling(config.temperature, config.top_p, seed) if config.temperature > 0 else greedy
        with torch.inference_mode():
            made = decode(
                bare, [encoded for _, encoded in batch], self._encoder, self._device, config.max_new_tokens, choose
            )
        return [self._prediction(request, answer) for (request, _), answer in zip(batch, made, strict=True)]

    def _prediction(self, request: Request, answer: GeneratedTokens) -> Prediction:
        stopped = answer.ids[-1] in self._encoder.stop_ids
        return Prediction(
            id=request.id,
            text=self._encoder.renderer.text(answer.ids[:-1] if stopped else answer.ids),
            finish_reason="stop" if stopped else "length",
            tokens=len(answer.ids),
            logprobs=tuple(answer.logprobs),
        )


def _groups(requests: Iterable[Request], size: int) -> Iterator[tuple[Request, ...]]:
    left = iter(requests)
    while group := tuple(itertools.islice(left, size)):
        yield group


def _seed(seed: int, request: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{request}".encode()).digest()[:8], "big") >> 1
