"""The only place that decodes images: any file in, upright 8-bit RGB out, or one error that names the image.

Every source hands over undecoded bytes, so training, evaluation and reports see the same pixels. Also reads pages of
documents and frames of videos (`videos` decodes their files), hashes pixels and makes thumbnails.
"""

import hashlib
import io
import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from vlmtune import videos
from vlmtune.errors import EnvironmentProblem, ImageError
from vlmtune.types import Clip, ImageRef, VideoRef

if TYPE_CHECKING:
    from PIL.Image import Exif, Image

PLAIN_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
FORMATS = ("AVIF", "HEIF", *PLAIN_FORMATS)
MAX_PIXELS = 50_000_000

PAGE_DPI, PAGE_PIXELS = 150, 4_000_000
"""Resolution at which the pages of a PDF are drawn, and their largest area: A4 has 2.2 million pixels."""

_PDFIUM = threading.Lock()
"""PDFium may run in one thread at a time."""

SHOWN_FRAMES, SHOWN_SIDE = 4, 512
"""Frames of a video in its picture, two beside each other, and the longest side of each."""

_ORIENTATION, _SIDEWAYS = 0x0112, (5, 6, 7, 8)
"""The EXIF tag, and its values for an image stored on its side."""

_FROM_PILLOW = re.compile(r"PIL\.")
_PNG_METADATA = (b"eXIf", b"iTXt", b"tEXt", b"zTXt")
"""Chunks of a PNG that may hold its orientation."""


@dataclass(frozen=True, slots=True)
class Header:
    """Properties of an image file that `decode_rgb` removes; `format` is "" for an image that comes from no file."""

    format: str
    mode: str
    rotated: bool
    """Whether its EXIF orientation is not upright."""

    animated: bool
    alpha: bool
    sixteen_bit: bool


def decode_rgb(ref: ImageRef) -> "Image":
    """Decode one image.

    The EXIF orientation is applied, 16-bit grey is scaled to 8 bits (not clipped), transparency becomes white, and of
    an animation the first frame is used. Floating-point grey must range from 0 to 255. Formats outside `FORMATS` and
    images of more than `MAX_PIXELS` pixels are refused before decoding. Of a video, the image shows some frames.

    Returns:
        An image of mode "RGB".

    Raises:
        ImageError: it cannot be read or decoded completely; gives the image and the reason.
    """
    if isinstance(ref, VideoRef):
        ref = ref if ref.frames else in_memory(ref)
        return picture(ref, clip_of(ref))
    with _opened(ref) as image:
        if _is_ready(image):
            return image
        image.load()
        return _rgb(image, ref.where)


def examine(ref: ImageRef) -> "tuple[Image, Header]":
    """An image, no video, as from `decode_rgb`, with the header of its file; same errors."""
    with _opened(ref) as image:
        if _is_ready(image):
            return image, Header("", image.mode, rotated=False, animated=False, alpha=False, sixteen_bit=False)
        rotated = image.getexif().get(_ORIENTATION, 1) not in (0, 1)  # before loading: a TIFF then loses it
        image.load()
        decoded, mode = _rgb(image, ref.where), image.mode
        alpha, sixteen_bit = _has_alpha(image), mode.startswith("I;16")
        return decoded, Header(image.format or "", mode, rotated, _is_animated(image), alpha, sixteen_bit)


def _is_animated(image: "Image") -> bool:
    """Whether there is a second frame, which will be ignored; a file truncated after its first frame has none."""
    try:
        image.seek(1)
    except (EOFError, OSError, ValueError, SyntaxError, TypeError):
        return False
    return True


Ref = TypeVar("Ref", bound=ImageRef)


def in_memory(ref: Ref) -> Ref:
    """The same image with its file read, so that using it twice reads the file once.

    Raises:
        ImageError: it cannot be read.
    """
    with _errors_named(ref.where):
        data = ref.read()
    return replace(ref, read=lambda: data, cached=True)


def clip_of(ref: VideoRef) -> Clip:
    """Number, rate and size of a video's frames, without decoding them.

    Raises:
        ImageError: it cannot be read, has no frames, or more than are decoded.
        EnvironmentProblem: it is a file, and PyAV is not installed.
    """
    if ref.frames:
        return Clip(len(ref.frames), ref.rate, size_of(ref.frames[0]))
    with _errors_named(ref.where):
        data = ref.read()
    return videos.probe(data, ref.where)


def decode_frames(ref: VideoRef, indices: Sequence[int], clip: Clip) -> "Iterator[Image]":
    """Frames of a video as upright RGB images of one size.

    Args:
        ref: the video.
        indices: which frames, ascending.
        clip: what `clip_of` says about it.

    Raises:
        ImageError: one of them cannot be decoded, or differs in size.
    """
    if ref.frames:
        found: Iterator[Image] = (decode_rgb(ref.frames[index]) for index in indices)
    else:
        with _errors_named(ref.where):
            data = ref.read()
        found = videos.decode(data, indices, clip.frames, ref.where)
    for index, frame in zip(indices, found, strict=True):
        if frame.size != clip.size:
            sizes = f"{frame.width}x{frame.height}, the first {clip.size[0]}x{clip.size[1]}"
            raise ImageError(f"frame {index} has {sizes}; all frames of a video must have one size", ref.where)
        yield frame


