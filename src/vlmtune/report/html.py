"""The comparison as a self-contained HTML page, readable without JavaScript.

The page is a pure function of the comparison and the thumbnails: the same input gives the same bytes. Data can never
become markup: the template escapes it, the script sets it as text, and the Content Security Policy allows only the
page's own script and style. `embed_rows` packs rows as JSON for the script, within limits; `table` has the
others.
"""

import base64
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from vlmtune.report import ReportConfig, charts, provenance, rows, templates, text
from vlmtune.report.rows import MetricColumn, Overview
from vlmtune.scoring.results import ComparisonFile, ExampleResult
from vlmtune.terminal import cleaner, shortened

_IMAGE_BYTES = 12_000_000
_ROW_BYTES = 10_000_000
"""Most bytes of images and of rows; a whole page stays under 25 MB."""

MOST_ROWS = 5_000
"""Most rows of a page, which a browser opens and filters at once."""

_LIMITS = (100_000, 20_000, 5_000, 2_000, 1_000, 500, 200)
"""Limits on the characters of a text; the first one with which all rows fit is used."""

FOLDER = Path(__file__).parent
SCRIPTS = ("worddiff.js", "gallery.js", "page.js")
"""Concatenated to the page's one script, in this order."""

STATUS_COLOURS = {"improved": "good", "worse": "bad", "no_difference": "even", "inconclusive": "unknown"}
FLAG_LABELS = {"cut_off": "cut off", "unparsed": "unparseable", "repeating": "repetitive"}


@dataclass(frozen=True, slots=True)
class Page:
    """The page as HTML, and whether it has all rows in full."""

    text: str
    complete: bool


def render(
    comparison: ComparisonFile,
    thumbnails: Mapping[str, bytes],
    config: ReportConfig,
    table: str = "compare.json",
    seen: Overview | None = None,
) -> Page:
    """The page.

    Args:
        comparison: as `Comparison.to_json` gives it, with its examples.
        thumbnails: WebP images by the hash of the original; `rows.images_shown` says which are used.
        config: what is shown.
        table: the file that has all rows in full, named where the page has not.
        seen: the overview of its rows.
    """
    seen = seen or rows.overview(comparison)
    gallery = _gallery(comparison, thumbnails, config, seen)
    text_of_page = templates.render(
        "page.html.jinja",
        [],
        scripts=[FOLDER / name for name in SCRIPTS],
        filters={"fixed": text.fixed, "signed": text.signed, "interval": text.interval},
        comparison=comparison,
        colour=STATUS_COLOURS[comparison["status"]],
        table=table,
        **_numbers(comparison, seen),
        **gallery,
        **_provenance(comparison, seen),
    )
    return Page(text_of_page, not gallery["left_out"] and gallery["limit"] is None)


def _numbers(comparison: ComparisonFile, seen: Overview) -> dict[str, Any]:
    """Tables, sentences and charts of the scores."""
    return {
        "primary": comparison["metrics"][0] if comparison["metrics"] else None,
        "precision": text.precision,
        "level": f"{comparison['statistics']['confidence']:.0%}",
        "metrics": text.metric_rows(comparison),
        "forest": charts.forest(comparison),
        "notes": text.metric_notes(comparison),
        "prompt_baselines": text.prompt_baseline_rows(comparison),
        "additional_sets": text.additional_set_rows(comparison),
        "answers": text.answer_rows(comparison),
        "controls": [line.split(": ", 1) for line in text.control_lines(comparison)],
        "judge": [line.partition(": ")[2] for line in text.judge_lines(comparison)],
        "changes": [
            (column, charts.outcomes(column), charts.histogram(column, seen.scored), charts.scatter(column))
            for column in seen.columns
        ],
        "confidence": [line.partition(": ")[2] for line in text.confidence_lines(comparison)],
        "score_by_confidence": charts.score_by_confidence(comparison),
        "slices": text.slice_rows(comparison),
        "slice_forest": charts.slices(comparison),
        "systems": [row[:-1] for row in text.system_rows(comparison)],
        "system_forest": charts.systems(comparison),
        "others": [(other, text.metric_rows(other)) for other in comparison["others"]],
        "status_colours": STATUS_COLOURS,
    }


def _gallery(
    comparison: ComparisonFile, thumbnails: Mapping[str, bytes], config: ReportConfig, seen: Overview
) -> dict[str, Any]:
    """Rows as data for the script, and the first cards as HTML for readers without JavaScript."""
    from markupsafe import Markup

    columns, examples = seen.columns, comparison["examples"]
    images = embed_images(rows.images_shown(comparison, config.examples, seen), thumbnails)
    contradictions = comparison["contradictions"]
    # Where letters are drawn differently by language.
    spoken = seen.language if seen.language in ("zh", "ja", "ko") else None
    embedded = embed_rows(examples, columns, images, spoken)
    primary = columns[0] if columns else None
    first = rows.by_change(len(examples), primary)[: rows.FIRST_CARDS]
    return {
        "columns": columns,
        "images": images,
        "contradictions": contradictions[: rows.CONTRADICTIONS],
        "more_contradictions": max(0, len(contradictions) - rows.CONTRADICTIONS),
        "cards": [(rows.label(examples[n], n), examples[n], _outcome(primary, n)) for n in first],
        "limit": embedded.limit,
        "left_out": embedded.left_out,
        "expected": rows.expected,
        "parted": rows.parted,
        "failures": rows.failures,
        "metadata": rows.metadata,
        "question": rows.question,
        "flag_labels": FLAG_LABELS,
        "data": Markup(embedded.data),
        "own_language": Markup(f' lang="{spoken}"' if spoken else ""),
    }


