"""Chooses frames of videos and cuts them into uint8 patches like the checkpoint's video processor.

The results are bit-identical to those of the processor, with which the tests compare them. Frames are resized as they
are decoded, so that memory holds no more than the model sees.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import numpy as np
from pydantic import Field

from vlmtune.errors import ConfigError, DataError, ImageError, IntegrityError
from vlmtune.families import Block, Family, Grid, VideoFacts, VideoLimits
from vlmtune.files import read_json
from vlmtune.images import clip_of, decode_frames, in_memory
from vlmtune.json_values import mismatch
from vlmtune.modeling.loading import VideoConfig
from vlmtune.processing.image_processor import PatchSettings, cut, normalised, resized, stored_settings
from vlmtune.types import Clip, VideoRef

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

FILES = ("processor_config.json", "video_preprocessor_config.json", "preprocessor_config.json")
"""Where a checkpoint's video settings may be, in the order in which transformers looks."""

_Count = Annotated[int, Field(gt=0, le=100_000)] | None


class _Settings(PatchSettings, total=False):
    """Types of what is read from a video processor's settings."""

    fps: Annotated[float, Field(gt=0, le=1000)] | None
    min_frames: _Count
    max_frames: _Count
    cap_pixels_per_frame: bool | None
    max_video_tokens: Annotated[int, Field(gt=0)] | None


@dataclass(frozen=True, slots=True)
class Moments:
    """The frames of a video that the model sees, as moments of as many frames as become one layer of patches.

    `indices` are those of the frames, `times` the seconds of each moment, `seconds` those between two of them, `blocks`
    how their tokens are placed. `sparse` is true for a video so long that its frames lie farther apart than wanted.
    """

    indices: tuple[int, ...]
    times: tuple[float, ...]
    seconds: float
    blocks: tuple[Block, ...]
    sparse: bool = False

    @property
    def grid(self) -> Grid:
        """Patches of all moments."""
        return len(self.times), self.blocks[0].rows, self.blocks[0].columns


