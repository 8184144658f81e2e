"""What a family says about its architecture."""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vlmtune.boxes import BoxFormName, ModelBoxes
from vlmtune.families._shapes import PartName, Shapes
from vlmtune.types import Clip

Grid = tuple[int, int, int]
"""Patches of one image: (time, rows, columns); time is 1 for a still image."""


class Block(NamedTuple):
    """Tokens that follow each other in a prompt and are placed in space: an image, a video or one moment of it.

    `frames`, `rows` and `columns` count patches as in a `Grid`; `step` is by how much the position in time grows from
    one of `frames` to the next.
    """

    frames: int
    rows: int
    columns: int
    step: float = 1.0

    def tokens(self, merge: int) -> int:
        """Number of tokens, one for `merge` x `merge` patches."""
        return self.frames * self.rows * self.columns // merge**2


ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
"""Linear layers of softmax attention."""
ATTENTION_AND_MLP = (*ATTENTION, "gate_proj", "up_proj", "down_proj")
"""Linear layers of softmax attention and of a gated MLP."""
EXPERTS = "experts."
"""In front of the names of matrices that are stacked, one per expert."""
GATED_DELTA_NET = ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj")
"""Linear layers of a Gated DeltaNet."""


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """A checkpoint's image settings: sizes in pixels, mean and std per channel on a scale of 0 to 1.

    `tile` is the side of a tile, where images are cut into tiles.
    """

    patch: int
    merge: int
    frames: int
    min_pixels: int
    max_pixels: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    tile: int | None = None

    @property
    def factor(self) -> int:
        """Both sides of a resized image are multiples of this."""
        return self.patch * self.merge


def patch_limits(settings: Mapping[str, Any], config: Mapping[str, Any]) -> ImageLimits:
    """From the settings of the Qwen-VL image processors; areas that are not given are 0."""
    size = settings.get("size") or {}
    return ImageLimits(
        patch=settings["patch_size"],
        merge=settings["merge_size"],
        frames=settings["temporal_patch_size"],
        min_pixels=size.get("shortest_edge") or settings.get("min_pixels") or 0,
        max_pixels=size.get("longest_edge") or settings.get("max_pixels") or 0,
        mean=tuple(settings["image_mean"]),
        std=tuple(settings["image_std"]),
    )


@dataclass(frozen=True, slots=True)
class VideoLimits:
    """A checkpoint's video settings: `fps` frames per second are taken, but not less or more than the numbers say.

    `frame` has the sizes of patches, and area limits that a family counts per frame or for all frames. `share` is
    whether the area of each frame is limited further (`cap_pixels_per_frame`), to `max_tokens` as the family counts
    them. `ticks` is how far positions in time are apart for one second; None if they do not depend on seconds.
    """

    frame: ImageLimits
    fps: float
    min_frames: int
    max_frames: int
    share: bool
    max_tokens: int
    ticks: float | None = None


@dataclass(frozen=True, slots=True)
class VideoFacts:
    """How a family reads videos.

    `limits` reads the video settings from those of the video processor and config.json. `sampled(clip, limits)` gives
    the indices of the frames that are taken, `resized(frames, height, width, limits) -> (height, width)` their size. A
    `token` stands for a patch of the frames; if times are written, `around` stand in front of and behind those of one
    moment, and its seconds before them as text. `seconds_argument` is the keyword by which the model gets the seconds
    between two moments.
    """

    limits: Callable[[Mapping[str, Any], Mapping[str, Any]], VideoLimits]
    sampled: Callable[[Clip, VideoLimits], list[int]]
    resized: Callable[[int, int, int, VideoLimits], tuple[int, int]]
    token: str = "<|video_pad|>"
    around: tuple[str, str] | None = None
    seconds_argument: str | None = None


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture.

    `resized(height, width, limits) -> (height, width)` is the processor's size rule. `positions(ids, vision_tokens,
    blocks, merge) -> [3, T]` counts rotary positions. `language_model` and `vision_tower` are module prefixes, `blocks`
    and `mergers` those of the vision tower's layers and of the modules that merge its patches into tokens.
    `boxes` is the scale on which the family writes boxes, `box_form` how it writes them in running text. `shapes` reads
    the sizes of its matrices from config.json.
    `lora_targets` are the linear layers that get an adapter unless a config names others. `linear_attention` is the
    module, in those layers that have it in place of attention, of a Gated DeltaNet. `limits` reads the image settings
    from those of the image processor and config.json. `around_image` are tokens in front of and behind the tokens of an
    image that the chat template leaves to the processor. `rotary_axes` says how many rows of `positions` the model
    reads. `video` is None for a family whose videos are not supported.
    """

    name: str
    model_type: str
    image_token: str
    end_of_turn: str
    language_model: str
    vision_tower: str
    blocks: str
    mergers: tuple[str, ...]
    resized: Callable[[int, int, ImageLimits], tuple[int, int]]
    positions: Callable[[Sequence[int], Container[int], Sequence[Block], int], NDArray[np.int64]]
    boxes: ModelBoxes
    shapes: Callable[[Mapping[str, Any]], Shapes]
    lora_targets: tuple[str, ...] = ATTENTION_AND_MLP
    linear_attention: str | None = None
    limits: Callable[[Mapping[str, Any], Mapping[str, Any]], ImageLimits] = patch_limits
    around_image: tuple[str, str] | None = None
    rotary_axes: int = 3
    box_form: BoxFormName = "list"
    video: VideoFacts | None = None

    @property
    def parts(self) -> dict[PartName, tuple[str, ...]]:
        """Module prefixes of the parts that can have adapters."""
        return {"language_model": (self.language_model,), "merger": self.mergers, "vision_tower": (self.blocks,)}

    def part(self, module: str) -> PartName | None:
        """The part that a module or weight belongs to, by its full name; None if it is in none of them."""
        return next((part for part, starts in self.parts.items() for s in starts if module.startswith(f"{s}.")), None)
