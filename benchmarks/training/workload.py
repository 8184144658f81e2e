"""Random-weight Qwen3-VL models and made photos, in the shapes that the benchmark is about."""

import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

TINY = Path(__file__).parents[2] / "src" / "vlmtune" / "assets" / "tiny_qwen3_vl"
PROMPT = "Describe this image in one concise, informative sentence."
CAPTIONS = [
    "a red ball and two cars on the green grass .",
    "two cars and a red ball .",
    "the image shows a red ball on the green grass , with two cars in the center .",
    "a red ball .",
    "there are two cars on the grass .",
]
"""Of one photo, of uneven lengths."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A model's sizes; `vocabulary` sets how heavy its head is beside the rest."""

    hidden: int
    layers: int
    intermediate: int
    tower: int
    tower_layers: int
    vocabulary: int


LIKE_8B = Shape(hidden=320, layers=6, intermediate=960, tower=64, tower_layers=3, vocabulary=2_480)
"""The head at all positions takes 7 % of the FLOPs and the tower 10 %, as in Qwen3-VL-8B."""

HEAD_HEAVY = Shape(hidden=256, layers=2, intermediate=768, tower=96, tower_layers=3, vocabulary=151_936)
"""The vocabulary of Qwen3-VL on a small model: the head is nearly everything."""


def build(shape: Shape, folder: Path) -> Path:
    """A checkpoint of that shape with random weights (seed 0), fp32, with the tokenizer of the tiny model."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    plain = json.loads((folder / "config.json").read_text())
    plain["dtype"] = "float32"
    plain["text_config"] |= {
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "intermediate_size": shape.intermediate,
        "num_attention_heads": shape.hidden // 32,
        "num_key_value_heads": shape.hidden // 64,
        "vocab_size": shape.vocabulary,
    }
    plain["vision_config"] |= {
        "hidden_size": shape.tower,
        "depth": shape.tower_layers,
        "intermediate_size": 4 * shape.tower,
        "num_position_embeddings": 1024,
        "out_hidden_size": shape.hidden,
    }
    (folder / "config.json").write_text(json.dumps(plain))
    processor = json.loads((folder / "processor_config.json").read_text())
    processor["image_processor"]["size"] = {"shortest_edge": 4096, "longest_edge": 262_144}
    (folder / "processor_config.json").write_text(json.dumps(processor))
    torch.manual_seed(0)
    Qwen3VLForConditionalGeneration(Qwen3VLConfig(**plain)).save_pretrained(folder)
    return folder


def photos(count: int, folder: Path) -> Path:
    """Rows of a JSONL dataset: 500 x 375 JPEG photos of smooth noise (768 patches), five captions each."""
    folder.mkdir(parents=True)
    lines = []
    for number in range(count):
        small = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        data = io.BytesIO()
        Image.fromarray(small).resize((500, 375), Image.Resampling.BICUBIC).save(data, "JPEG", quality=90)
        (folder / f"{number}.jpg").write_bytes(data.getvalue())
        turned = CAPTIONS[number % 5 :] + CAPTIONS[: number % 5]
        lines.append(
            json.dumps({"id": str(number), "image": f"{number}.jpg", "caption": turned[0], "captions": turned}) + "\n"
        )
    for split in ("train", "validation", "test"):
        (folder / f"{split}.jsonl").write_text("".join(lines))
    return folder