class VideoProcessor:
    """Reads videos for one checkpoint.

    Args:
        folder: of the checkpoint.
        family: of the checkpoint.
        config: the user's own settings.

    Raises:
        IntegrityError: the checkpoint's settings cannot be used.
        ConfigError: the user's do not fit each other, or there are some and the model reads no videos.
    """

    def __init__(self, folder: Path, family: Family, config: VideoConfig) -> None:
        self._family, self._config = family, config
        self._limits = _load_limits(folder, family, config)

    @property
    def facts(self) -> VideoFacts:
        """How the family reads videos.

        Raises:
            DataError: it reads none, or this checkpoint does not.
        """
        if self._family.video is None:
            raise DataError(f"videos are not supported for {self._family.name}; use some of their frames as images")
        return self._family.video

    @property
    def limits(self) -> VideoLimits:
        """The settings in effect; errors as in `facts`."""
        if self.facts and self._limits is None:
            raise DataError("the checkpoint has no video settings, so it is not known how it reads videos")
        return cast("VideoLimits", self._limits)

    def moments(self, ref: VideoRef, clip: Clip) -> Moments:
        """What the model sees of a video.

        Raises:
            ImageError: it has too few frames, or its aspect ratio is too extreme for the model.
            DataError: the model reads no videos.
        """
        limits, together = self.limits, self.limits.frame.frames
        if clip.frames < together:
            raise ImageError(f"{clip.frames} frame, but a video needs {together}; use it as an image", ref.where)
        indices = self.facts.sampled(clip, limits)
        try:
            height, width = self.facts.resized(len(indices), clip.size[1], clip.size[0], limits)
        except ValueError as error:
            raise ImageError(str(error), ref.where) from None
        padded = [*indices, *[indices[-1]] * (-len(indices) % together)]
        seen = [index / clip.rate for index in padded]
        times = [(seen[n] + seen[n + together - 1]) / 2 for n in range(0, len(seen), together)]
        rows, columns = height // limits.frame.patch, width // limits.frame.patch
        seconds = together / (len(indices) / clip.frames * clip.rate)
        if self.facts.around is not None:
            blocks = [Block(1, rows, columns)] * len(times)
        else:
            # The processor hands over the seconds in fp32.
            step = 1.0 if limits.ticks is None else limits.ticks * float(np.float32(seconds))
            blocks = [Block(len(times), rows, columns, step)]
        sparse = clip.frames / clip.rate * limits.fps >= limits.max_frames + 1
        return Moments(tuple(indices), tuple(times), seconds, tuple(blocks), sparse)

    def text(self, moments: Moments) -> str:
        """What the processor writes in place of a video's token in the rendered conversation."""
        facts, merge = self.facts, self.limits.frame.merge
        tokens = [facts.token * block.tokens(merge) for block in moments.blocks]
        if facts.around is None:
            return "".join(tokens)
        start, end = facts.around
        return "".join(f"<{t:.1f} seconds>{start}{one}{end}" for t, one in zip(moments.times, tokens, strict=True))

    def read(self, ref: VideoRef) -> "tuple[torch.Tensor, Moments]":
        """uint8 patches [patches, 3, frames, patch, patch] of the frames that the model sees; errors as `moments`."""
        ref = ref if ref.frames else in_memory(ref)
        clip = clip_of(ref)
        moments = self.moments(ref, clip)
        return self.patches(decode_frames(ref, moments.indices, clip), moments), moments

    def patches(self, frames: "Iterable[Image]", moments: Moments) -> "torch.Tensor":
        """uint8 patches [patches, 3, frames, patch, patch], moment by moment, each in the merged order."""
        import torch

        image = self.limits.frame
        _, rows, columns = moments.grid
        layers = []
        for frame in frames:
            pixels = torch.from_numpy(np.array(frame)).permute(2, 0, 1)
            layers.append(cut(resized(pixels, rows * image.patch, columns * image.patch), image))
        layers += [layers[-1]] * (-len(layers) % image.frames)
        together = [torch.stack(layers[n : n + image.frames], 2) for n in range(0, len(layers), image.frames)]
        return torch.cat(together)

    def normalised(self, patches: "torch.Tensor", dtype: "torch.dtype") -> "torch.Tensor":
        """The vision tower's input [n, 3 * frames * patch * patch], on the device of the patches."""
        count, _, frames = patches.shape[:3]
        single = normalised(patches.transpose(1, 2).flatten(0, 1), self.limits.frame)
        values = single.unflatten(0, (count, frames)).transpose(1, 2)
        flat: torch.Tensor = values.reshape(count, -1).to(dtype)
        return flat

    def own_settings(self) -> dict[str, Any]:
        """The user's settings that are not the checkpoint's, for fingerprints."""
        return self._config.model_dump(exclude_none=True)


def _load_limits(folder: Path, family: Family, config: VideoConfig) -> VideoLimits | None:
    """The checkpoint's video settings with the user's; None without any."""
    own = config.model_dump(exclude_none=True)
    settings = stored_settings(folder, "video_processor", FILES) if family.video is not None else None
    if family.video is None or settings is None:
        if own and family.video is None:
            raise ConfigError(f"model.video is set, but videos are not supported for {family.name}")
        if own:
            raise ConfigError(f"model.video is set, but {folder} has no video settings (none of {', '.join(FILES)})")
        return None
    if (wrong := mismatch(settings, _Settings)) is not None:
        raise IntegrityError(f"{folder}: the video processor's settings cannot be used: {wrong}")
    limits = family.video.limits(settings, read_json(folder / "config.json"))
    areas = {key: own.pop(key) for key in ("min_pixels", "max_pixels") if key in own}
    limits = replace(limits, frame=replace(limits.frame, **areas), **own)
    if not limits.frame.min_pixels or not limits.frame.max_pixels:
        raise IntegrityError(f"{folder}: the video processor's settings have no sizes; set model.video.max_pixels")
    if limits.frame.min_pixels > limits.frame.max_pixels:
        raise ConfigError(
            f"model.video: min_pixels is {limits.frame.min_pixels}, more than max_pixels, {limits.frame.max_pixels}; "
            "set both"
        )
    return limits
