"""Qwen2-VL: full attention in the vision tower, boxes from 0 to 1000."""

from vlmtune.families import Family
from vlmtune.families._mrope import mrope_positions
from vlmtune.families._qwen_shapes import qwen2_shapes
from vlmtune.families._smart_resize import smart_resize
from vlmtune.families._videos import UNTIMED

FAMILY = Family(
    name="qwen2_vl",
    model_type="qwen2_vl",
    image_token="<|image_pad|>",
    end_of_turn="<|im_end|>",
    language_model="model.language_model",
    vision_tower="model.visual",
    blocks="model.visual.blocks",
    mergers=("model.visual.merger",),
    resized=smart_resize,
    positions=mrope_positions,
    boxes="norm1000",
    box_form="tokens",
    shapes=qwen2_shapes,
    video=UNTIMED,
)
