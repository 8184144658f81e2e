"""Qwen2.5-VL: window attention in the vision tower, boxes in pixels of the resized image.

Its vision tower has layers of the same names as the language model (`gate_proj`, `up_proj`, `down_proj`), so adapters
are placed by module prefix.
"""

from vlmtune.families import Family
from vlmtune.families._mrope import mrope_positions
from vlmtune.families._qwen_shapes import qwen2_shapes
from vlmtune.families._smart_resize import smart_resize
from vlmtune.families._videos import SPACED

FAMILY = Family(
    name="qwen2_5_vl",
    model_type="qwen2_5_vl",
    image_token="<|image_pad|>",
    end_of_turn="<|im_end|>",
    language_model="model.language_model",
    vision_tower="model.visual",
    blocks="model.visual.blocks",
    mergers=("model.visual.merger",),
    resized=smart_resize,
    positions=mrope_positions,
    boxes="resized_pixels",
    shapes=qwen2_shapes,
    video=SPACED,
)
