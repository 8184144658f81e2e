"""The only place that decodes an image: any file in, upright 8-bit RGB out, or one named error.

Every source hands over undecoded bytes, so training, evaluation and reports see the same pixels. Also: the identity of
an image's pixels, and thumbnails.
"""

import hashlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmtune.errors import ImageError
from vlmtune.types import ImageRef

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MAX_PIXELS = 50_000_000
_ORIENTATION, _LYING = 0x0112, (5, 6, 7, 8)
"""The EXIF tag, and its values for a picture stored on its side."""


def decode_rgb(ref: ImageRef) -> "Image":
    """Decode one image.

    The EXIF orientation is applied, 16-bit grey is scaled to 8 (not cut), transparency is laid on white, of an
    animation the first frame is taken. Floating-point grey must be on the scale 0 to 255. Formats outside `FORMATS` and
    more than `MAX_PIXELS` pixels are refused before decoding.

    Returns:
        An image of mode "RGB".

    Raises:
        ImageError: it cannot be read or decoded completely; names the image and the reason.
    """
    with _opened(ref) as image:
        if _is_ready(image):
            return image
        image.load()
        return _rgb(image, ref.where)


def size_of(ref: ImageRef) -> tuple[int, int]:
    """Width and height of what `decode_rgb` makes of an image, from its header; pixels are not looked at.

    Raises:
        ImageError: as `decode_rgb`, as far as the header tells.
    """
    with _opened(ref) as image:
        width, height = image.size
        # Pillow tells the upright size of a TIFF by itself.
        lying = image.format != "TIFF" and image.getexif().get(_ORIENTATION, 1) in _LYING
        return (height, width) if lying and not _is_ready(image) else (width, height)


def _is_ready(image: "Image") -> bool:
    """Whether an image is taken as it is: RGB pixels, in no file any more."""
    from PIL import ImageFile

    return image.mode == "RGB" and not isinstance(image, ImageFile.ImageFile)


@contextmanager
def _opened(ref: ImageRef) -> "Iterator[Image]":
    """An image of an allowed format and size, not decoded yet; what PIL raises inside becomes one error."""
    from PIL import Image, UnidentifiedImageError

    try:
        data = ref.read()
        if isinstance(data, Image.Image):
            yield data
            return
        if not data:
            raise ImageError("the file is empty", ref.where)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _refuse_size(image, ref.where)
                yield image
    except UnidentifiedImageError:
        raise ImageError(f"not an image of a known format ({', '.join(FORMATS).lower()})", ref.where) from None
    except Image.DecompressionBombError as error:
        raise ImageError(str(error), ref.where) from None
    # TypeError: PIL's TIFF reader, where a tag that must be an integer is declared as something else.
    except (OSError, ValueError, SyntaxError, EOFError, OverflowError, TypeError) as error:
        raise ImageError(f"cannot be decoded: {error}", ref.where) from None


def _refuse_size(image: "Image", where: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{width}x{height} pixels, more than {MAX_PIXELS // 1_000_000} million", where)


def _refuse_scale(values: np.ndarray[Any, np.dtype[np.float64]], where: str) -> None:
    """Of floating-point pixels nothing says which value is white; a picture from 0 to 1 would turn black."""
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
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def pixel_hash(image: "Image") -> str:
    """Identity of an RGB image: sha256 over its size and pixels, so equal pictures in other files are equal."""
    width, height = image.size
    return hashlib.sha256(b"%dx%d:" % (width, height) + image.tobytes()).hexdigest()


def thumbnail(image: "Image", side: int = 256) -> bytes:
    """A WebP copy whose longer side has at most `side` pixels; about 6.5 KB for a photo."""
    small = image.copy()
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=70)
    return buffer.getvalue()
