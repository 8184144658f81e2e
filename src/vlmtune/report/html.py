"""A comparison as one page: a single file that needs no network and no other file, and reads without its script.

A pure function of the comparison and the pictures: the same input gives the same bytes. Text of rows is only ever text:
the template escapes it, the script sets it as text, and the page's policy runs nothing but the script and style it
was made with.

Rows and pictures as the page's script reads them: safe inside a script element, and never too large to open.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmtune.report import ReportConfig, charts, provenance, rows, templates, text
from vlmtune.report import charts as changes
from vlmtune.report import charts as coverage
from vlmtune.report import charts as curves
from vlmtune.report.rows import Column, Example

_PICTURES = 12_000_000
_ROWS = 10_000_000
"""Most bytes of pictures and of rows: together with the rest, a page stays under 25 MB."""

_LIMITS = (100_000, 20_000, 5_000, 2_000, 1_000, 500, 200)
"""Longest text that is carried whole: the first of these with which all rows fit."""

_CARD = 5_000
"""Longest text on the cards that stand on the page without its script."""


@dataclass(frozen=True, slots=True)
class Carried:
    """What the script reads. Where not everything fits: the longest whole text, and how many rows are left out."""

    data: str
    limit: int | None
    left_out: int


def encoded(wanted: Sequence[str], pictures: Mapping[str, bytes]) -> dict[str, str]:
    """Pictures as base64, in order of importance until the page would get too large."""
    found: dict[str, str] = {}
    room = _PICTURES
    for image in wanted:
        if image in pictures:
            text = base64.b64encode(pictures[image]).decode()
            room -= len(text)
            if room < 0:
                break
            found[image] = text
    return found


def carried(examples: Sequence[Example], columns: Sequence[Column], images: Mapping[str, str]) -> Carried:
    """All rows, with shortened texts if need be; where even that is too much, without those that changed least."""
    places = {image: n for n, image in enumerate(images)}
    slim = [_row(n, example, columns, places) for n, example in enumerate(examples)]
    packed, limit, kept = [_json(row) for row in slim], None, list(range(len(slim)))
    for shorter in _LIMITS:
        if _size(packed) <= _ROWS:
            break
        limit = shorter
        packed = [_json(_shortened(row, limit)) for row in slim]
    if _size(packed) > _ROWS:
        room, chosen = _ROWS, set()
        for n in rows.in_order(examples, columns[0] if columns else None):
            room -= len(packed[n].encode()) + 1
            if room < 0:
                break
            chosen.add(n)
        kept = sorted(chosen)
    metrics = [{"name": c.name, "sign": 1 if c.higher_is_better else -1, "digits": c.digits} for c in columns]
    parts = {
        "metrics": _json(metrics),
        "rows": f"[{','.join(packed[n] for n in kept)}]",
        "images": _json([*images.values()]),
    }
    data = "{" + ",".join(f'"{key}":{value}' for key, value in parts.items()) + "}"
    return Carried(data, limit, len(slim) - len(kept))


def card(example: Example) -> dict[str, Any]:
    """A row for the cards that need no script, its texts shortened where they are very long."""
    return {**example, **_shortened({key: example[key] for key in ("a", "b", "references")}, _CARD)}


def _row(number: int, example: Example, columns: Sequence[Column], places: Mapping[str, int]) -> dict[str, Any]:
    """A row in few letters; what is not there is left out.

    i id, a and b answers, r what was expected, s scores of A and B per metric, d changes per metric, f flags, h image,
    e failures, x boxes, m remarks, q question.
    """
    row: dict[str, Any] = {"i": rows.name(example, number), "a": example["a"], "b": example["b"]}
    row["r"] = rows.expected(example)
    if example["scores"] is not None:
        row["s"] = [[example["scores"][side][column.name] for column in columns] for side in ("a", "b")]
        row["d"] = [example["deltas"][column.name] for column in columns]
    optional = {
        "f": [example["flags"]["a"], example["flags"]["b"]] if any(example["flags"].values()) else None,
        "h": places.get(example["image"]),
        "e": rows.failures(example),
        "x": example.get("boxes"),
        "m": rows.meta(example),
        "q": rows.question(example),
    }
    return row | {key: value for key, value in optional.items() if value is not None and value != []}


def _shortened(row: Mapping[str, Any], limit: int) -> dict[str, Any]:
    """A row whose texts have at most `limit` characters, and say how many are missing. Ids stay whole."""

    def cut(value: Any) -> Any:
        if isinstance(value, list):
            return [cut(item) for item in value]
        if not isinstance(value, str) or len(value) <= limit:
            return value
        return f"{value[:limit]}… [{len(value) - limit:,} more characters in the JSON]"

    return {key: cut(value) if key in ("a", "b", "r", "m", "q", "references") else value for key, value in row.items()}


def _size(packed: Sequence[str]) -> int:
    return sum(len(text.encode()) + 1 for text in packed)


def _json(value: Any) -> str:
    """JSON without what could end a script element or a line of an old script."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


