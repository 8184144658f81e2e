"""Small random checkpoints of every model family, with the embedded tokenizer and the family's own processor."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoProcessor

from vlmtune.modeling.loading import ModelConfig, find_checkpoint, load_model
from vlmtune.processing.encoder import Encoder
from vlmtune.training.config import LoraConfig
from vlmtune.training.lora import add_adapter, save_adapter, trainable

TEMPLATE_WITH_DEFAULT_SYSTEM = """\
{% for message in messages %}{% if loop.first and message.role != 'system' %}<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif %}<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}\
{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>\
{% elif part.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}\
{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"


def make_qwen2_5_vl(folder: Path) -> None:
    """A random Qwen2.5-VL of 0.2 M parameters with the embedded tokenizer and its family's own processor."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": 64,
        "window_size": 56,
        "fullatt_block_indexes": [1],
        "initializer_range": 0.15,
    }
    _make(folder, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor, vision)


def make_qwen2_vl(folder: Path) -> None:
    """The same of Qwen2-VL, whose vision tower calls its widths otherwise."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor

    vision = {"depth": 2, "embed_dim": 32, "mlp_ratio": 2, "num_heads": 2, "hidden_size": 64, "initializer_range": 0.15}
    _make(folder, Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor, vision)


def _make(folder: Path, config_class: Any, model_class: Any, processor_class: Any, vision: dict[str, Any]) -> None:
    vocabulary, tokens = _save_processor(folder, processor_class, 14)
    torch.manual_seed(0)
    config = config_class(
        text_config={
            "vocab_size": vocabulary,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 2048,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
            "initializer_range": 0.15,
        },
        vision_config=vision,
        **tokens,
    )
    model_class(config).save_pretrained(folder)
    # The published checkpoints keep the language model's settings at the top.
    settings = json.loads((folder / "config.json").read_text())
    language = settings.pop("text_config")
    (folder / "config.json").write_text(json.dumps({**language, **settings}))


def make_qwen3_5(folder: Path) -> None:
    """Four layers of Qwen3.5, three of them Gated DeltaNets whose states decay slowly, as those of trained models."""
    from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

    _make_qwen3(folder, Qwen3_5Config, Qwen3_5ForConditionalGeneration, {**TEXT, **DELTA, "intermediate_size": 96})


def make_qwen3_vl_moe(folder: Path) -> None:
    """Four layers of Qwen3-VL with 8 experts, of which 2 answer; the second layer is dense."""
    from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 4, 4], "mrope_interleaved": True}
    text = {**TEXT, **EXPERTS, "rope_parameters": rope, "mlp_only_layers": [1], "intermediate_size": 96}
    vision = {**VISION, "deepstack_visual_indexes": [0]}
    _make_qwen3(folder, Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration, text, vision)


def make_qwen3_5_moe(folder: Path) -> None:
    """Four layers of Qwen3.5 with 8 experts and a shared one, whose checkpoint asks for balanced routing."""
    from transformers import Qwen3_5MoeConfig, Qwen3_5MoeForConditionalGeneration

    balanced = {"output_router_logits": True, "router_aux_loss_coef": 0.3}
    text = {**TEXT, **DELTA, **EXPERTS, **balanced, "shared_expert_intermediate_size": 40}
    _make_qwen3(folder, Qwen3_5MoeConfig, Qwen3_5MoeForConditionalGeneration, text)


