"""Qwen3-VL: deepstack vision features, interleaved M-RoPE, boxes from 0 to 1000."""

from vlmtune.families import Family
from vlmtune.families._mrope import mrope_positions
from vlmtune.families._qwen_shapes import qwen3_shapes
from vlmtune.families._smart_resize import smart_resize
from vlmtune.families._videos import TIMED

FAMILY = Family(
    name="qwen3_vl",
    model_type="qwen3_vl",
    image_token="<|image_pad|>",
    end_of_turn="<|im_end|>",
    language_model="model.language_model",
    vision_tower="model.visual",
    blocks="model.visual.blocks",
    mergers=("model.visual.merger", "model.visual.deepstack_merger_list"),
    resized=smart_resize,
    positions=mrope_positions,
    boxes="norm1000",
    shapes=qwen3_shapes,
    video=TIMED,
)
