"""Scenes generated from a seed: a plain background with one to four icons, cheap enough to draw on access.

`make_scene` samples a scene, `draw` renders it, `box` returns the pixels an icon covers. All are pure
functions of their arguments. Texts about a scene are in `_scene_words`; `scenes` is the data source.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

IMAGE_SIZE = 128
"""Width and height of a drawn image in pixels."""

Color = tuple[int, int, int]
Box = tuple[float, float, float, float]
Point = tuple[float, float]
Relation = Literal["left", "above"]
Size = Literal["big", "small"]

BACKGROUNDS = MappingProxyType(
    {
        "grass": (126, 196, 96),
        "sand": (236, 214, 158),
        "snow": (238, 244, 250),
        "night": (28, 32, 66),
        "street": (150, 152, 158),
    }
)
"""Ground colour of every kind of background."""

COLORS = MappingProxyType(
    {
        "red": (216, 40, 40),
        "blue": (40, 84, 222),
        "yellow": (248, 214, 40),
        "green": (16, 128, 52),
        "purple": (138, 52, 180),
        "orange": (246, 132, 24),
        "black": (22, 22, 22),
        "white": (252, 252, 252),
    }
)
"""Colours an icon can have."""

KINDS = ("ball", "box", "star", "heart", "tree", "house", "car", "boat", "fish", "flower")
"""Kinds of icons."""

_HIDDEN_COLORS = MappingProxyType(
    {
        "grass": ("green",),
        "sand": ("yellow", "white"),
        "snow": ("white",),
        "night": ("black", "blue"),
        "street": (),
    }
)
_OUTLINES = MappingProxyType(
    {
        "ball": (-1.0, -1.0, 1.0, 1.0),
        "box": (-0.9, -0.9, 0.9, 0.9),
        "star": (-0.95, -1.0, 0.95, 0.81),
        "heart": (-1.0, -0.85, 1.0, 0.95),
        "tree": (-0.9, -1.0, 0.9, 1.0),
        "house": (-1.0, -1.0, 1.0, 0.95),
        "car": (-1.0, -0.55, 1.0, 0.65),
        "boat": (-1.0, -1.0, 1.0, 0.85),
        "fish": (-1.0, -0.55, 1.0, 0.55),
        "flower": (-0.74, -1.06, 0.74, 1.0),
    }
)
"""Left, top, right and bottom of an icon around its centre, in radii."""

_LAYOUTS = MappingProxyType({"single": 25, "pair": 40, "group": 13, "mix": 22})
"""Relative frequency of each layout."""

_BROWN, _TIRE, _HUB, _GLASS, _STEM = (110, 70, 35), (50, 50, 50), (200, 200, 200), (190, 225, 240), (40, 110, 40)
_SUPERSAMPLING = 2
_CANVAS = IMAGE_SIZE * _SUPERSAMPLING
_NOISE_STD = 7.0
_COLOR_JITTER = 12


@dataclass(frozen=True)
class Icon:
    """One drawn object. `x`, `y` is its centre and `radius` half its nominal size, all in pixels."""

    kind: str
    color: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Group:
    """Icons of one kind and colour. `size` is mentioned only in scenes with a single icon."""

    kind: str
    color: str
    size: Size | None
    icons: tuple[Icon, ...]


@dataclass(frozen=True)
class Scene:
    """One or two groups of different kinds; `relation` is that of the first to the second."""

    background: str
    groups: tuple[Group, ...]
    relation: Relation | None
    texture_seed: int


def make_scene(rng: random.Random) -> Scene:
    """Sample a scene: background, layout, kinds, colours, and positions without overlap."""
    background = rng.choice(list(BACKGROUNDS))
    colors = [color for color in COLORS if color not in _HIDDEN_COLORS[background]]
    layout = rng.choices(list(_LAYOUTS), list(_LAYOUTS.values()))[0]
    if layout in ("single", "group"):
        group = _single_group(rng, rng.choice(KINDS), rng.choice(colors), single=layout == "single")
        return Scene(background, (group,), None, rng.getrandbits(32))
    counts = (1, 1)
    if layout == "mix":
        counts = (rng.randint(2, 3), 1) if rng.random() < 0.5 else (1, rng.randint(2, 3))
    groups, relation = _related_groups(rng, counts, colors)
    return Scene(background, groups, relation, rng.getrandbits(32))


def _single_group(rng: random.Random, kind: str, color: str, *, single: bool) -> Group:
    """A single big or small icon, or two to four of them, anywhere in the image."""
    size: Size | None = rng.choice(("big", "small")) if single else None
    low, high = {"big": (25.0, 32.0), "small": (13.0, 16.0), None: (14.0, 17.5)}[size]
    count, radius = 1 if single else rng.randint(2, 4), rng.uniform(low, high)
    while True:
        span = (radius, IMAGE_SIZE - radius)
        icons = _place(rng, Icon(kind, color, 0, 0, radius), count, span, span, ())
        if icons:
            return Group(kind, color, size, icons)


def _related_groups(
    rng: random.Random, counts: tuple[int, int], colors: list[str]
) -> tuple[tuple[Group, ...], Relation]:
    """Two groups of different kinds, the first left of or above the second."""
    kinds = rng.sample(KINDS, 2)
    chosen = (rng.choice(colors), rng.choice(colors))
    relation: Relation = rng.choice(("left", "above"))
    while True:
        placed: tuple[Icon, ...] = ()
        groups: list[Group] = []
        for position, (kind, color, count) in enumerate(zip(kinds, chosen, counts, strict=True)):
            radius = rng.uniform(15.5, 20.5) if count == 1 else rng.uniform(13.0, 15.5)
            along = (radius, IMAGE_SIZE * 0.5 - radius * 0.9)
            if position == 1:
                along = (IMAGE_SIZE - along[1], IMAGE_SIZE - along[0])
            across = (IMAGE_SIZE * 0.3, IMAGE_SIZE * 0.7) if count == 1 else (radius, IMAGE_SIZE - radius)
            span_x, span_y = (along, across) if relation == "left" else (across, along)
            icons = _place(rng, Icon(kind, color, 0, 0, radius), count, span_x, span_y, placed)
            placed += icons
            groups.append(Group(kind, color, None, icons))
        if all(group.icons for group in groups):
            return tuple(groups), relation


def _place(
    rng: random.Random, icon: Icon, count: int, span_x: Point, span_y: Point, taken: tuple[Icon, ...]
) -> tuple[Icon, ...]:
    """`count` icons like `icon` with centres in the spans, touching no other icon; empty if they do not fit."""
    placed: list[Icon] = []
    for _ in range(60 * count):
        trial = Icon(icon.kind, icon.color, rng.uniform(*span_x), rng.uniform(*span_y), icon.radius)
        if not any(_touch(trial, other) for other in (*taken, *placed)):
            placed.append(trial)
        if len(placed) == count:
            return tuple(placed)
    return ()


def _touch(one: Icon, other: Icon) -> bool:
    reach = one.radius + other.radius + 1
    return abs(one.x - other.x) <= reach and abs(one.y - other.y) <= reach


def box(icon: Icon) -> Box:
    """Left, top, right and bottom of what is drawn, in pixels, inside the image."""
    left, top, right, bottom = _OUTLINES[icon.kind]
    x, y, radius = icon.x, icon.y, icon.radius
    corners = (x + left * radius, y + top * radius, x + right * radius, y + bottom * radius)
    x0, y0, x1, y1 = (min(float(IMAGE_SIZE), max(0.0, value)) for value in corners)
    return x0, y0, x1, y1


def draw(scene: Scene) -> Image.Image:
    """The scene as an RGB image; the same scene always gives the same bytes."""
    rng = random.Random(scene.texture_seed)
    image = Image.new("RGB", (_CANVAS, _CANVAS), BACKGROUNDS[scene.background])
    canvas = ImageDraw.Draw(image)
    _paint_ground(canvas, scene.background, rng)
    for group in scene.groups:
        red, green, blue = COLORS[group.color]
        color = (_jitter(red, rng), _jitter(green, rng), _jitter(blue, rng))
        for icon in group.icons:
            _PAINTERS[icon.kind](_Brush(canvas, icon), color)
    pixels = np.asarray(image.reduce(_SUPERSAMPLING), np.float32)
    # RandomState's streams never change, unlike those of numpy's newer generators.
    noise = np.random.RandomState(scene.texture_seed).standard_normal((IMAGE_SIZE, IMAGE_SIZE, 1))
    noisy = pixels + _NOISE_STD * noise.astype(np.float32)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def _jitter(channel: int, rng: random.Random) -> int:
    return max(0, min(255, channel + rng.randint(-_COLOR_JITTER, _COLOR_JITTER)))


def _paint_ground(canvas: ImageDraw.ImageDraw, background: str, rng: random.Random) -> None:
    """Blades of grass, snow flakes, stars or road marks; sand has its noise only."""
    if background == "street":
        for start in range(-14, _CANVAS, 58):
            canvas.rectangle((start, _CANVAS - 18, start + 32, _CANVAS - 13), fill=(235, 235, 235))
    marks = {"grass": 60, "snow": 45, "night": 40}.get(background, 0)
    for _ in range(marks):
        x, y = rng.uniform(0, _CANVAS), rng.uniform(0, _CANVAS)
        if background == "grass":
            canvas.line((x, y, x + 2, y - 8), fill=(96, 168, 74))
        elif background == "snow":
            canvas.ellipse((x, y, x + 3, y + 3), fill=(215, 226, 240))
        else:
            canvas.point((x, y), fill=(240, 240, 200))


class _Brush:
    """Paints shapes, given in radii around an icon's centre, on the supersampled canvas."""

    def __init__(self, canvas: ImageDraw.ImageDraw, icon: Icon) -> None:
        self._canvas = canvas
        self._x, self._y, self._radius = (_SUPERSAMPLING * value for value in (icon.x, icon.y, icon.radius))

    def polygon(self, color: Color, *points: Point) -> None:
        self._canvas.polygon(self._pixels(points), fill=color)

    def rectangle(self, color: Color, *corners: Point) -> None:
        self._canvas.rectangle(self._pixels(corners), fill=color)

    def ellipse(self, color: Color, *corners: Point) -> None:
        self._canvas.ellipse(self._pixels(corners), fill=color)

    def ring(self, color: Color, *corners: Point) -> None:
        self._canvas.arc(self._pixels(corners), 0, 360, fill=color, width=3)

    def line(self, color: Color, *points: Point) -> None:
        self._canvas.line(self._pixels(points), fill=color, width=3)

    def _pixels(self, points: tuple[Point, ...]) -> list[Point]:
        return [(self._x + self._radius * x, self._y + self._radius * y) for x, y in points]