def make_internvl(folder: Path) -> None:
    """InternVL over a Qwen3 of four layers, with tiles of 64 pixels and patches of 8."""
    from transformers import (
        AutoTokenizer,
        GotOcr2ImageProcessor,
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLProcessor,
        InternVLVideoProcessor,
        Qwen3Config,
    )

    names = {"start_image": "<img>", "end_image": "</img>", "context_image": "<IMG_CONTEXT>", "video": "<video>"}
    tokenizer = AutoTokenizer.from_pretrained(
        str(find_checkpoint(ModelConfig(name="tiny")).folder),
        extra_special_tokens={f"{name}_token": token for name, token in names.items()},
    )
    half = [0.5, 0.5, 0.5]
    images = GotOcr2ImageProcessor(size={"height": 64, "width": 64}, max_patches=6, image_mean=half, image_std=half)
    InternVLProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(),
        image_seq_length=16,
        chat_template=TEMPLATE_WITH_DEFAULT_SYSTEM.replace(
            "<|vision_start|><|image_pad|><|vision_end|>", "<IMG_CONTEXT>\n"
        ),
    ).save_pretrained(folder)
    vision = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "image_size": [64, 64],
        "patch_size": [8, 8],
        "initializer_range": 0.1,
    }
    torch.manual_seed(0)
    config = InternVLConfig(
        text_config=Qwen3Config(vocab_size=len(tokenizer) + 1, intermediate_size=96, **TEXT),  # type: ignore[arg-type]
        vision_config=vision,
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=16,
        tie_word_embeddings=False,
    )
    InternVLForConditionalGeneration(config).save_pretrained(folder)


EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
TEXT = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 2048,
    "initializer_range": 0.1,
}
DELTA = {
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.25,
        "mrope_section": [2, 1, 1],
        "mrope_interleaved": True,
    },
}
VISION = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "patch_size": 16,
    "out_hidden_size": 64,
    "num_position_embeddings": 64,
    "initializer_range": 0.1,
}


def _make_qwen3(
    folder: Path, config_class: Any, model_class: Any, text: dict[str, Any], vision: dict[str, Any] = VISION
) -> None:
    from transformers import Qwen3VLProcessor

    vocabulary, tokens = _save_processor(folder, Qwen3VLProcessor, 16)
    torch.manual_seed(0)
    model = model_class(config_class(text_config={"vocab_size": vocabulary, **text}, vision_config=vision, **tokens))
    for name, weight in model.named_parameters():
        if name.endswith("A_log"):
            torch.nn.init.uniform_(weight, -5, -1)
        elif name.endswith("mlp.gate.weight"):  # a router that prefers nobody would send every token to the same ones
            torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(folder)


def _save_processor(folder: Path, processor_class: Any, patch: int) -> tuple[int, dict[str, int]]:
    """The processor's files; the size of the vocabulary, and the ids of vision tokens as a config names them."""
    from transformers import Qwen2VLImageProcessor, Qwen2VLVideoProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    tokenizer = AutoProcessor.from_pretrained(str(find_checkpoint(ModelConfig(name="tiny")).folder)).tokenizer
    least = (2 * patch) ** 2
    images = Qwen2VLImageProcessor(
        patch_size=patch, merge_size=2, size={"shortest_edge": least, "longest_edge": 64 * least}
    )
    video_class: Any = Qwen3VLVideoProcessor if processor_class is Qwen3VLProcessor else Qwen2VLVideoProcessor
    processor_class(
        image_processor=images,
        tokenizer=tokenizer,
        video_processor=video_class(patch_size=patch, size={"shortest_edge": least, "longest_edge": 64 * least}),
        chat_template=TEMPLATE_WITH_DEFAULT_SYSTEM,
    ).save_pretrained(folder)
    names = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start", "vision_end": "vision_end"}
    ids = {f"{key}_token_id": tokenizer.convert_tokens_to_ids(f"<|{name}|>") for key, name in names.items()}
    return len(tokenizer) + 1, ids


TINY_MODELS: dict[str, Callable[[Path], None]] = {
    "internvl": make_internvl,
    "qwen2_vl": make_qwen2_vl,
    "qwen2_5_vl": make_qwen2_5_vl,
    "qwen3_5": make_qwen3_5,
    "qwen3_5_moe": make_qwen3_5_moe,
    "qwen3_vl_moe": make_qwen3_vl_moe,
}
"""By family; the checkpoint of `qwen3_vl` is embedded."""


def warm_adapter(encoder: Encoder, folder: Path, std: float = 0.05) -> None:
    """An adapter whose B is not zero, where half of all mistakes could not show."""
    base = load_model(encoder.checkpoint, "cpu", "fp32")
    model = add_adapter(base, LoraConfig(dropout=0.0), encoder.checkpoint.family, 0)
    torch.manual_seed(1)
    for name, weight in trainable(model).items():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=std)
    save_adapter(model, folder, "tiny", None)
