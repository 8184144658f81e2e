"""Facts about a model family, as data. A family is a file here with a value `FAMILY`.

Everything that differs between architectures is a field of `Family`. Code elsewhere that asks for a family's name lacks
a field here.
"""

from vlmtune.families._family import (
    ATTENTION,
    ATTENTION_AND_MLP,
    EXPERTS,
    GATED_DELTA_NET,
    Block,
    Family,
    Grid,
    ImageLimits,
    VideoFacts,
    VideoLimits,
    patch_limits,
)
from vlmtune.families._shapes import (
    DELTA_CHUNK,
    FROM_LAYER_INPUT,
    NEVER_QUANTIZED,
    Decoder,
    DeltaRule,
    Layer,
    Linear,
    PartName,
    Shapes,
    VisionTower,
)

__all__ = [
    "ATTENTION",
    "ATTENTION_AND_MLP",
    "DELTA_CHUNK",
    "EXPERTS",
    "FROM_LAYER_INPUT",
    "GATED_DELTA_NET",
    "NEVER_QUANTIZED",
    "Block",
    "Decoder",
    "DeltaRule",
    "Family",
    "Grid",
    "ImageLimits",
    "Layer",
    "Linear",
    "PartName",
    "Shapes",
    "VideoFacts",
    "VideoLimits",
    "VisionTower",
    "patch_limits",
]