def _shade(color: Color) -> Color:
    """A darker shade; for black a lighter one, so that inner lines remain visible."""
    red, green, blue = (int(channel * 0.55) if max(color) > 60 else channel + 70 for channel in color)
    return red, green, blue


def _paint_ball(brush: _Brush, color: Color) -> None:
    brush.ellipse(color, (-1, -1), (1, 1))
    brush.ring(_shade(color), (-0.6, -1), (0.6, 1))


def _paint_box(brush: _Brush, color: Color) -> None:
    brush.rectangle(color, (-0.9, -0.9), (0.9, 0.9))
    brush.line(_shade(color), (-0.9, -0.4), (0.9, -0.4))
    brush.line(_shade(color), (0, -0.9), (0, -0.4))


def _paint_star(brush: _Brush, color: Color) -> None:
    angles = [-math.pi / 2 + step * math.pi / 5 for step in range(10)]
    reach = [1 if step % 2 == 0 else 0.42 for step in range(10)]
    brush.polygon(color, *((r * math.cos(a), r * math.sin(a)) for r, a in zip(reach, angles, strict=True)))


def _paint_heart(brush: _Brush, color: Color) -> None:
    brush.ellipse(color, (-1, -0.85), (0.05, 0.2))
    brush.ellipse(color, (-0.05, -0.85), (1, 0.2))
    brush.polygon(color, (-0.95, -0.12), (0.95, -0.12), (0, 0.95))


