"""The only place that decodes video files: a short clip in, upright RGB frames out, or one error that names the clip.

`images` builds on it and reads clips given as lists of frames as well. FFmpeg (PyAV, the extra `video`) gets bytes and
the name of their format (`format_of`), so no file can make it open another one.
"""

import io
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vlmtune.errors import EnvironmentProblem, ImageError
from vlmtune.types import Clip

if TYPE_CHECKING:
    from PIL.Image import Image

FILE_ENDINGS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
"""File name endings, in lower case, by which a file is a video wherever it stands; a GIF may also be an image."""

FORMATS = "avi, gif, mkv, mov, mp4, webm"
MAX_FRAMES, MAX_PIXELS = 20_000, 20_000_000_000
"""Most frames of a clip and most pixels of all its frames: 11 minutes at 30 frames per second, of 720p."""

MAX_AREA = 40_000_000
"""Most pixels of one frame: 8K has 33 million."""

UNEVEN = 1.5
"""A clip's frame rate varies if one frame is shown this many times as long as another."""

MISSING = 50
"""One in so many of a clip's frames may be missing at its end, as old AVI files count one too many."""


def probe(data: bytes, where: str) -> Clip:
    """What a video file says about its frames, with the first of them decoded and the others counted.

    Raises:
        ImageError: it cannot be read, has no frames, or more than are decoded.
        EnvironmentProblem: PyAV is not installed.
    """
    with _opened(data, where) as (container, stream):
        times, rate, declared = [], stream.average_rate, _declared(container, stream)
        for packet in container.demux(stream):
            if packet.size and not packet.is_discard and _is_shown(packet, stream.codec_context.name):
                times.append(packet.pts if packet.pts is not None else packet.dts)
            if len(times) > MAX_FRAMES:
                raise ImageError(f"more than {MAX_FRAMES:,} frames; cut it into shorter clips", where)
    if not times:
        raise ImageError("no frames", where)
    if len(times) < 0.9 * declared - 1:
        raise ImageError(f"only {len(times)} of {declared} frames are there: the file is cut off", where)
    first = next(decode(data, [0], len(times), where))
    if first.width * first.height * len(times) > MAX_PIXELS:
        raise ImageError(
            f"{len(times):,} frames of {first.width}x{first.height}, more than {MAX_PIXELS:,} pixels; cut it into "
            "shorter or smaller clips",
            where,
        )
    if not rate:
        raise ImageError("no frame rate", where)
    known = sorted(time for time in times if time is not None)
    steps = [b - a for a, b in itertools.pairwise(known) if b > a]
    even = not steps or max(steps) < UNEVEN * min(steps) or max(steps) - min(steps) <= 1
    return Clip(len(times), float(rate), (first.width, first.height), even)


def decode(data: bytes, indices: Sequence[int], count: int, where: str) -> "Iterator[Image]":
    """Frames of a video file, upright and RGB; the last one also for those that are missing behind it.

    Args:
        data: the file.
        indices: which frames, ascending.
        count: frames of the clip, as `probe` found them.
        where: names the clip.

    Raises:
        ImageError: one of them cannot be decoded, or more than one in `MISSING` is missing.
        EnvironmentProblem: PyAV is not installed.
    """
    wanted, last, number = list(indices), None, -1
    with _opened(data, where) as (container, stream):
        for number, frame in enumerate(container.decode(stream)):
            if not wanted:
                return
            if frame.width * frame.height > MAX_AREA:
                raise ImageError(
                    f"{frame.width}x{frame.height} pixels, more than {MAX_AREA // 1_000_000} million", where
                )
            last = frame
            if number != wanted[0]:
                continue
            image = _upright(frame, number, where)
            while wanted and wanted[0] == number:
                wanted.pop(0)
                yield image
    missing = count - number - 1
    if wanted and (last is None or missing > max(1, count // MISSING)):
        raise ImageError(f"only {number + 1} of {count} frames can be decoded: the file is damaged or cut off", where)
    for _ in wanted:
        yield _upright(last, number, where)


def _upright(frame: Any, number: int, where: str) -> "Image":
    """The RGB image of a whole frame, turned as its container says: phones store frames as the sensor sees them."""
    if frame.is_corrupt:
        raise ImageError(f"frame {number} is damaged", where)
    from PIL import Image

    image = Image.fromarray(frame.to_ndarray(format="rgb24"))
    turned = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}
    turn = turned.get(round(frame.rotation) % 360)
    return image if turn is None else image.transpose(turn)


def _declared(container: Any, stream: Any) -> int:
    """Number of frames by the file's header; 0 if it says nothing of them."""
    if stream.frames or not stream.average_rate or not container.duration or len(container.streams) > 1:
        return int(stream.frames)
    return int(container.duration / 1_000_000 * stream.average_rate)


def _is_shown(packet: Any, codec: str) -> bool:
    """Whether a packet becomes a frame: VP8 also stores some that others only refer to."""
    return codec != "vp8" or bool(bytes(packet)[0] & 0x10)


@contextmanager
def _opened(data: bytes, where: str) -> Iterator[tuple[Any, Any]]:
    """The container and its first video stream; errors of FFmpeg in the block become `ImageError`."""
    try:
        import av
    except ModuleNotFoundError:
        raise EnvironmentProblem(
            f"{where}: a video needs the extra: pip install 'vlmtune[video]'; or give a list of its frames"
        ) from None
    if not data:
        raise ImageError("the file is empty", where)
    name = format_of(data)
    if name is None:
        raise ImageError(f"not a video of a known format ({FORMATS})", where)
    try:
        with av.open(io.BytesIO(data), format=name) as container:
            stream = next((s for s in container.streams.video if not s.disposition & s.disposition.attached_pic), None)
            if stream is None:
                raise ImageError("no video in this file", where)
            if stream.codec_context is None:
                raise ImageError("a video whose codec is not known here; encode it as H.264", where)
            if stream.codec_context.width * stream.codec_context.height > MAX_AREA:
                size = f"{stream.codec_context.width}x{stream.codec_context.height}"
                raise ImageError(f"{size} pixels, more than {MAX_AREA // 1_000_000} million", where)
            yield container, stream
    except (av.FFmpegError, OSError, ValueError, LookupError, OverflowError) as error:
        raise ImageError(f"cannot be decoded: {getattr(error, 'strerror', None) or error}", where) from None


def format_of(data: bytes) -> str | None:
    """FFmpeg's name of a file's format, None for any other: some formats are lists of further files to open."""
    if data[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "mov"
    if data.startswith(b"\x1aE\xdf\xa3"):
        return "matroska"
    if data.startswith(b"RIFF") and data[8:12] == b"AVI ":
        return "avi"
    return "gif" if data.startswith((b"GIF87a", b"GIF89a")) else None
