"""A comparison as one picture: a few images with the answers before and after, for a README or a slide."""

import functools
import io
import random
from collections.abc import Iterator, Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

from vlmtune.scoring.results import ComparisonFile, ExampleResult
from vlmtune.terminal import safe

ROWS = 6
WIDTH, MARGIN, GAP = 1400, 32, 24
PICTURE = (300, 225)
SIZE, LEADING = 19, 26
INK, SOFT, LINE, PAPER, GOOD, BAD = "#1a1d21", "#5b616a", "#dfe2e7", "#ffffff", "#14713f", "#b3261e"
MOST_LINES = 3
"""Lines of an answer; a longer one ends in an ellipsis."""

FONTS = ("NotoSansCJK-Regular.ttc", "NotoSans-Regular.ttf", "DejaVuSans.ttf", "Arial Unicode.ttf", "Arial.ttf")
"""Tried in this order for each text, until one has all of its characters; the last resort comes with Pillow."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def shown(comparison: ComparisonFile) -> list[ExampleResult]:
    """The rows of the picture: drawn at random among those with an image and two answers, always the same ones."""
    rows = [row for row in comparison["examples"] if row["image"] and row["a"] is not None and row["b"] is not None]
    chosen = random.Random(0).sample(range(len(rows)), min(ROWS, len(rows)))
    return [rows[number] for number in sorted(chosen)]


def render(comparison: ComparisonFile, thumbnails: Mapping[str, bytes]) -> bytes:
    """The picture as PNG.

    Args:
        comparison: with its examples.
        thumbnails: WebP images by the hash of the original, of the rows that `shown` gives.
    """
    rows = shown(comparison)
    heading = _wrapped(comparison["verdict"], WIDTH - 2 * MARGIN, 4, SIZE + 5)
    top = MARGIN + len(heading) * (LEADING + 8) + GAP
    cells = [_texts(row) for row in rows]
    heights = [max(PICTURE[1], sum(len(lines) for _, lines, _ in cell) * LEADING + 12 * len(cell)) for cell in cells]
    pairs = [max(heights[n : n + 2]) for n in range(0, len(heights), 2)]
    image = Image.new("RGB", (WIDTH, top + sum(pairs) + GAP * len(pairs) + LEADING + MARGIN), PAPER)
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(heading):
        draw.text((MARGIN, MARGIN + number * (LEADING + 8)), line, INK, _font(line, SIZE + 5))
    column = (WIDTH - 2 * MARGIN - GAP) // 2
    y = top
    for number, (row, cell) in enumerate(zip(rows, cells, strict=True)):
        x = MARGIN + (number % 2) * (column + GAP)
        _picture(image, thumbnails.get(row["image"] or ""), (x, y))
        _write(draw, cell, (x + PICTURE[0] + 16, y))
        if number % 2 == 1 or number == len(rows) - 1:
            y += pairs[number // 2] + GAP
    names, count = comparison["names"], len(comparison["examples"])
    footer = (
        f"{len(rows)} of {count:,} rows, drawn at random; green where the row scores higher, red where lower. "
        f"Before: {names['a']}. After: {names['b']}."
    )
    draw.text((MARGIN, y), _wrapped(footer, WIDTH - 2 * MARGIN, 1, SIZE - 3)[0], SOFT, _font(footer, SIZE - 3))
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _texts(row: ExampleResult) -> list[tuple[str, list[str], str]]:
    """(label, lines, colour) of the answers, coloured where the row's score moved, and of a reference."""
    gain = row["gain"] or 0.0
    colour = GOOD if gain > 0 else BAD if gain < 0 else INK
    width = (WIDTH - 2 * MARGIN - GAP) // 2 - PICTURE[0] - 16
    named = [("before", row["a"] or "", INK), ("after", row["b"] or "", colour)]
    named += [("reference", row["references"][0], SOFT)] if row["references"] else []
    return [(label, _wrapped(f"{label}: {text}", width, MOST_LINES, SIZE), colour) for label, text, colour in named]


def _write(draw: ImageDraw.ImageDraw, cell: Sequence[tuple[str, list[str], str]], at: tuple[int, int]) -> None:
    x, y = at
    for _, lines, colour in cell:
        for line in lines:
            draw.text((x, y), line, colour, _font(line, SIZE))
            y += LEADING
        y += 12


def _picture(image: Image.Image, thumbnail: bytes | None, at: tuple[int, int]) -> None:
    """A thumbnail in the middle of its place; an empty frame where there is none."""
    box = (*at, at[0] + PICTURE[0], at[1] + PICTURE[1])
    if thumbnail is None:
        ImageDraw.Draw(image).rectangle(box, outline=LINE)
        return
    with Image.open(io.BytesIO(thumbnail)) as opened:
        small = opened.convert("RGB")
    scale = min(PICTURE[0] / small.width, PICTURE[1] / small.height)
    size = max(1, round(small.width * scale)), max(1, round(small.height * scale))
    small = small.resize(size, Image.Resampling.LANCZOS)
    image.paste(small, (at[0] + (PICTURE[0] - small.width) // 2, at[1]))


def _wrapped(text: str, width: int, most: int, size: int) -> list[str]:
    """Lines no wider than `width`; broken between words, or anywhere in a script without spaces."""
    text = safe(" ".join(text.split()))
    font, lines, current = _font(text, size), [], ""
    for part in _parts(text):
        if current and font.getlength(current + part.rstrip()) > width:
            lines.append(current.rstrip())
            current = ""
        current += part
        while font.getlength(current.rstrip()) > width and len(current) > 1:
            fits = next(n for n in range(len(current), 0, -1) if n == 1 or font.getlength(current[:n]) <= width)
            lines.append(current[:fits])
            current = current[fits:]
        if len(lines) > most:
            break
    lines = [line for line in [*lines, current.rstrip()] if line] or [""]
    if len(lines) <= most:
        return lines
    last = lines[most - 1]
    while last and font.getlength(last + "…") > width:
        last = last[:-1]
    return [*lines[: most - 1], last + "…"]


def _parts(text: str) -> Iterator[str]:
    """Words with the space behind them."""
    words = text.split(" ")
    yield from (f"{word} " for word in words[:-1])
    yield words[-1]


def _font(text: str, size: int) -> Font:
    """A font that has the characters of a text, if there is one."""
    for name in FONTS:
        font = _named(name, size)
        if font is not None and _has(font, text):
            return font
    return ImageFont.load_default(size)


@functools.cache
def _named(name: str, size: int) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


def _has(font: ImageFont.FreeTypeFont, text: str) -> bool:
    """Whether no character is drawn as the sign for a missing one."""
    missing = bytes(font.getmask("\uffff"))
    return all(char.isspace() or bytes(font.getmask(char)) != missing for char in set(text))
