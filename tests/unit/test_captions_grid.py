"""The picture of a comparison: rows drawn at random but always the same, every line inside its column."""

import io
from typing import Any

import pytest
from builders import encoded, make_image
from PIL import Image

from vlmtune.report import captions_grid

THUMBNAIL = encoded(make_image(40, 80), "WEBP")


def comparison(rows: int, after: str = "a red dog", **more: Any) -> dict[str, Any]:
    examples = [
        {"image": f"{n:064x}", "a": f"before {n}", "b": after, "references": ["A dog."], "gain": n - 1, **more}
        for n in range(rows)
    ]
    return {"examples": examples, "verdict": "bleu went up", "names": {"a": "base", "b": "tuned"}}


def drawn(plain: dict[str, Any]) -> Image.Image:
    images = {row["image"]: THUMBNAIL for row in plain["examples"]}
    return Image.open(io.BytesIO(captions_grid.render(plain, images)))


def test_six_rows_are_drawn_at_random_and_always_the_same() -> None:
    plain = comparison(100)
    chosen = captions_grid.shown(plain)
    assert len(chosen) == captions_grid.ROWS
    assert chosen == captions_grid.shown(plain)
    assert chosen != plain["examples"][:6]
    assert len(captions_grid.shown(comparison(4))) == 4
    assert captions_grid.shown(comparison(9, image=None)) == []
    assert captions_grid.shown(comparison(9, a=None)) == []
    assert captions_grid.render(plain, {}) == captions_grid.render(plain, {})


@pytest.mark.parametrize(
    "text",
    ["word " * 200, "unbroken" * 100, "一只狗在草地上跑" * 30, "", "\x1b[31mred\u202e", "ein Hund — «naïve» ☃"],
    ids=["words", "one word", "Chinese", "nothing", "control characters", "signs"],
)
def test_no_line_leaves_its_column(text: str) -> None:
    lines = captions_grid._wrapped(text, 300, 3, 19)
    assert 1 <= len(lines) <= 3
    assert all(captions_grid._font(text, 19).getlength(line) <= 300 for line in lines)
    assert all(line == line.strip() for line in lines)
    assert drawn(comparison(3, text)).size[0] == captions_grid.WIDTH


def test_the_picture_holds_images_and_colours_what_changed() -> None:
    image = drawn(comparison(3))
    colours = {colour for _, colour in image.getcolors(image.width * image.height)}
    assert {(20, 113, 63), (179, 38, 30)} <= colours, "a better and a worse row"
    empty = Image.open(io.BytesIO(captions_grid.render(comparison(3), {})))
    assert len(empty.getcolors(empty.width * empty.height)) < len(colours)
    assert drawn(comparison(0)).size[0] == captions_grid.WIDTH