FOLDER = Path(__file__).parent
STATUSES = {"improved": "good", "worse": "bad", "no_difference": "even", "inconclusive": "even"}
"""Colour of the verdict."""

SCRIPTS = ("worddiff.js", "gallery.js", "page.js")
"""Parts of the page's one script, in their order."""


def wanted(plain: Mapping[str, Any], config: ReportConfig) -> list[str]:
    """Hashes of the images whose thumbnails `render` has a use for."""
    return rows.pictured(plain, config.examples)


def render(plain: Mapping[str, Any], pictures: Mapping[str, bytes], config: ReportConfig) -> str:
    """The page as HTML.

    Args:
        plain: a comparison as `Comparison.to_json` gives it, with its examples.
        pictures: WebP thumbnails by the hash of their image.
        config: what is shown.
    """
    return templates.render(
        "page.html.jinja",
        [],
        scripts=[FOLDER / name for name in SCRIPTS],
        filters={"fixed": text.fixed, "signed": text.signed},
        plain=plain,
        tone=STATUSES[plain["status"]],
        **_numbers(plain),
        **_gallery(plain, pictures, config),
        **_making(plain),
    )


def _numbers(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Scores, their drawings, and what stands beside them."""
    found = rows.columns(plain)
    examples = plain["examples"]
    return {
        "primary": plain["metrics"][0] if plain["metrics"] else None,
        "precision": text.precision,
        "level": f"{plain['statistics']['confidence']:.0%}",
        "metrics": text.metric_rows(plain),
        "forest": charts.forest(plain["metrics"]),
        "further": [line for line in text.metric_lines(plain) if line],
        "answers": text.answer_rows(plain),
        "controls": text.control_lines(plain),
        "confidence": [line.partition(": ")[2] for line in text.confidence_lines(plain)],
        "coverage": coverage.coverage(plain),
        "also": text.also_rows(plain),
        "changes": [(column, _drawn(column, examples)) for column in found],
        "untrained": text.untrained_rows(plain),
        "slices": text.slice_rows(plain),
        "slice_forest": changes.slices(plain),
        "systems": [row[:-1] for row in text.system_rows(plain)],
        "system_forest": changes.systems(plain),
        "others": [(other, text.metric_rows(other)) for other in plain["others"]],
        "statuses": STATUSES,
    }


def _drawn(column: rows.Column, examples: Sequence[rows.Example]) -> dict[str, charts.Figure | None]:
    return {
        "outcomes": changes.outcomes(column, examples),
        "histogram": changes.histogram(column, examples),
        "scatter": changes.scatter(column, examples),
    }


def _gallery(plain: Mapping[str, Any], pictures: Mapping[str, bytes], config: ReportConfig) -> dict[str, Any]:
    """Rows for the script, and the first cards for readers without one."""
    from markupsafe import Markup

    found, examples = rows.columns(plain), plain["examples"]
    images = encoded(wanted(plain, config), pictures)
    embedded = carried(examples, found, images)
    first = rows.in_order(examples, found[0] if found else None)[: rows.FIRST]
    return {
        "columns": found,
        "images": images,
        "cards": [(rows.name(examples[n], n), card(examples[n]), _tone(examples[n], found)) for n in first],
        "limit": embedded.limit,
        "left_out": embedded.left_out,
        "expected": rows.expected,
        "failures": rows.failures,
        "meta": rows.meta,
        "question": rows.question,
        "flag_names": {"cut_off": "cut off", "unparsed": "unreadable", "repeating": "repeats itself"},
        "data": Markup(embedded.data),
    }


def _tone(example: Mapping[str, Any], found: Sequence[rows.Column]) -> tuple[str, str]:
    """(colour, words) of a row's outcome."""
    good = found[0].good(example) if found else None
    if good is None:
        return "bad", "failed"
    return ("good", "B better") if good > 0 else ("bad", "B worse") if good < 0 else ("even", "alike")


def _making(plain: Mapping[str, Any]) -> dict[str, Any]:
    """How it was made and how to make it again."""
    differ, alike = provenance.settings(plain)
    return {
        "curve": curves.learning(plain.get("training")),
        "training": provenance.training(plain),
        "differ": differ,
        "alike": alike,
        "failed": provenance.failed(plain["examples"]),
        "commands": provenance.commands(plain),
        "row_names": provenance.ROW_NAMES,
    }
