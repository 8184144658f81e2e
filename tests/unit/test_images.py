"""Decoding, for each kind of file that trips other readers, against values computed by hand."""

import io
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pillow_heif
import pytest
from builders import encoded, make_image, ref
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from vlmtune import images
from vlmtune.errors import EnvironmentProblem, ImageError
from vlmtune.images import decode_rgb, examine, page_count, pixel_hash, read_page, size_of, thumbnail


def test_plain_png_keeps_its_pixels() -> None:
    image = make_image(20, 10)
    assert np.array_equal(np.asarray(decode_rgb(ref(encoded(image)))), np.asarray(image))


def test_exif_orientation_is_applied() -> None:
    image = Image.new("RGB", (20, 10))
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side: top-left belongs to the top-right
    upright = decode_rgb(ref(encoded(image, "PNG", exif=exif)))
    assert upright.size == (10, 20)
    assert upright.getpixel((9, 0)) == (255, 0, 0)


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    values = np.array([[0, 257, 25700, 65535]], dtype=np.uint16)
    decoded = np.asarray(decode_rgb(ref(encoded(Image.fromarray(values)))))
    assert decoded[0, :, 0].tolist() == [0, 1, 100, 255]


def floats(*values: float) -> bytes:
    return encoded(Image.fromarray(np.array([values], dtype=np.float32)), "TIFF")


def test_floating_point_grey_between_0_and_255_keeps_its_values() -> None:
    assert np.asarray(decode_rgb(ref(floats(0, 1.4, 100.6, 255))))[0, :, 0].tolist() == [0, 1, 101, 255]


@pytest.mark.parametrize(
    "values", [(0, 0.5, 1), (0, 0), (-1, 200), (0, 255.5), (0, 65535), (5, float("nan")), (5, float("inf"))]
)
def test_floating_point_grey_on_another_scale_is_refused(values: tuple[float, ...]) -> None:
    with pytest.raises(ImageError, match="floating-point pixels .* must be 0 to 255"):
        decode_rgb(ref(floats(*values)))


def test_a_tiff_whose_offsets_are_no_integers_is_named() -> None:
    data = floats(9, 9, 9, 9)
    entry = data.index(b"\x11\x01\x04\x00")  # StripOffsets as unsigned integers ...
    with pytest.raises(ImageError, match="cannot be decoded: .*integer"):
        decode_rgb(ref(data[: entry + 2] + b"\x0c" + data[entry + 3 :]))  # ... declared as doubles


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_becomes_white(mode: str) -> None:
    image = Image.new(mode, (2, 1), (0, 0, 0, 0) if mode == "RGBA" else (0, 0))
    assert decode_rgb(ref(encoded(image))).getpixel((0, 0)) == (255, 255, 255)


def test_palette_transparency_becomes_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    decoded = decode_rgb(ref(encoded(image, "PNG", transparency=0)))
    assert [decoded.getpixel((0, 0)), decoded.getpixel((1, 0))] == [(255, 255, 255), (40, 50, 60)]


def test_cmyk_and_first_frame() -> None:
    assert decode_rgb(ref(encoded(make_image(8, 8).convert("CMYK"), "JPEG"))).mode == "RGB"
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    animated = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_rgb(ref(animated)).getpixel((0, 0)) == (254, 0, 0) or decode_rgb(ref(animated)).getpixel((0, 0)) == (
        255,
        0,
        0,
    )


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encoded(make_image(64, 64), "JPEG")[:-200], "cannot be decoded"),
        (encoded(make_image(64, 64))[:300], "cannot be decoded"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image of a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not an image of a known format"),
        (b"", "the file is empty"),
    ],
    ids=["cut jpeg", "cut png", "svg", "eps", "empty"],
)
def test_broken_files_are_named(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason) as caught:
        decode_rgb(ref(data, "photos/7.jpg"))
    assert str(caught.value).startswith("photos/7.jpg: ")