def picture(ref: VideoRef, clip: Clip) -> "Image":
    """Up to `SHOWN_FRAMES` of a video's frames, from its first to its last, in rows of two; errors as `decode_frames`.

    Args:
        ref: the video.
        clip: what `clip_of` says about it.
    """
    from PIL import Image

    count = min(SHOWN_FRAMES, clip.frames)
    indices = [n * (clip.frames - 1) // max(1, count - 1) for n in range(count)]
    shown = []
    for frame in decode_frames(ref, indices, clip):
        frame.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
        shown.append(frame)
    width, height = shown[0].size
    picture = Image.new("RGB", (width * min(2, count), height * -(-count // 2)), "white")
    for n, frame in enumerate(shown):
        picture.paste(frame, (n % 2 * width, n // 2 * height))
    return picture


def size_of(ref: ImageRef) -> tuple[int, int]:
    """Upright width and height of an image, from the reference or else from the image's header.

    Raises:
        ImageError: as in `decode_rgb`, for what the header shows.
    """
    if ref.size is not None:
        return ref.size
    if isinstance(ref, VideoRef):
        return clip_of(ref).size
    ref = in_memory(ref)
    with _opened(ref) as image:
        width, height = image.size
        # Of a TIFF, Pillow reports the upright size itself.
        sideways = image.format != "TIFF" and _exif(image, ref.read()).get(_ORIENTATION, 1) in _SIDEWAYS
        return (height, width) if sideways and not _is_ready(image) else (width, height)


def page_count(data: bytes, where: str) -> int:
    """Number of pages of a PDF or TIFF; 1 for any other file.

    Raises:
        ImageError: a PDF cannot be read.
        EnvironmentProblem: pypdfium2 is not installed.
    """
    from PIL import Image

    if data.startswith(b"%PDF"):
        with _pdf(data, where) as document:
            return len(document)
    if not data.startswith((b"II*\0", b"MM\0*")):
        return 1
    _silence_pillow()
    with _errors_named(where), Image.open(io.BytesIO(data), formats=("TIFF",)) as image:
        return int(getattr(image, "n_frames", 1))


def read_page(data: bytes, page: int, where: str) -> "Image":
    """Page of a PDF or TIFF, counted from 1, as an RGB image. Those of a PDF are drawn on white.

    Raises:
        ImageError: there is no such page, or it cannot be read.
        EnvironmentProblem: pypdfium2 is not installed.
    """
    from PIL import Image

    if not 1 <= page <= (count := page_count(data, where)):
        raise ImageError(f"has no page {page}; it has {count}", where)
    if data.startswith(b"%PDF"):
        with _pdf(data, where) as document:
            width, height = document[page - 1].get_size()
            scale = min(PAGE_DPI / 72, (PAGE_PIXELS / max(1, width * height)) ** 0.5)
            return document[page - 1].render(scale=scale).to_pil().convert("RGB")  # type: ignore[no-any-return]
    with _errors_named(where), Image.open(io.BytesIO(data), formats=("TIFF",)) as image:
        image.seek(page - 1)
        _refuse_size(image, where)
        image.load()
        return _rgb(image, where)


@contextmanager
def _pdf(data: bytes, where: str) -> Iterator[Any]:
    try:
        import pypdfium2
    except ModuleNotFoundError:
        raise EnvironmentProblem(
            f"{where}: a PDF needs the extra: pip install 'vlmtune[documents]'; or convert its pages to PNG"
        ) from None
    with _PDFIUM:
        try:
            document = pypdfium2.PdfDocument(data)
            try:
                yield document
            finally:
                document.close()
        except pypdfium2.PdfiumError as error:
            raise ImageError(f"a PDF that cannot be read: {error}", where) from None


def _is_ready(image: "Image") -> bool:
    """Whether an image needs no conversion: RGB pixels, detached from any file."""
    from PIL import ImageFile

    return image.mode == "RGB" and not isinstance(image, ImageFile.ImageFile)


def _exif(image: "Image", data: Any) -> "Exif":
    """The EXIF data of an opened image. Pillow decodes all pixels of a PNG to find chunks after them; this does not."""
    from PIL import Image

    if image.format != "PNG" or not isinstance(data, bytes) or _has_metadata_after_pixels(data):
        return image.getexif()
    return Image.Image.getexif(image)


def _has_metadata_after_pixels(png: bytes) -> bool:
    """Whether a PNG, complete or not, has text or EXIF chunks after its first chunk of pixels."""
    offset, in_pixels = 8, False
    while offset + 8 <= len(png):
        length, kind = int.from_bytes(png[offset : offset + 4]), png[offset + 4 : offset + 8]
        in_pixels |= kind == b"IDAT"
        if in_pixels and kind in _PNG_METADATA:
            return True
        if kind == b"IEND":
            break
        offset += 12 + length
    return False


@contextmanager
def _opened(ref: ImageRef) -> "Iterator[Image]":
    """An image of an allowed format and size, not decoded yet; errors of PIL in the block become `ImageError`."""
    from PIL import Image

    with _errors_named(ref.where):
        data = ref.read()
        if isinstance(data, Image.Image):
            yield data
            return
        if not data:
            raise ImageError("the file is empty", ref.where)
        _silence_pillow()
        with Image.open(io.BytesIO(data), formats=_formats(data, ref.where)) as image:
            _refuse_size(image, ref.where)
            yield image


def _formats(data: bytes, where: str) -> tuple[str, ...]:
    """Names of the formats that a file may have. HEIF is known to Pillow after the first such file.

    Raises:
        EnvironmentProblem: the package that reads it is not installed.
    """
    if data[4:8] != b"ftyp":
        return PLAIN_FORMATS
    if b"avif" in data[8:64]:
        from PIL import features

        if not features.check("avif"):
            raise EnvironmentProblem(f"{where}: an AVIF image needs Pillow 11.3 or newer; or convert it to PNG")
        return ("AVIF",)
    try:
        import pillow_heif
    except ModuleNotFoundError:
        raise EnvironmentProblem(
            f"{where}: a HEIC image needs the extra: pip install 'vlmtune[heic]'; or convert it to JPEG"
        ) from None
    pillow_heif.register_heif_opener()
    return ("HEIF",)


@contextmanager
def _errors_named(where: str) -> Iterator[None]:
    """Turns errors of reading and of PIL into `ImageError`."""
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except UnidentifiedImageError:
        raise ImageError(f"not an image of a known format ({', '.join(FORMATS).lower()})", where) from None
    except Image.DecompressionBombError as error:
        raise ImageError(str(error), where) from None
    # TypeError: PIL's TIFF reader, when a tag that must be an integer is declared as another type. RuntimeError: AVIF.
    except (OSError, ValueError, SyntaxError, EOFError, OverflowError, TypeError, RuntimeError) as error:
        raise ImageError(f"cannot be decoded: {error}", where) from None


def _silence_pillow() -> None:
    """Silence Pillow's warnings about unusual files; the serious ones are errors here.

    A permanent filter for Pillow's own modules: `warnings.catch_warnings` swaps the filters of the whole process, so
    one thread would restore those of another.
    """
    if ("ignore", None, Warning, _FROM_PILLOW, 0) not in warnings.filters:
        warnings.filterwarnings("ignore", module=_FROM_PILLOW.pattern)


def _refuse_size(image: "Image", where: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{width}x{height} pixels, more than {MAX_PIXELS // 1_000_000} million", where)


def _refuse_scale(values: np.ndarray[Any, np.dtype[np.float64]], where: str) -> None:
    """Refuse floating-point pixels that are not from 0 to 255: an image from 0 to 1 would turn black."""
    low, high = values.min(initial=np.inf), values.max(initial=-np.inf)
    if not (low >= 0 and 1 < high <= 255):
        raise ImageError(
            f"floating-point pixels from {low:g} to {high:g}; they must be 0 to 255, some above 1: store it with 8 or "
            "16 bits",
            where,
        )


def _rgb(image: "Image", where: str) -> "Image":
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        if image.mode == "F":
            _refuse_scale(values, where)
        # 65535 / 255 = 257: PIL's own conversion clips at 255 and keeps 17 of 4096 grey levels.
        scaled = np.clip(np.rint(values / 257 if values.max(initial=0) > 255 else values), 0, 255)
        return Image.fromarray(scaled.astype(np.uint8), "L").convert("RGB")
    if _has_alpha(image):
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _has_alpha(image: "Image") -> bool:
    return image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info


def pixel_hash(image: "Image") -> str:
    """Identity of an RGB image: sha256 of its size and pixels, equal for equal images in different files."""
    width, height = image.size
    return hashlib.sha256(b"%dx%d:" % (width, height) + image.tobytes()).hexdigest()


def video_hash(ref: VideoRef) -> str:
    """Identity of a video: sha256 of its file or of its frames, and of their rate. A GIF may be an image or a video.

    Raises:
        ImageError: it cannot be read.
    """
    with _errors_named(ref.where):
        data = ref.read()
    return hashlib.sha256(b"video %d %r:" % (len(ref.frames), ref.rate) + data).hexdigest()


def identified(ref: ImageRef) -> "tuple[Image, str]":
    """An image as from `decode_rgb`, and its identity: `pixel_hash`; of a video `video_hash`, as others may look alike
    in the frames that its picture shows.
    """
    if isinstance(ref, VideoRef):
        ref = ref if ref.frames else in_memory(ref)
        return decode_rgb(ref), video_hash(ref)
    image = decode_rgb(ref)
    return image, pixel_hash(image)


def thumbnail(image: "Image", side: int = 256) -> bytes:
    """A WebP copy whose longer side has at most `side` pixels; about 6.5 KB for a photo."""
    small = image.copy()
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=70)
    return buffer.getvalue()
