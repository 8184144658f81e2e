"""How many swapped captions does `vlmtune data label-errors` find? Writes results.json and README.md.

    OMP_NUM_THREADS=1 python benchmarks/label_errors/run.py

The tiny model is trained on captions of drawn scenes, some of which are swapped among each other. Seeds are fixed.
"""

import json
import platform
import random
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import vlmtune
from vlmtune.data import scenes
from vlmtune.dataset_check.label_errors import rank_label_errors, read_loss_log

HERE = Path(__file__).parent
ROWS, WRONG, EPOCHS = 1000, 50, 3
CONFIG = """\
model: {{name: tiny, device: cpu}}
dataset: {{source: jsonl, path: {folder}, references: [caption], id: id}}
task: {{name: captioning}}
training: {{epochs: {epochs}, batch_size: 16, learning_rate: 2e-3, precision: fp32}}
output: {{dir: {folder}/out}}
"""


def write_rows(folder: Path) -> set[str]:
    """Scenes as JSONL files with images; returns the ids of the train rows whose captions were swapped."""
    config = scenes.Config(references=["caption_0"], id="id")
    wrong: set[str] = set()
    for split, count in (("train", ROWS), ("validation", 40), ("test", 40)):
        rows: list[dict[str, Any]] = []
        for number, row in enumerate(scenes.open(config, split, count)):
            name = f"{split}-{number:04d}.png"
            row.images[0].read().save(folder / name)
            rows.append({"id": row.id, "image": name, "caption": row.truth["references"][0]})
        if split == "train":
            chosen = random.Random(0).sample(range(count), WRONG)
            captions = [rows[n]["caption"] for n in chosen]
            for n, caption in zip(chosen, captions[1:] + captions[:1], strict=True):
                rows[n]["caption"] = caption
            wrong = {rows[n]["id"] for n in chosen}
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return wrong


def by_mean_loss(log: list[dict[str, Any]]) -> set[str]:
    """The naive baseline: rows with the highest mean loss."""
    losses: dict[str, list[float]] = {}
    for entry in log:
        losses.setdefault(entry["id"], []).append(entry["loss"])
    return set(sorted(losses, key=lambda row: -sum(losses[row]) / len(losses[row]))[:WRONG])


def measure() -> dict[str, Any]:
    """Swapped captions among equally many label errors, after each epoch."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        wrong = write_rows(folder)
        file = folder / "c.yaml"
        file.write_text(CONFIG.format(folder=folder, epochs=EPOCHS), encoding="utf-8")
        (adapter,) = vlmtune.train(vlmtune.load_config(str(file)))
        log = read_loss_log(adapter)
    found = {}
    for epochs in range(1, EPOCHS + 1):
        logged = [entry for entry in log if entry["epoch"] < epochs]
        ranked = {one.id for one in rank_label_errors(logged, WRONG)}
        found[epochs] = {"label errors": len(ranked & wrong), "mean loss": len(by_mean_loss(logged) & wrong)}
    return {"rows": ROWS, "wrong": WRONG, "found": found, "chance": WRONG * WRONG / ROWS}


def page(results: dict[str, Any]) -> str:
    """README.md."""
    lines = [
        "# Does `vlmtune data label-errors` find wrong labels?",
        "",
        "<!-- Written by run.py. -->",
        "",
        f"The tiny model on {results['rows']} captioned scenes, {results['wrong']} of them with swapped captions: how",
        f"many of these are among the {results['wrong']} rows ranked highest. Chance would find {results['chance']:g}.",
        "",
        "| epochs | `data label-errors` | highest mean loss |",
        "|---|---|---|",
        *(f"| {epochs} | {one['label errors']} | {one['mean loss']} |" for epochs, one in results["found"].items()),
        "",
        f"Command: `OMP_NUM_THREADS=1 python benchmarks/label_errors/run.py`; {results['machine']}.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure and write."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
    results = measure() | {"machine": f"{platform.machine()}, Python {platform.python_version()}, {packages}"}
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (HERE / "README.md").write_text(page(results), encoding="utf-8")


if __name__ == "__main__":
    main()
