"""InternVL 3 and 3.5 in the format of transformers (checkpoints named -hf): one rotary axis, boxes from 0 to 1000.

An image is up to 12 tiles and a thumbnail; its tokens stand between `<img>` and `</img>`.
"""

from collections.abc import Mapping
from typing import Any

from vlmtune.families import Family, Linear, Shapes, VisionTower
from vlmtune.families._qwen_shapes import decoder_shapes
from vlmtune.families._tiles import plain_positions, tile_limits, tiled_size


def _shapes(settings: Mapping[str, Any]) -> Shapes:
    text, limits = settings["text_config"], settings["vision_config"]
    decoder = decoder_shapes(settings, text, text["model_type"] != "qwen2", qkv_bias=text["model_type"] == "qwen2")
    return Shapes(decoder, _tower(limits, decoder.hidden, round(1 / settings.get("downsample_ratio", 0.5)) ** 2))


def _tower(vision: Mapping[str, Any], out: int, merged: int) -> VisionTower:
    hidden, inner, depth = vision["hidden_size"], vision["intermediate_size"], vision["num_hidden_layers"]
    patch, side = (one if isinstance(one, int) else one[0] for one in (vision["patch_size"], vision["image_size"]))
    values, positions = vision["num_channels"] * patch**2, (side // patch) ** 2 + 1
    norm = hidden if vision["norm_type"] == "rms_norm" else 2 * hidden
    scales = 2 * hidden + (2 * hidden if vision["use_qk_norm"] else 0)
    other = hidden + (values + 1) * hidden
    other += positions * hidden if vision["use_absolute_position_embeddings"] else 0
    other += 0 if vision["use_mean_pooling"] else 2 * hidden
    bias = vision["attention_bias"]
    return VisionTower(
        depth=depth,
        hidden=hidden,
        inner=inner,
        patch_values=values,
        merged_patches=merged,
        mergers=1,
        out=out,
        linears=(
            *(Linear(name, hidden, hidden, bias=bias) for name in ("q_proj", "k_proj", "v_proj")),
            Linear("projection_layer", hidden, hidden, bias=True),
            Linear("fc1", hidden, inner, bias=True),
            Linear("fc2", inner, hidden, bias=True),
        ),
        merger_linears=(Linear("linear_1", merged * hidden, out, bias=True), Linear("linear_2", out, out, bias=True)),
        other=other,
        block_norms=2 * norm + scales,
        merger_norms=2 * merged * hidden,
    )


FAMILY = Family(
    name="internvl",
    model_type="internvl",
    image_token="<IMG_CONTEXT>",
    around_image=("<img>", "</img>"),
    end_of_turn="<|im_end|>",
    language_model="model.language_model",
    vision_tower="model.vision_tower",
    blocks="model.vision_tower.encoder.layer",
    mergers=("model.multi_modal_projector",),
    limits=tile_limits,
    resized=tiled_size,
    positions=plain_positions,
    rotary_axes=1,
    boxes="norm1000",
    box_form="tags",
    shapes=_shapes,
)
