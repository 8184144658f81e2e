"""How many exchanged captions does `vlmtune data suspects` find? Writes results.json and README.md.

    OMP_NUM_THREADS=1 python benchmarks/suspects/run.py

The tiny model learns captions of drawn scenes, some of which have got each other's; what is seeded is the same again.
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
from vlmtune.dataset_check.label_errors import read_visits, suspects

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
    """Scenes as JSONL files with pictures; returns the ids of the train rows whose captions were exchanged."""
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


def by_mean_loss(visits: list[dict[str, Any]]) -> set[str]:
    """The simpler way: rows with the largest mean loss."""
    losses: dict[str, list[float]] = {}
    for visit in visits:
        losses.setdefault(visit["id"], []).append(visit["loss"])
    return set(sorted(losses, key=lambda row: -sum(losses[row]) / len(losses[row]))[:WRONG])


def measure() -> dict[str, Any]:
    """Exchanged captions among as many suspects, after each epoch."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        wrong = write_rows(folder)
        file = folder / "c.yaml"
        file.write_text(CONFIG.format(folder=folder, epochs=EPOCHS), encoding="utf-8")
        (adapter,) = vlmtune.train(vlmtune.load_config(str(file)))
        visits = read_visits(adapter)
    found = {}
    for epochs in range(1, EPOCHS + 1):
        met = [visit for visit in visits if visit["epoch"] < epochs]
        ranked = {one.id for one in suspects(met, WRONG)}
        found[epochs] = {"suspects": len(ranked & wrong), "mean loss": len(by_mean_loss(met) & wrong)}
    return {"rows": ROWS, "wrong": WRONG, "found": found, "chance": WRONG * WRONG / ROWS}


def page(results: dict[str, Any]) -> str:
    """README.md."""
    lines = [
        "# Does `vlmtune data suspects` find wrong labels?",
        "",
        "<!-- Written by run.py. -->",
        "",
        f"{results['rows']} captioned scenes; {results['wrong']} have got each other's captions; the tiny model.",
        f"Of the {results['wrong']} first suspects so many are exchanged ones; chance finds {results['chance']:g}.",
        "",
        "| epochs | suspects | the largest mean losses |",
        "|---|---|---|",
        *(f"| {epochs} | {one['suspects']} | {one['mean loss']} |" for epochs, one in results["found"].items()),
        "",
        f"Command: `OMP_NUM_THREADS=1 python benchmarks/suspects/run.py`; {results['machine']}.",
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
