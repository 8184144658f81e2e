"""A comparison as one page: a single file that needs no network and no other file, and reads without its script.

A pure function of the comparison and the pictures: the same input gives the same bytes. Text of rows is only ever text:
the template escapes it, the script sets it as text, and the page's policy runs nothing but the script and style it
was made with.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmtune.report import ReportConfig, changes, charts, coverage, curves, payload, provenance, rows, sheets, text

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
    return sheets.render(
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
    images = payload.encoded(wanted(plain, config), pictures)
    carried = payload.carried(examples, found, images)
    first = rows.in_order(examples, found[0] if found else None)[: rows.FIRST]
    return {
        "columns": found,
        "images": images,
        "cards": [(rows.name(examples[n], n), payload.card(examples[n]), _tone(examples[n], found)) for n in first],
        "limit": carried.limit,
        "left_out": carried.left_out,
        "expected": rows.expected,
        "failures": rows.failures,
        "meta": rows.meta,
        "question": rows.question,
        "flag_names": {"cut_off": "cut off", "unparsed": "unreadable", "repeating": "repeats itself"},
        "data": Markup(carried.data),
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
