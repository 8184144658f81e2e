"""A training job on the GPU that is not there: kernels that work, photos, and a model of any size with an adapter."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import assistant, make_image, ref, user
from fake_gpu import FakeGpu
from transformers import AutoConfig, AutoModelForImageTextToText

from vlmtune.distributed import SINGLE_PROCESS
from vlmtune.modeling import vision_tower
from vlmtune.processing import image_processor
from vlmtune.processing.encoder import Encoded, Encoder
from vlmtune.training import attention
from vlmtune.training.config import TrainingConfig
from vlmtune.training.forward_backward import ForwardBackward
from vlmtune.training.lora import add_adapter, trainable


@contextlib.contextmanager
def working_kernels() -> Iterator[None]:
    """Kernels as on a real GPU; to be entered before a `FakeGpu`, whose tensors no cache may keep."""
    caches = (attention._varlen_layout, image_processor._scaled)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "pick_kernel", lambda *_: "varlen")
        patch.setattr(vision_tower, "uses_varlen", lambda *_: True)
        for cache in caches:
            cache.cache_clear()
        yield
    for cache in caches:
        cache.cache_clear()


def photos(encoder: Encoder, count: int, captions: int) -> list[Encoded]:
    """Examples about pictures of 500 x 375 pixels: 768 patches, 192 tokens."""
    examples = []
    for number in range(count):
        picture = ref(make_image(500, 375, seed=number), f"photo {number}")
        for caption in range(captions):
            talk = (user(picture, "Describe this image."), assistant(f"There are {caption} red balls on the grass ."))
            examples.append(encoder.training_example(talk, "all", 4096))
    return examples


def prepared(
    encoder: Encoder, gpu: FakeGpu, folder: Path, settings: TrainingConfig, tied: bool = False
) -> tuple[ForwardBackward, Any, int]:
    """What computes gradients, the model, and its bytes; the adapter's gradients and AdamW's moments are there, too."""
    family = encoder.checkpoint.family
    with torch.device("cuda"):
        config = AutoConfig.from_pretrained(encoder.checkpoint.folder)
        base: Any = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    if tied:
        base.lm_head.weight = base.model.language_model.embed_tokens.weight
    vision_tower.optimize_vision_tower(base.requires_grad_(False), family)
    attention.enable_packed_attention(base, family)
    loaded = gpu.alive
    weights = list(trainable(add_adapter(base, settings.lora, family, 0, full=settings.full).train()).values())
    base.moments = [torch.zeros_like(weight) for weight in weights for _ in range(2)]
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    return ForwardBackward(base, weights, encoder, "cuda", settings, folder, SINGLE_PROCESS), base, loaded
