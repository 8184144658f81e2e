"""Prediction files to scores, comparisons and pages: what needs no model, no dataset and no config."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlmtune import plugs
from vlmtune.errors import ConfigError
from vlmtune.files import write_atomic, write_json
from vlmtune.predictions import read
from vlmtune.report import ReportConfig, page
from vlmtune.runs import read_manifest
from vlmtune.scoring import EvaluationConfig
from vlmtune.scoring.comparison import Comparison, Side, compare
from vlmtune.scoring.score import Score, score


def score_file(file: Path, task: str, metrics: Sequence[str] | None = None) -> Score:
    """Score any prediction file with a task's metrics."""
    plug = plugs.load("tasks", task)
    return score(read(file), plug.TASK, plug.Config(), list(metrics) if metrics else None)


def compare_files(before: Path, after: Path, task: str | None = None) -> Comparison:
    """Compare any two prediction files. The task is the one named, else the one in their manifests, else captioning."""
    sides = read_side(before), read_side(after)
    made = [dict(side.origin["task"]) for side in sides if "task" in side.origin]
    chosen = {"name": task} if task else made[-1] if made else {"name": "captioning"}
    plug = plugs.load("tasks", chosen["name"])
    return compare(*sides, plug.TASK, plug.Config(**chosen), EvaluationConfig())


def read_side(file: Path) -> Side:
    """A prediction file with what lies beside it: manifest and controls, None where there are none."""
    controls = file.with_name(f"{file.stem}.controls.json")
    found = json.loads(controls.read_text(encoding="utf-8")) if controls.is_file() else None
    return Side(file.stem, read(file), read_manifest(file), found)


def write_comparison(
    comparison: Comparison, file: Path, sources: Sequence[Path], config: ReportConfig | None = None
) -> None:
    """Write a comparison as JSON or as a page, by the file's ending.

    Args:
        comparison: what to write.
        file: ends in .json or .html.
        sources: the prediction files; their thumbnails lie in `pictures` beside them.
        config: what the page shows.

    Raises:
        ConfigError: another ending.
    """
    plain = comparison.to_json()
    if file.suffix == ".json":
        write_json(file, plain)
    elif file.suffix in (".html", ".htm"):
        write_atomic(file, page.render(plain, _pictures(plain, sources), config or ReportConfig()))
    else:
        raise ConfigError(f"{file}: a report ends in .html or .json")


def _pictures(plain: dict[str, Any], sources: Sequence[Path]) -> dict[str, bytes]:
    """Thumbnails of the compared rows by the hash of their image, as far as they lie beside the prediction files."""
    found: dict[str, bytes] = {}
    for example in plain["examples"]:
        for source in sources:
            picture = source.parent / "pictures" / f"{(example['image'] or '')[:16]}.webp"
            if picture.is_file():
                found[example["image"]] = picture.read_bytes()
    return found
