"""Qwen3.5: in three of four layers, a Gated DeltaNet in place of attention; no deepstack, boxes from 0 to 1000."""

from vlmtune.families import ATTENTION_AND_MLP, GATED_DELTA_NET, Family
from vlmtune.families._mrope import mrope_positions
from vlmtune.families._qwen_shapes import qwen3_shapes
from vlmtune.families._smart_resize import smart_resize
from vlmtune.families._videos import TIMED

FAMILY = Family(
    name="qwen3_5",
    model_type="qwen3_5",
    image_token="<|image_pad|>",
    end_of_turn="<|im_end|>",
    language_model="model.language_model",
    vision_tower="model.visual",
    blocks="model.visual.blocks",
    mergers=("model.visual.merger",),
    resized=smart_resize,
    positions=mrope_positions,
    boxes="norm1000",
    shapes=qwen3_shapes,
    lora_targets=(*ATTENTION_AND_MLP, *GATED_DELTA_NET),
    linear_attention="linear_attn",
    video=TIMED,
)
