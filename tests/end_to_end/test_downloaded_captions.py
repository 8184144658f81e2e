"""The classic job from datasets as they are downloaded: `vlmtune init` on the folder, then `vlmtune run`, unedited."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import vlmtune_in_process, warm_vlmtune
from PIL import Image, ImageDraw

COUNT = 40
COLOURS = ("red", "green", "blue", "black")
VIEWS = ("A {} ball .", "One {} circle on white .", "The {} shape is round .", "There is a {} disc .", "It is {} .")


def draw(folder: Path) -> list[list[str]]:
    """Draws the images; the five captions of each."""
    folder.mkdir(parents=True)
    captions = []
    for n in range(COUNT):
        image = Image.new("RGB", (64, 48), "white")
        ImageDraw.Draw(image).ellipse((n, 4, n + 20, 24 + n % 20), fill=COLOURS[n % 4])
        image.save(folder / f"{n:04}_b9c{n}.jpg")
        captions.append([view.format(COLOURS[n % 4]) for view in VIEWS])
    return captions


def kaggle(folder: Path) -> None:
    """Images/ and captions.txt, as in adityajn105/flickr8k."""
    lines = [f"{n:04}_b9c{n}.jpg,{text}\n" for n, texts in enumerate(draw(folder / "Images")) for text in texts]
    (folder / "captions.txt").write_text("image,caption\n" + "".join(lines))


def karpathy(folder: Path) -> None:
    """dataset_flickr8k.json, with the split of each image."""
    splits = ["train"] * 16 + ["restval"] * 4 + ["val"] * 6 + ["test"] * 14
    images = [
        {
            "filename": f"{n:04}_b9c{n}.jpg",
            "imgid": n,
            "split": splits[n],
            "sentids": [5 * n + k for k in range(5)],
            "sentences": [{"raw": text, "tokens": text.split(), "imgid": n} for text in texts],
        }
        for n, texts in enumerate(draw(folder / "Flicker8k_Dataset"))
    ]
    (folder / "dataset_flickr8k.json").write_text(json.dumps({"images": images, "dataset": "flickr8k"}))


SETS = [
    "model.name=tiny", "model.device=cpu", "training.precision=fp32", "training.epochs=1", "inference.max_new_tokens=8",
    "evaluation.statistics.resamples=200", "evaluation.image_control_rows=2",
]  # fmt: skip


@pytest.mark.parametrize("layout", [kaggle, karpathy])
def test_init_and_run_use_all_five_captions(layout: Callable[[Path], None], tmp_path: Path) -> None:
    layout(tmp_path / "flickr8k")
    sets = [word for setting in SETS for word in ("--set", setting)]
    written = vlmtune_in_process("init", "flickr8k", "-o", "job.yaml", "--offline", *sets, cwd=tmp_path)
    assert written.returncode == 0, written.stderr
    ran = warm_vlmtune("run", "job.yaml", "--progress", "none", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    outputs = tmp_path / "outputs" / "flickr8k"
    result = json.loads((outputs / "compare.json").read_text())
    lines = [json.loads(line) for line in next(outputs.glob("base*.jsonl")).read_text().splitlines()]
    assert result["primary"] == "bleu"
    assert all(len(line["references"]) == 5 for line in lines)
    assert len(lines) == (14 if layout is karpathy else result["rows"]["paired"])
