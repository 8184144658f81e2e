"""Datasets as they lie: `init`, `config check` and `data check` on generated layouts, and what `init` asked.

    OMP_NUM_THREADS=1 python benchmarks/layouts/run.py        # writes results.json and README.md

Edits are the changes to the written config that its use needed: none is ever made, so a layout that needs one fails.
"""

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from layouts import LAYOUTS, Layout

from vlmtune import registry, run_layout
from vlmtune.config import config_json, load, parse_overrides, refuse_evaluated_training_rows
from vlmtune.dataset_check.runner import DatasetCheck
from vlmtune.errors import VlmtuneError
from vlmtune.modeling.loading import find_checkpoint
from vlmtune.progress import Progress, Silent
from vlmtune.scaffold.questions import Undecided
from vlmtune.scaffold.writer import write
from vlmtune.signals import StopRequest

HERE = Path(__file__).parent


def init(layout: Layout, folder: Path, file: Path) -> str:
    """Write a config; returns the question that `init` asked, "" for none."""
    sets = ["model.name=tiny", f"output.dir={folder}-out"]
    try:
        write(str(folder), file, parse_overrides(sets))
    except Undecided as undecided:
        answer = tuple(each.replace("{place}", str(folder.parent)) for each in layout.answer)
        if answer not in [option.sets for option in undecided.options]:
            raise
        write(str(folder), file, parse_overrides([*sets, *answer]))
        return undecided.question
    return ""


def wrong_guesses(layout: Layout, config: dict[str, Any]) -> list[str]:
    """Keys of the config that are not as they must be."""
    wrong = []
    for key, expected in layout.found.items():
        value: Any = config
        for step in key.split("."):
            value = value.get(step) if isinstance(value, dict) else None
        if value != expected:
            wrong.append(f"{key} is {value!r}, not {expected!r}")
    return wrong


def check(file: Path) -> dict[str, int]:
    """Findings of `data check` by kind, after `config check`."""
    config = load(str(file)).config
    refuse_evaluated_training_rows(config.dataset, config.evaluation.split)
    folder = Path(config.output.dir)
    folder.mkdir()
    task = registry.load("tasks", config.task.name).TASK
    checkpoint, index = find_checkpoint(config.model), run_layout.image_index_path(folder)
    index.parent.mkdir(parents=True, exist_ok=True)
    result, _ = DatasetCheck(config, task, checkpoint, index, Progress(Silent()), StopRequest()).run(
        folder / "none.json"
    )
    return dict(Counter(finding["kind"] for finding in result["findings"]))


def measure(layout: Layout, place: Path) -> dict[str, Any]:
    """The row of the table for one layout."""
    folder, file = place / "data", place / "config.yaml"
    layout.write(folder)
    row: dict[str, Any] = {"layout": layout.name, "asked": "", "wrong": [], "findings": {}, "error": ""}
    try:
        row["asked"] = init(layout, folder, file).replace(str(place), "")
        row["wrong"] = wrong_guesses(layout, config_json(load(str(file)).config))
        row["findings"] = check(file)
    except VlmtuneError as error:
        row["error"] = str(error).replace(str(place), "")
    if bool(row["asked"]) != bool(layout.answer):
        row["wrong"].append("asked" if row["asked"] else "did not ask")
    return row


def page(rows: list[dict[str, Any]]) -> str:
    """README.md."""
    table = []
    for row in rows:
        findings = ", ".join(f"{count} {kind}" for kind, count in row["findings"].items()) or "none"
        asked = row["asked"].replace("|", "\\|") or "-"
        guesses = "; ".join([*row["wrong"], *([row["error"]] if row["error"] else [])]) or "right"
        table.append(f"| {row['layout']} | 0 | {guesses} | {findings} | {asked} |")
    done = sum(not row["wrong"] and not row["error"] for row in rows)
    return "\n".join(
        [
            "# Datasets as they lie",
            "",
            "<!-- Written by run.py. -->",
            "",
            f"{len(rows)} layouts in which people have datasets, generated with drawn pictures. `vlmtune init` on the",
            "folder, then `config check` and `data check`; nothing is edited in between. Where `init` asked, one of",
            f"the options that it lists was chosen. {done} of {len(rows)} are read as they must be.",
            "",
            "| layout | edits | guesses | findings of `data check` | `init` asked |",
            "|---|---|---|---|---|",
            *table,
            "",
            "Command: `OMP_NUM_THREADS=1 python benchmarks/layouts/run.py`.",
            "",
        ]
    )


def main() -> None:
    """Measure all layouts and write the results."""
    rows = []
    for layout in LAYOUTS:
        with tempfile.TemporaryDirectory() as place:
            rows.append(measure(layout, Path(place)))
        print(rows[-1], flush=True)
    (HERE / "results.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    (HERE / "README.md").write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
