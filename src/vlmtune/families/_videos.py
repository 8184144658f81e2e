"""Which frames of a video the Qwen-VL models see, and at which size, as transformers' video processors decide it."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from vlmtune.families import VideoFacts, VideoLimits, patch_limits
from vlmtune.families._smart_resize import MAX_ASPECT, smart_resize
from vlmtune.types import Clip

FPS, MIN_FRAMES, MAX_FRAMES = 2.0, 4, 768
"""Where a checkpoint's settings name none: what Qwen's own `qwen_vl_utils` takes."""


def _limits(
    settings: Mapping[str, Any], config: Mapping[str, Any], max_tokens: int, ticks: float | None
) -> VideoLimits:
    return VideoLimits(
        frame=patch_limits(settings, config),
        fps=settings.get("fps") or FPS,
        min_frames=settings.get("min_frames") or MIN_FRAMES,
        max_frames=settings.get("max_frames") or MAX_FRAMES,
        share=bool(settings.get("cap_pixels_per_frame")),
        max_tokens=settings.get("max_video_tokens") or max_tokens,
        ticks=ticks,
    )


def _qwen3_limits(settings: Mapping[str, Any], config: Mapping[str, Any]) -> VideoLimits:
    return _limits(settings, config, 768, None)


def _qwen2_limits(settings: Mapping[str, Any], config: Mapping[str, Any]) -> VideoLimits:
    return _limits(settings, config, 128_000, None)


def _qwen2_5_limits(settings: Mapping[str, Any], config: Mapping[str, Any]) -> VideoLimits:
    return _limits(settings, config, 128_000, config["vision_config"].get("tokens_per_second", 4))


def _qwen3_sampled(clip: Clip, limits: VideoLimits) -> list[int]:
    """Evenly from the first to the last frame; equal to `Qwen3VLVideoProcessor.sample_frames`."""
    wanted = int(clip.frames / clip.rate * limits.fps)
    count = min(max(wanted, limits.min_frames), limits.max_frames, clip.frames)
    indices: list[int] = np.linspace(0, clip.frames - 1, count).round().astype(int).tolist()
    return indices


def _qwen2_sampled(clip: Clip, limits: VideoLimits) -> list[int]:
    """An even number of frames from the first on; equal to `Qwen2VLVideoProcessor.sample_frames`."""
    together = limits.frame.frames
    most = min(limits.max_frames, clip.frames) // together * together
    wanted = min(max(clip.frames / clip.rate * limits.fps, limits.min_frames), most, clip.frames)
    count = math.floor(wanted / together) * together
    if not count:
        return list(range(clip.frames))
    indices: list[int] = np.arange(0, clip.frames, clip.frames / count).astype(np.float32).astype(int).tolist()
    return indices[:count]


def _qwen3_resized(frames: int, height: int, width: int, limits: VideoLimits) -> tuple[int, int]:
    """Height and width of every frame; the area limits are those of all frames together.

    Equal to the rule of `Qwen3VLVideoProcessor`.

    Raises:
        ValueError: one side is more than 200 times the other.
    """
    image = limits.frame
    factor, most = image.factor, image.max_pixels
    if limits.share:
        most = frames * max(min(limits.max_tokens * factor**2, most // frames), int(image.min_pixels * 1.05))
    if height < factor or width < factor:
        scale = max(factor / height, factor / width)
        height, width = int(height * scale), int(width * scale)
    if max(height, width) / min(height, width) > MAX_ASPECT:
        raise ValueError(f"{width}x{height}: one side is more than {MAX_ASPECT} times the other")
    rows, columns = round(height / factor) * factor, round(width / factor) * factor
    whole = round(frames / image.frames) * image.frames
    if whole * rows * columns > most:
        shrink = math.sqrt(frames * height * width / most)
        rows = max(factor, math.floor(height / shrink / factor) * factor)
        columns = max(factor, math.floor(width / shrink / factor) * factor)
    elif whole * rows * columns < image.min_pixels:
        grow = math.sqrt(image.min_pixels / (frames * height * width))
        rows = math.ceil(height * grow / factor) * factor
        columns = math.ceil(width * grow / factor) * factor
    return rows, columns


def _qwen2_resized(frames: int, height: int, width: int, limits: VideoLimits) -> tuple[int, int]:
    """Height and width of every frame, as of an image; equal to the rule of `Qwen2VLVideoProcessor`.

    Raises:
        ValueError: one side is more than 200 times the other.
    """
    image = limits.frame
    if limits.share:
        all_pixels = int(limits.max_tokens * image.factor**2 * 0.9)
        most = max(min(image.max_pixels, all_pixels * image.frames // frames), int(image.min_pixels * 1.05))
        image = replace(image, max_pixels=most)
    return smart_resize(height, width, image)


TIMED = VideoFacts(_qwen3_limits, _qwen3_sampled, _qwen3_resized, around=("<|vision_start|>", "<|vision_end|>"))
"""Qwen3-VL and later: the seconds of every moment are written before its tokens."""

UNTIMED = VideoFacts(_qwen2_limits, _qwen2_sampled, _qwen2_resized)
"""Qwen2-VL: time is a position, one for every moment."""

SPACED = VideoFacts(_qwen2_5_limits, _qwen2_sampled, _qwen2_resized, seconds_argument="second_per_grid_ts")
"""Qwen2.5-VL: time is a position that grows with the seconds between two moments."""
