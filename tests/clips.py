"""Drawn clips: their frames, their files, and references to them."""

import io
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
from builders import make_image
from PIL import Image

from vlmtune.types import ImageRef, VideoRef


def drawn_frames(count: int, size: tuple[int, int], seed: int = 0) -> list[Image.Image]:
    """Frames that differ from each other as little and as much as those of a film."""
    wide = make_image(size[0] + 4 * count, size[1], seed)
    return [wide.crop((4 * n, 0, 4 * n + size[0], size[1])) for n in range(count)]


def video(frames: Sequence[Image.Image], rate: float, where: str = "clip") -> VideoRef:
    """A clip given as its frames."""
    refs = tuple(ImageRef(f"{where}, frame {n}", lambda frame=frame: frame) for n, frame in enumerate(frames))
    return VideoRef(where, lambda: b"".join(frame.tobytes() for frame in frames), frames=refs, rate=rate)


def clip_file(
    frames: Sequence[Image.Image], rate: int = 10, kind: str = "mp4", codec: str = "libx264", **options: Any
) -> bytes:
    """The bytes of a video file, as small and lossless as its codec allows."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        stream: Any = container.add_stream(codec, rate=Fraction(rate))
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = options.pop("pix_fmt", "yuv420p")
        stream.options = {key: str(value) for key, value in options.items()}
        for frame in frames:
            for packet in stream.encode(av.VideoFrame.from_image(frame)):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return buffer.getvalue()
