"""SVG figures without a script: colours come from the page's style sheet, and every figure has its data as a table.

Functions return SVG elements as text, with all content escaped. Coordinates are in units of the figure; y points down.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from vlmtune.terminal import safe

WIDTH = 360
"""Width of every figure in its own units: scaled by 0.75 on a small phone and by 1.2 on a desktop. Text is 13 high."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing, with its content described in words and as a table, header first.

    `shapes` is SVG made of escaped text; `name` distinguishes the figures of a page.
    """

    name: str
    title: str
    desc: str
    shapes: str
    height: float
    table: Sequence[Sequence[str]]

    @property
    def svg(self) -> str:
        """The drawing as an SVG element."""
        name = re.sub(r"[^A-Za-z0-9_-]", "-", self.name)
        return (
            f'<svg viewBox="0 0 {WIDTH} {self.height:g}" role="img" aria-labelledby="{name}-t {name}-d">'
            f'<title id="{name}-t">{_escaped(self.title)}</title>'
            f'<desc id="{name}-d">{_escaped(self.desc)}</desc>{self.shapes}</svg>'
        )


@dataclass(frozen=True, slots=True)
class Frame:
    """The plotting area of a chart and the value ranges of its axes."""

    left: float
    top: float
    right: float
    bottom: float
    x: tuple[float, float]
    y: tuple[float, float]

    def point(self, x: float, y: float) -> tuple[float, float]:
        """Coordinates of a value; y grows upwards."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return self.left + across * (self.right - self.left), self.bottom - up * (self.bottom - self.top)

    def y_axis(self) -> list[str]:
        """Horizontal grid lines with their values."""
        shapes = []
        for tick in ticks(*self.y):
            _, y = self.point(self.x[0], tick)
            shapes += [
                line(self.left, y, self.right, y, "grid"),
                text(self.left - 6, y + 4, f"{tick:.4g}", "end", "axis"),
            ]
        return shapes


def text(x: float, y: float, content: str, anchor: str = "start", kind: str = "") -> str:
    """A text; `kind` is its CSS class, as everywhere here."""
    name = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{name}>{_escaped(content)}</text>'


def _escaped(content: str) -> str:
    return escape(safe(content))


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def bar(x: float, y: float, width: float, height: float, kind: str) -> str:
    """A filled rectangle."""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" class="{kind}"/>'


def circle(x: float, y: float, radius: float, kind: str) -> str:
    """A filled circle."""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" class="{kind}"/>'


def polyline(points: Sequence[tuple[float, float]], kind: str) -> str:
    """A line through points; nothing where there are none."""
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{places}" class="{kind}"/>' if points else ""


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from low to high, at most `most` of them where that is possible.

    `ticks(0, 7)` is [0, 2, 4, 6].
    """
    if not high > low:
        return [low]
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    for factor in (1, 2, 2.5, 5, 10, 20):
        first, last = math.ceil(low / (step * factor) - 1e-9), math.floor(high / (step * factor) + 1e-9)
        if last - first < most:
            return [round(n * step * factor, 12) + 0.0 for n in range(first, last + 1)]
    return [low, high]


def count_axis(most: float, left: float, top: float, bottom: float) -> list[str]:
    """Horizontal grid lines for counts from 0 to `most`, at whole numbers only."""
    shapes = []
    for tick in ticks(0, most, 4):
        if tick == int(tick):
            y = bottom - (bottom - top) * tick / most
            shapes += [
                line(left, y, WIDTH, y, "zero" if tick == 0 else "grid"),
                text(left - 6, y + 4, f"{tick:,.0f}", "end", "axis"),
            ]
    return shapes


def zero_axis(values: Sequence[float], left: float, right: float) -> tuple[Callable[[float], float], list[float]]:
    """A horizontal axis that holds all values and 0: value to x coordinate, and its ticks."""
    low, high = min(0.0, *values), max(0.0, *values)
    margin = (high - low) * 0.06 or 0.01
    low, high = low - margin, high + margin

    def x_of(value: float) -> float:
        return left + (value - low) / (high - low) * (right - left)

    return x_of, ticks(low, high, 4)