def _paint_tree(brush: _Brush, color: Color) -> None:
    brush.rectangle(_BROWN, (-0.16, 0.2), (0.16, 1))
    brush.polygon(color, (0, -1), (0.8, 0), (-0.8, 0))
    brush.polygon(color, (0, -0.5), (0.9, 0.55), (-0.9, 0.55))


def _paint_house(brush: _Brush, color: Color) -> None:
    brush.rectangle(color, (-0.8, -0.1), (0.8, 0.95))
    brush.polygon(_shade(color), (0, -1), (1, -0.1), (-1, -0.1))
    brush.rectangle(_shade(color), (-0.2, 0.35), (0.2, 0.95))


def _paint_car(brush: _Brush, color: Color) -> None:
    brush.polygon(color, (-0.55, -0.55), (0.4, -0.55), (0.7, 0), (-0.7, 0))
    brush.rectangle(color, (-1, -0.08), (1, 0.4))
    for x in (-0.55, 0.55):
        brush.ellipse(_TIRE, (x - 0.25, 0.15), (x + 0.25, 0.65))
        brush.ellipse(_HUB, (x - 0.1, 0.3), (x + 0.1, 0.5))
    brush.rectangle(_GLASS, (-0.4, -0.42), (0.3, -0.1))


def _paint_boat(brush: _Brush, color: Color) -> None:
    brush.polygon(_shade(color), (-1, 0.3), (1, 0.3), (0.6, 0.85), (-0.6, 0.85))
    brush.rectangle(_BROWN, (-0.06, -1), (0.06, 0.3))
    brush.polygon(color, (0.1, -0.95), (0.85, 0.15), (0.1, 0.15))
    brush.polygon(color, (-0.1, -0.7), (-0.1, 0.15), (-0.7, 0.15))


