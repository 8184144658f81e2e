"""Answers with transformers, in this process: batches of like length, padded on the left, greedy by default."""

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import PositiveInt

from vlmtune.engines import InferenceConfig
from vlmtune.errors import DataError, EnvironmentProblem, ImageError, IntegrityError
from vlmtune.inputs import Encoded, Inputs, collate
from vlmtune.models import attach_adapter, load_model, pick_device
from vlmtune.types import Failure, Outcome, Prediction, Request

if TYPE_CHECKING:
    from vlmtune.models import ModelConfig


class Config(InferenceConfig):
    """Transformers in this process."""

    batch_size: PositiveInt = 16
    """Requests decoded together; halves by itself where memory does not suffice."""


def open_engine(
    config: Config, model: "ModelConfig", inputs: Inputs, precision: str, adapter: Path | None = None
) -> "HfEngine":
    """Load the model, and the adapter where one is given.

    Raises:
        EnvironmentProblem: no GPU, no weights, not enough memory.
        IntegrityError: the adapter does not fit the model.
    """
    device = pick_device(model)
    loaded: Any = load_model(inputs.checkpoint, device, precision)
    if adapter is not None:
        loaded = attach_adapter(loaded, adapter)
    return HfEngine(config, inputs, loaded, device, precision, adapted=adapter is not None)


class HfEngine:
    """One loaded model."""

    def __init__(self, config: Config, inputs: Inputs, model: Any, device: str, precision: str, adapted: bool) -> None:
        self._config = config
        self._inputs = inputs
        self._model = model
        self._device = device
        self._precision = precision
        self._adapted = adapted

    def answer(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        """Answers, longest prompts first: what does not fit into memory shows at once."""
        ready: list[tuple[int, Request]] = []
        for request in requests:
            encoded = self._encode(request)
            if isinstance(encoded, Failure):
                yield encoded
            else:
                ready.append((len(encoded), request))
        ready.sort(key=lambda pair: (-pair[0], pair[1].id))
        ordered = [request for _, request in ready]
        # Samples are drawn one by one, each with a seed of its own: then no answer depends on its company.
        size = 1 if self._config.temperature > 0 else self._config.batch_size
        for start in range(0, len(ordered), size):
            yield from self._batch(ordered[start : start + size])

    def effect(self, requests: Sequence[Request]) -> float | None:
        """Largest change the adapter makes to a first-token logit of these requests; None without an adapter.

        Raises:
            IntegrityError: there is an adapter, and it changes nothing.
        """
        import torch

        if not self._adapted:
            return None
        encoded = [item for item in map(self._encode, requests) if isinstance(item, Encoded)]
        if not encoded:
            return None
        tensors = collate(encoded, self._inputs, "left", self._device, self._model.dtype)
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
        """Checkpoint, precision and versions."""
        import torch
        import transformers

        versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        return {"device": self._device, "precision": self._precision, "versions": versions}

    def close(self) -> None:
        """Forget the model and give its memory back."""
        import torch

        del self._model
        if self._device == "cuda":
            torch.cuda.empty_cache()

    def _encode(self, request: Request) -> Encoded | Failure:
        try:
            return self._inputs.prompt(request.conversation)
        except ImageError as error:
            return Failure(request.id, "image", str(error))
        except DataError as error:
            return Failure(request.id, "prompt", str(error))

    def _batch(self, requests: Sequence[Request]) -> Iterator[Outcome]:
        import torch

        made: list[Outcome] | None = None
        with contextlib.suppress(torch.OutOfMemoryError):
            made = self._generate(requests)
        if made is not None:
            yield from made
            return
        # Out here the failed batch is really gone: inside `except` its traceback would keep it alive.
        if len(requests) == 1:
            raise EnvironmentProblem(
                "one request alone does not fit into this GPU's memory. Try one of: "
                "--set model.max_pixels=401408, --set inference.precision=bf16, --set inference.max_new_tokens=32"
            )
        torch.cuda.empty_cache()
        half = len(requests) // 2
        yield from self._batch(requests[:half])
        yield from self._batch(requests[half:])

    def _generate(self, requests: Sequence[Request]) -> list[Outcome]:
        import torch

        encoded = [self._inputs.prompt(request.conversation) for request in requests]
        tensors = collate(encoded, self._inputs, "left", self._device, self._model.dtype)
        sampled = self._config.temperature > 0
        # top_k=0: transformers would otherwise keep the 50 likeliest tokens alone, unasked.
        drawn = {"temperature": self._config.temperature, "top_p": self._config.top_p, "top_k": 0}
        decoding = drawn if sampled else {}
        stops = self._inputs.stop_ids
        # A batch without images would otherwise decode with the positions of the batch before it.
        (self._model.base_model.model if self._adapted else self._model).base_model.rope_deltas = None
        with torch.inference_mode():
            if sampled:
                torch.manual_seed(_seed(self._config.seed, requests[0].id))
            made = self._model.generate(
                **tensors,
                max_new_tokens=self._config.max_new_tokens,
                do_sample=sampled,
                eos_token_id=stops,
                pad_token_id=stops[0],
                **decoding,
            )
        answers = made[:, tensors["input_ids"].shape[1] :].tolist()
        return [self._prediction(request, ids, set(stops)) for request, ids in zip(requests, answers, strict=True)]

    def _prediction(self, request: Request, ids: list[int], stops: set[int]) -> Prediction:
        end = next((place for place, token in enumerate(ids) if token in stops), None)
        kept = ids if end is None else ids[:end]
        return Prediction(
            id=request.id,
            text=self._inputs.renderer.text(kept),
            finish_reason="length" if end is None else "stop",
            tokens=len(kept) + (end is not None),
        )


def _seed(seed: int, request: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{request}".encode()).digest()[:8], "big") >> 1