def test_missing_file_is_named() -> None:
    def missing() -> bytes:
        raise FileNotFoundError("no such file")

    with pytest.raises(ImageError, match="no such file"):
        decode_rgb(images.ImageRef("a.png", missing))


def test_too_many_pixels_are_refused_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 99)
    with pytest.raises(ImageError, match="10x10 pixels"):
        decode_rgb(ref(encoded(make_image(10, 10))))


@given(st.binary(max_size=400))
def test_any_bytes_are_an_image_or_a_named_error(data: bytes) -> None:
    for head in (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"RIFF\0\0\0\0WEBP", b"II*\0", b"P6\n"):
        try:
            assert decode_rgb(ref(head + data)).mode == "RGB"
        except ImageError as error:
            assert error.reason


def test_pixel_hash_sees_pixels_and_size_not_the_file() -> None:
    image = make_image(16, 8)
    assert pixel_hash(decode_rgb(ref(encoded(image, "PNG")))) == pixel_hash(decode_rgb(ref(encoded(image, "BMP"))))
    assert pixel_hash(image) != pixel_hash(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    assert pixel_hash(Image.new("RGB", (2, 3))) != pixel_hash(Image.new("RGB", (3, 2)))


def test_thumbnail_fits() -> None:
    small = decode_rgb(ref(thumbnail(make_image(640, 480), 256)))
    assert small.size == (256, 192)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_is_known_before_the_pixels(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("PNG", "JPEG", "WEBP", "TIFF"):
        sideways = ref(encoded(make_image(40, 24), kind, exif=exif))
        assert size_of(sideways) == decode_rgb(sideways).size
        for mode in ("RGB", "L"):  # in no file any more, but the tag is still with it
            plain = ref(Image.open(io.BytesIO(sideways.read())).convert(mode))
            assert size_of(plain) == decode_rgb(plain).size
    assert size_of(ref(make_image(40, 24))) == (40, 24)


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)


def png_with(metadata: bytes, after: bool) -> bytes:
    """A PNG of 40x24 with one more chunk, before or after its pixels."""
    plain = encoded(make_image(40, 24))
    place = plain.index(b"IEND" if after else b"IDAT") - 4
    return plain[:place] + metadata + plain[place:]


SIDEWAYS = Image.Exif()
SIDEWAYS[0x0112] = 6
XMP = b"XML:com.adobe.xmp\0\0\0\0\0" + b'<x tiff:Orientation="6"/>'
PROFILE = b"Raw profile type exif\0" + b"\nexif\n  26\n" + SIDEWAYS.tobytes().hex().encode()


@pytest.mark.parametrize("after", [False, True], ids=["before the pixels", "after the pixels"])
@pytest.mark.parametrize(
    "metadata",
    [chunk(b"eXIf", SIDEWAYS.tobytes()[6:]), chunk(b"iTXt", XMP), chunk(b"tEXt", PROFILE)],
    ids=["eXIf", "XMP", "raw profile"],
)
def test_the_size_of_a_png_is_known_wherever_its_orientation_is(metadata: bytes, after: bool) -> None:
    sideways = ref(png_with(metadata, after))
    assert size_of(sideways) == decode_rgb(sideways).size == (24, 40)


def test_the_size_of_a_png_takes_no_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(image: object) -> None:
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    assert size_of(ref(encoded(make_image(40, 24)))) == (40, 24)
    assert size_of(ref(png_with(chunk(b"eXIf", SIDEWAYS.tobytes()[6:]), after=False))) == (24, 40)


@given(st.binary(max_size=60), st.integers(0, 400))
def test_a_truncated_png_has_a_size_or_a_named_error(more: bytes, cut: int) -> None:
    data = png_with(chunk(b"tEXt", b"a\0b"), after=True)[:cut] + more
    try:
        assert size_of(ref(data)) == (40, 24)
    except ImageError as error:
        assert error.reason


def test_threads_leave_the_warning_filters_alone() -> None:
    """Pillow warns about every image here: it is larger than Pillow's own limit."""
    noisy = encoded(make_image(64, 64))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        before = list(warnings.filters)
        with ThreadPoolExecutor(8) as pool, pytest.MonkeyPatch.context() as patch:
            patch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64 - 1)
            list(pool.map(lambda n: decode_rgb(ref(noisy, f"{n}")), range(400)))
        warnings.warn("somebody else's", stacklevel=1)
        assert [str(one.message) for one in caught] == ["somebody else's"]
        assert [one for one in warnings.filters if one in before] == before