def _outcome(primary: MetricColumn | None, number: int) -> tuple[str, str]:
    """(colour, label) of a row's outcome."""
    gain = math.nan if primary is None else primary.gains[number]
    if math.isnan(gain):
        return "bad", "failed"
    return ("good", "B better") if gain > 0 else ("bad", "B worse") if gain < 0 else ("even", "tie")


def _provenance(comparison: ComparisonFile, seen: Overview) -> dict[str, Any]:
    """How the comparison was produced, and how to reproduce it."""
    different, same = provenance.settings(comparison)
    return {
        "curve": charts.learning_curve(comparison["training"]),
        "training": provenance.training(comparison),
        "different": different,
        "same": same,
        "failed": provenance.failed(comparison["examples"], seen.failed),
        "commands": provenance.commands(comparison),
        "row_counts": [(provenance.ROW_LABELS.get(key, key), count) for key, count in comparison["rows"].items()],
    }


@dataclass(frozen=True, slots=True)
class EmbeddedRows:
    """Rows and images as the JSON that the page's script reads.

    If not everything fits, `limit` is the length to which texts were shortened, `left_out` the number of missing rows.
    """

    data: str
    limit: int | None
    left_out: int


def embed_images(hashes: Sequence[str], thumbnails: Mapping[str, bytes]) -> dict[str, str]:
    """Thumbnails as base64 by hash, in the given order until the page would get too large."""
    from markupsafe import Markup

    embedded: dict[str, str] = {}
    room = _IMAGE_BYTES
    for image in hashes:
        if image in thumbnails:
            data = Markup(base64.b64encode(thumbnails[image]).decode())
            room -= len(data)
            if room < 0:
                break
            embedded[image] = data
    return embedded


def embed_rows(
    examples: Sequence[ExampleResult],
    columns: Sequence[MetricColumn],
    images: Mapping[str, str],
    spoken: str | None = None,
) -> EmbeddedRows:
    """The `MOST_ROWS` rows that changed most, with shortened texts if need be; of those as many as fit."""
    numbers, safe = {image: n for n, image in enumerate(images)}, cleaner()
    kept = rows.by_change(len(examples), columns[0] if columns else None)[:MOST_ROWS]
    compact = [_each(safe, _compact(n, examples[n], columns, numbers)) for n in kept]
    packed, limit = [_json(row) for row in compact], None
    for shorter in _LIMITS:
        if _size(packed) <= _ROW_BYTES:
            break
        limit = shorter
        packed = [_json(_shortened(row, limit)) for row in compact]
    ends = accumulate(len(row.encode()) + 1 for row in packed)
    fitting = sum(end <= _ROW_BYTES for end in ends)
    in_order = [row for _, row in sorted(zip(kept[:fitting], packed, strict=False))]
    metrics = [{"name": safe(c.name), "sign": 1 if c.higher_is_better else -1, "digits": c.digits} for c in columns]
    parts = {
        "metrics": _json(metrics),
        "flags": _json(FLAG_LABELS),
        "language": _json(spoken),
        "rows": f"[{','.join(in_order)}]",
        "images": _json([*images.values()]),
    }
    data = "{" + ",".join(f'"{key}":{value}' for key, value in parts.items()) + "}"
    return EmbeddedRows(data, limit, len(examples) - fitting)


def _compact(
    number: int, example: ExampleResult, columns: Sequence[MetricColumn], images: Mapping[str, int]
) -> dict[str, Any]:
    """A row under one-letter keys; absent values are left out.

    i: id; a, b: answers; r: expected texts; s: scores of A and B by metric; d: changes by metric; f: flags; h: image
    number; e: failures; x: boxes; m: metadata; q: question; t: thoughts.
    """
    sides = (example["a"], example["b"])
    thoughts, answers = zip(*((None, None) if text is None else rows.parted(text) for text in sides), strict=True)
    row: dict[str, Any] = {"i": rows.label(example, number), "a": answers[0], "b": answers[1]}
    row["r"] = rows.expected(example)
    if (scores := example["scores"]) is not None:
        row["s"] = [[scores[side][column.name] for column in columns] for side in ("a", "b")]
    if (deltas := example["deltas"]) is not None:
        row["d"] = [deltas[column.name] for column in columns]
    optional = {
        "f": [example["flags"]["a"], example["flags"]["b"]] if any(example["flags"].values()) else None,
        "t": list(thoughts) if any(thoughts) else None,
        "h": images.get(example["image"] or ""),
        "e": rows.failures(example),
        "x": example.get("boxes"),
        "m": rows.metadata(example),
        "q": rows.question(example),
    }
    return row | {key: value for key, value in optional.items() if value is not None and value != []}


def _shortened(row: Mapping[str, Any], limit: int) -> dict[str, Any]:
    """A row with texts of at most `limit` characters. Ids stay whole."""
    return {
        key: value if key in ("i", "f") else _each(lambda text: shortened(text, limit), value)
        for key, value in row.items()
    }


def _each(change: Callable[[str], str], value: Any) -> Any:
    """A value in which every text is changed, keys of objects included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list | tuple):
        return [_each(change, item) for item in value]
    return {change(key): _each(change, item) for key, item in value.items()} if isinstance(value, dict) else value


def _size(packed: Sequence[str]) -> int:
    return sum(len(row.encode()) + 1 for row in packed)


def _json(value: Any) -> str:
    """JSON without the characters that could end a script element, or a line in an old JavaScript engine."""
    data = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for letter in "<>&\u2028\u2029":
        data = data.replace(letter, f"\\u{ord(letter):04x}")
    return data