def _paint_fish(brush: _Brush, color: Color) -> None:
    brush.ellipse(color, (-1, -0.5), (0.5, 0.5))
    brush.polygon(color, (0.3, 0), (1, -0.55), (1, 0.55))
    brush.ellipse((255, 255, 255) if sum(color) < 500 else (20, 20, 20), (-0.7, -0.22), (-0.5, -0.02))


def _paint_flower(brush: _Brush, color: Color) -> None:
    brush.rectangle(_STEM, (-0.08, 0), (0.08, 1))
    for petal in range(5):
        angle = -math.pi / 2 + petal * 2 * math.pi / 5
        x, y = 0.42 * math.cos(angle), -0.3 + 0.42 * math.sin(angle)
        brush.ellipse(color, (x - 0.34, y - 0.34), (x + 0.34, y + 0.34))
    is_yellow = color[0] > 220 and 190 < color[1] < 235
    brush.ellipse((150, 90, 30) if is_yellow else (250, 225, 80), (-0.22, -0.52), (0.22, -0.08))


_PAINTERS: MappingProxyType[str, Callable[[_Brush, Color], None]] = MappingProxyType(
    {
        "ball": _paint_ball,
        "box": _paint_box,
        "star": _paint_star,
        "heart": _paint_heart,
        "tree": _paint_tree,
        "house": _paint_house,
        "car": _paint_car,
        "boat": _paint_boat,
        "fish": _paint_fish,
        "flower": _paint_flower,
    }
)