def test_the_header_of_a_file_is_reported() -> None:
    def header(data: bytes) -> images.Header:
        return images.examine(ref(data))[1]

    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    assert header(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])).animated
    assert not header(encoded(frames[0], "GIF")).animated
    for kind in ("JPEG", "PNG", "TIFF", "WEBP"):
        assert header(encoded(make_image(40, 24), kind, exif=SIDEWAYS)).rotated
        assert header(encoded(make_image(40, 24), kind)) == images.Header(kind, "RGB", False, False, False, False)
    assert header(encoded(make_image(8, 8).convert("CMYK"), "JPEG")).mode == "CMYK"
    assert header(encoded(Image.fromarray(np.zeros((4, 4), np.uint16)))).sixteen_bit
    assert header(encoded(make_image(8, 8).convert("RGBA"))).alpha
    decoded, plain = images.examine(ref(make_image(40, 24)))
    assert (decoded.size, plain.format) == ((40, 24), "")


def test_a_file_that_is_no_image_has_no_size() -> None:
    whole = encoded(make_image(64, 64), "JPEG")
    assert size_of(ref(whole[: len(whole) // 2])) == (64, 64)  # a torn file has its header still
    for data in (b"", b"no image", whole[:20]):
        with pytest.raises(ImageError):
            size_of(ref(data))


def test_pages_of_documents_are_upright_rgb_images() -> None:
    pages = [make_image(40, 24, seed=seed) for seed in range(2)]
    for kind in ("PDF", "TIFF"):
        data = encoded(pages[0].copy(), kind, save_all=True, append_images=[page.copy() for page in pages[1:]])
        assert page_count(data, "x") == 2
        for number, page in enumerate(pages, start=1):
            read = read_page(data, number, "x")
            assert read.mode == "RGB"
            difference = np.asarray(read.resize(page.size), float) - np.asarray(page, float)
            assert np.abs(difference).mean() < (1 if kind == "TIFF" else 25), "pages of noise differ by 85"
        with pytest.raises(ImageError, match="x: has no page 3; it has 2"):
            read_page(data, 3, "x")
    assert page_count(encoded(pages[0]), "x") == 1
    with pytest.raises(ImageError, match="x: a PDF that cannot be read"):
        page_count(b"%PDF-1.4", "x")


def test_a_page_of_paper_is_drawn_so_that_it_can_be_read_and_a_poster_within_bounds() -> None:
    for inches, size in (((8.27, 11.69), (1240, 1754)), ((80, 60), (2310, 1732))):
        side = [round(72 * each) for each in inches]
        data = encoded(Image.new("RGB", (side[0], side[1])), "PDF", resolution=72)
        assert np.allclose(read_page(data, 1, "x").size, size, atol=3)


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
def test_images_of_phones_are_decoded(kind: str) -> None:
    pillow_heif.register_heif_opener()
    image = make_image(64, 40)
    found, header = examine(ref(encoded(image, kind, quality=95)))
    assert (found.size, header.format) == ((64, 40), kind)
    assert np.abs(np.asarray(found, float) - np.asarray(image, float)).mean() < 20, "other noise differs by 85"


@pytest.mark.parametrize(
    ("kind", "package", "said"), [("HEIF", "pillow_heif", "heic"), ("PDF", "pypdfium2", "documents")]
)
def test_a_missing_extra_is_named(kind: str, package: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pillow_heif.register_heif_opener()
    data = encoded(make_image(8, 8), kind)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(EnvironmentProblem, match=rf"needs the extra: pip install 'vlmtune\[{said}\]'"):
        page_count(data, "x") if kind == "PDF" else decode_rgb(ref(data))
