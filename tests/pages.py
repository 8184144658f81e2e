"""Comparisons for report tests, with every kind of metric and row, as `Comparison.to_json` returns them."""

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from builders import QUICK, judged, lines, make_image

from vlmtune.images import thumbnail
from vlmtune.metrics.boxes import acc_at_05, mean_iou
from vlmtune.metrics.labels import accuracy, macro_f1
from vlmtune.predictions import Line
from vlmtune.scoring.comparison import compare
from vlmtune.scoring.pairing import PredictionFile
from vlmtune.tasks import Task, captioning
from vlmtune.types import Unparsed

HOSTILE = [
    "<script>document.title='ran'</script>",
    '"><img src=x onerror="document.title=\'ran\'">',
    "</script><script>document.title='ran'</script>",
    "<!--<script>",
    "{{ 7 * 7 }} {% raw %} ${7*7}",
    "</style><b>bold</b>",
    "&lt;b&gt; &amp;amp;",
    "\u202eright to left\u202c \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 family, \U0001f1e9\U0001f1ea flag, e\u0301 accent",
    "\u4e00\u53ea\u72d7\u5728\u8349\u5730\u4e0a\u5954\u8dd1",
    "line one\nline two\r\nline\u2028three\u2029four\ttab",
    '=HYPERLINK("http://example.org")',
    "C:\\path\\u003c `code` 'single' \"double\"",
    "long " + "word " * 20_000,
]
THUMBNAILS = {"ff": thumbnail(make_image(96, 72))}


def failing(some: Sequence[Line], every: int) -> list[Line]:
    """The same lines, with every n-th one lacking an answer."""
    failure = {"stage": "engine", "reason": "out of memory"}
    return [replace(line, prediction=None, failure=failure) if n % every == 0 else line for n, line in enumerate(some)]


def with_image(some: Sequence[Line]) -> list[Line]:
    return [replace(line, image="ff") for line in some]


def hostile() -> dict[str, Any]:
    """Every hostile text as id, answer, reference and metadata."""
    rows = [
        Line(f"{text[:300]}{n}", text, {"references": [text, "plain"]}, meta={"note": text[:300]})
        for n, text in enumerate(HOSTILE)
    ]
    other = [replace(line, prediction=f"other {line.prediction}") for line in rows]
    plain = judged([*rows, *lines(20, 0.5)], [*other, *lines(20, 0.2)]).to_json()
    plain["warnings"] = [text[:300] for text in HOSTILE]
    plain["names"] = {"a": HOSTILE[0], "b": HOSTILE[2]}
    plain["settings"] = {"a": {HOSTILE[1]: HOSTILE[0]}, "b": {HOSTILE[1]: HOSTILE[2], "x": {"y": HOSTILE[4]}}}
    plain["slices"] = [
        {"column": text[:300], "value": text[:300], "rows": 9, "a": 0.5, "b": 0.6, "delta": 0.1, "ci": [0.0, 0.2]}
        for text in HOSTILE
    ]
    plain["training"] = {"note": HOSTILE[0], "curve": curve(20)}
    plain["examples"][0]["failure"] = {"a": None, "b": {"stage": HOSTILE[0], "reason": HOSTILE[1]}}
    return plain


def captions(count: int = 60, a: float = 0.6, b: float = 0.2) -> dict[str, Any]:
    return judged(lines(count, a, extra=9), with_image(lines(count, b))).to_json()


def labelled(count: int = 80) -> dict[str, Any]:
    """Right or wrong answers, some unparseable, with a corpus-level metric, slices, further runs and a curve."""
    names = ["cat", "dog", "\u72d7"]
    task = Task(captioning.prompt, captioning.target, _label, (accuracy, macro_f1))
    rng = random.Random(1)
    truth = [
        {"references": [], "label": (own := rng.choice(names)), "class": {"label": own, "labels": names}}
        for _ in range(count)
    ]

    def side(right: float) -> list[Line]:
        made = []
        for n, own in enumerate(truth):
            said = own["label"] if rng.random() < right else rng.choice([*names, "?"])
            unread = "not a label" if said == "?" else None
            made.append(
                Line(
                    f"row {n}",
                    said,
                    own,
                    unparsed=unread,
                    finish_reason="stop",
                    meta={"light": "day" if n % 3 else "night"},
                )
            )
        return made

    a, b, c = side(0.5), failing(side(0.8), 40), side(0.6)
    settings = {"model": {"name": "tiny"}, "task": {"name": "classification"}, "inference": {"seed": 42}}
    manifests = [{"mock": False, "origin": {**settings, "adapter": adapter}} for adapter in (None, "56e7f7648d9946be")]
    sides = PredictionFile("base", a, manifests[0]), PredictionFile("tuned", b, manifests[1])
    plain = compare(
        *sides, task, captioning.Config(), QUICK.model_copy(update={"slices": ["light"]}), [PredictionFile("other", c)]
    ).to_json()
    plain["training"] = {"chosen_step": 40, "steps": 60, "curve": curve(60)}
    return plain


def _label(_: Any, text: str) -> str | Unparsed:
    return Unparsed("not a label") if text == "?" else text


def curve(steps: int) -> list[dict[str, Any]]:
    points: list[dict[str, Any]] = []
    for step in range(5, steps + 1, 5):
        points.append({"step": step, "loss": 4 / (1 + step / 10) + (step * 7 % 5) / 20})
        if step % 20 == 0:
            points.append({"step": step, "validation_loss": 4.2 / (1 + step / 10)})
    return points


def boxed(count: int = 40) -> dict[str, Any]:
    """Rows whose box is right, wrong or missing."""
    task = Task(captioning.prompt, captioning.target, lambda _, text: json.loads(text), (acc_at_05, mean_iou))
    rng = random.Random(2)

    def side(off: int) -> list[Line]:
        made = []
        for n in range(count):
            own = random.Random(n)
            left, top = own.randint(50, 400), own.randint(50, 400)
            box = [left, top, left + own.randint(200, 500), top + own.randint(200, 500)]
            said = [[edge + rng.randint(-off, off) for edge in box]] if n % 9 else []
            truth = {"references": [], "boxes": [box], "image_size": [96, 72], "question": f"where is thing {n}?"}
            made.append(Line(f"row {n}", json.dumps(said), truth, image="ff"))
        return made

    return compare(
        PredictionFile("base", side(300)), PredictionFile("tuned", side(60)), task, captioning.Config(), QUICK
    ).to_json()


def endings() -> dict[str, dict[str, Any]]:
    """Comparisons that are empty or nearly so."""
    good = lines(30, 0.1)
    return {
        "one row": judged(good[:1], good[:1]).to_json(),
        "all ties": judged(good, good).to_json(),
        "one side all failed": judged(good, failing(good, 1)).to_json(),
        "no rows": {**judged(good, failing(good, 1)).to_json(), "examples": []},
    }
