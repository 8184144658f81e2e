"""Images that are alike without being copies, and copies of some of them, to test a search for near-duplicates.

Digits, flags and icons are small and drawn from few shapes. Lines of text differ in their letters, receipts in their
numbers. Photographs (noise at four scales) are the easy case.
"""

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import planting
from PIL import Image, ImageDraw, ImageFont

WORDS = (  # noqa: SIM905
    "amber basket cedar dragon ember falcon garden harbour island jungle kettle lantern meadow nickel orchard pepper "
    "quarry ribbon saddle timber umber valley willow yonder zephyr"
).split()
SHOPS = ("NORTH HARBOUR MARKET", "CEDAR & SONS", "LANTERN CAFE", "WILLOW HARDWARE")
PAINTS = {
    "red": (206, 17, 38),
    "white": (255, 255, 255),
    "blue": (0, 56, 168),
    "green": (0, 122, 61),
    "yellow": (252, 209, 22),
    "black": (20, 20, 20),
    "orange": (255, 136, 62),
    "sky": (117, 170, 219),
}
COPIED = 5
"""One image in this many gets a copy."""

Draw = Callable[[random.Random], tuple[object, Image.Image]]
"""Draws an image, and says what is on it: equal for two images that show the same."""


@dataclass(frozen=True)
class AlikeSet:
    """Images as files, and the original of each, by index; None for the originals themselves."""

    name: str
    files: list[bytes]
    originals: list[int | None]


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font."""
    return ImageFont.load_default(size)


def digit(rng: random.Random) -> tuple[object, Image.Image]:
    """A digit of a clock or a plate: another place, size and angle each time."""
    size, angle, shown = rng.randint(20, 32), rng.uniform(-20, 20), rng.randrange(10)
    at = rng.uniform(2, 14), rng.uniform(-2, 10)
    image = Image.new("L", (40, 40), 0)
    ImageDraw.Draw(image).text(at, str(shown), 255, font(size), stroke_width=rng.choice([0, 0, 1]))
    return (shown, size, angle, at), image.rotate(angle, Image.Resampling.BICUBIC)


def flag(rng: random.Random) -> tuple[object, Image.Image]:
    """Two or three stripes, a cross, a disc or a triangle in three colours of eight."""
    layout = rng.choice(["across", "down", "cross", "disc", "hoist", "diagonal"])
    first, second, third = rng.sample(list(PAINTS), 3)
    image = Image.new("RGB", (120, 80), PAINTS[first])
    draw = ImageDraw.Draw(image)
    if layout == "across":
        draw.rectangle((0, 27, 119, 53), PAINTS[second])
        draw.rectangle((0, 54, 119, 79), PAINTS[third])
    elif layout == "down":
        draw.rectangle((40, 0, 79, 79), PAINTS[second])
        draw.rectangle((80, 0, 119, 79), PAINTS[third])
    elif layout == "cross":
        draw.rectangle((0, 28, 119, 52), PAINTS[second])
        draw.rectangle((34, 0, 56, 79), PAINTS[second])
        draw.rectangle((0, 34, 119, 46), PAINTS[third])
    elif layout == "disc":
        draw.rectangle((0, 40, 119, 79), PAINTS[second])
        draw.ellipse((36, 16, 84, 64), PAINTS[third])
    elif layout == "hoist":
        draw.rectangle((0, 40, 119, 79), PAINTS[second])
        draw.polygon([(0, 0), (0, 79), (60, 40)], PAINTS[third])
    else:
        draw.polygon([(0, 79), (119, 0), (119, 79)], PAINTS[second])
        draw.line([(0, 79), (119, 0)], PAINTS[third], 14)
    return (layout, first, second, third), image


def icon(rng: random.Random) -> tuple[object, Image.Image]:
    """A shape on a tile, with a sign in it."""
    shape, sign = rng.choice(["disc", "square", "diamond", "ring"]), rng.choice("+-x!?<>=#%&@*0123456789ABCDEFGH")
    ground, paint = rng.sample(list(PAINTS), 2)
    image = Image.new("RGB", (64, 64), PAINTS[ground])
    draw = ImageDraw.Draw(image)
    if shape == "disc":
        draw.ellipse((8, 8, 55, 55), PAINTS[paint])
    elif shape == "square":
        draw.rounded_rectangle((8, 8, 55, 55), 8, PAINTS[paint])
    elif shape == "diamond":
        draw.polygon([(32, 4), (60, 32), (32, 60), (4, 32)], PAINTS[paint])
    else:
        draw.ellipse((8, 8, 55, 55), outline=PAINTS[paint], width=6)
    inner = PAINTS[paint if shape == "ring" else ground]
    draw.text((32, 32), sign, inner, font(28), anchor="mm")
    return (shape, sign, ground, paint), image


def text_line(rng: random.Random) -> tuple[object, Image.Image]:
    """A line of three to six words, as text recognition has them."""
    words = " ".join(rng.choices(WORDS, k=rng.randint(3, 6)))
    width = int(font(24).getlength(words)) + 20
    image = Image.new("RGB", (width, 40), (250, 249, 244))
    ImageDraw.Draw(image).text((10, 5), words, (25, 25, 30), font(24))
    return words, image


def fixed_line(rng: random.Random) -> tuple[object, Image.Image]:
    """A serial number in a field of a form: the same frame and length, other digits."""
    words = f"No. {rng.randrange(10**8):08d}"
    image = Image.new("L", (300, 48), 245)
    draw = ImageDraw.Draw(image)
    draw.rectangle((2, 2, 297, 45), outline=60, width=2)
    draw.text((16, 8), words, 20, font(28))
    return words, image


def receipt(rng: random.Random) -> tuple[object, Image.Image]:
    """A receipt of one of four shops: the same head and foot, other goods and sums."""
    shop, count = rng.choice(SHOPS), rng.randint(4, 6)
    goods = [(rng.choice(WORDS), rng.randrange(50, 9999) / 100) for _ in range(count)]
    image = Image.new("L", (380, 620), 252)
    draw = ImageDraw.Draw(image)
    draw.text((190, 24), shop, 10, font(26), anchor="mt")
    draw.text((190, 60), "12 Long Market Street, 90000 North Harbour", 60, font(14), anchor="mt")
    draw.line((20, 90, 360, 90), 60, 2)
    for n, (name, price) in enumerate(goods):
        draw.text((24, 110 + 36 * n), name, 10, font(20))
        draw.text((356, 110 + 36 * n), f"{price:.2f}", 10, font(20), anchor="rt")
    draw.line((20, 360, 360, 360), 60, 2)
    draw.text((24, 376), "TOTAL", 0, font(28))
    draw.text((356, 376), f"{sum(price for _, price in goods):.2f}", 0, font(28), anchor="rt")
    for n in range(40):
        draw.rectangle((40 + 7.5 * n, 480, 42 + 7.5 * n + n * 7 % 4, 550), 10)
    draw.text((190, 570), "THANK YOU - PLEASE COME AGAIN", 30, font(16), anchor="mt")
    return (shop, tuple(goods)), image


def written_digits(count: int) -> Iterator[Image.Image]:
    """Handwritten digits of scikit-learn, 8x8 enlarged to 32x32; none if it is not installed."""
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-not-found]
    except ImportError:
        return
    for pixels in load_digits().images[:count]:
        small = Image.fromarray((pixels * 15.9).astype("uint8"))
        yield small.resize((32, 32), Image.Resampling.BICUBIC)


def photograph(rng: random.Random) -> tuple[object, Image.Image]:
    """Noise at four scales."""
    seed = rng.randrange(1 << 30)
    return seed, planting.noise(seed)


DRAWN: dict[str, Draw] = {
    "drawn digits": digit,
    "flags": flag,
    "icons": icon,
    "text lines": text_line,
    "serial numbers": fixed_line,
    "receipts": receipt,
    "photographs": photograph,
}


def different(draw: Draw, count: int, seed: int) -> list[Image.Image]:
    """Images that all show something else."""
    rng, drawn = random.Random(seed), {}
    for _ in itertools.takewhile(lambda _: len(drawn) < count, range(20 * count)):
        shows, image = draw(rng)
        drawn.setdefault(shows, image)
    return list(drawn.values())


def with_copies(name: str, images: list[Image.Image]) -> AlikeSet:
    """A set of images, followed by copies of some of them: scaled, compressed, brightened."""
    files = [planting.encoded(image, "PNG") for image in images]
    originals: list[int | None] = [None] * len(files)
    for number, at in enumerate(range(0, len(images), COPIED)):
        files.append(planting.near_duplicate(images[at].convert("RGB"), number))
        originals.append(at)
    return AlikeSet(name, files, originals)


def alike_sets(count: int, seed: int = 0) -> Iterator[AlikeSet]:
    """Every kind of images, `count` of each, with their copies."""
    if written := list(written_digits(count)):
        yield with_copies("handwritten digits", written)
    for name, draw in DRAWN.items():
        yield with_copies(name, different(draw, count, seed))
