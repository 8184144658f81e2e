"""`vlmtune data show` and `data stats`: they describe what training and evaluation read."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from builders import encoded, make_image
from PIL import Image

from vlmtune import registry
from vlmtune.cli.app import app
from vlmtune.config import load
from vlmtune.errors import ConfigError, DataError
from vlmtune.processing.encoder import Encoder
from vlmtune.training.dataset import TrainingExamples
from vlmtune.training.sampler import Sample

CONFIG = """\
model: {{name: tiny, device: cpu}}
dataset:
  source: jsonl
  path: {folder}
  messages: messages
  images: images
  target: each
  references: [captions]
  splits: {{train: t.jsonl, validation: t.jsonl, test: t.jsonl}}
task: {{name: captioning}}
"""
ESCAPE = "\x1b]0;owned\x07"


@pytest.fixture
def config(tmp_path: Path) -> str:
    """Two images, one with EXIF rotation, multi-byte characters, an escape sequence; and a bad row."""
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "show-a.jpg").write_bytes(encoded(make_image(160, 96, 1), "JPEG", exif=exif))
    (tmp_path / "show-b.png").write_bytes(encoded(make_image(64, 96, 2)))
    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": f"Was ändert sich? {ESCAPE}"}]
    row = {
        "messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "日本語 🙂 ."}],
        "images": ["show-a.jpg", "show-b.png"],
        "captions": ["日本語 🙂 .", "a ball ."],
    }
    (tmp_path / "t.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({**row, "captions": [" "]}) + "\n")
    file = tmp_path / "c.yaml"
    file.write_text(CONFIG.format(folder=tmp_path))
    return str(file)


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    app(["data", *words], standalone_mode=False)
    return capsys.readouterr().out


def test_an_example_is_shown_as_training_encodes_it(
    config: str, encoder: Encoder, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = json.loads(said(capsys, "show", config, "--row", "0", "--json"))
    made = load(config).config
    rows = registry.load("data", "jsonl").open(
        made.dataset.model_copy(update={"max_bad_fraction": 1.0}), "t.jsonl", None
    )
    lessons = TrainingExamples(rows, registry.load("tasks", "captioning").TASK, made.task, encoder, made.training)
    assert [each["target"] for each in shown["encoded"]] == ["日本語 🙂 .", "a ball ."]
    for choice, each in enumerate(shown["encoded"]):
        truth = lessons.encode(Sample(0, choice, 0))
        ids: list[int] = []
        trained: list[bool] = []
        for span in each["spans"]:
            assert span["start"] == len(ids)
            own = [encoder.renderer.image_id] * (span["end"] - span["start"])
            if span["pieces"] is not None:
                own = [token for piece in span["pieces"] for token in piece["ids"]]
                assert "".join(piece["text"] for piece in span["pieces"]) == span["text"]
            ids += own
            trained += [span["kind"] == "supervised"] * len(own)
        assert (tuple(ids), tuple(trained)) == (truth.rendered.ids, truth.rendered.loss_mask)
        grids = [one.grid for one in truth.images]
        assert [tuple(one["grid"]) for one in shown["images"]] == grids
        places = encoder.checkpoint.family.positions(
            ids, encoder.renderer.vision_ids, truth.blocks, encoder.image_processor.limits.merge
        )
        for span in each["spans"]:
            own = places[:, span["start"] : span["end"]]
            assert list(span["positions"].values()) == np.stack([own.min(axis=1), own.max(axis=1)], 1).tolist()
    assert [one["size"] for one in shown["images"]] == [[96, 160], [64, 96]]
    assert sum(span["kind"] == "image" for span in shown["encoded"][0]["spans"]) == 2


def test_supervised_text_is_marked_and_control_characters_escaped(
    config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = said(capsys, "show", config, "--row", "0")
    assert "[[日本語 🙂 .<|im_end|>]]" in text
    assert "<image 10x6 = 15 tokens>" in text
    assert "\x1b" not in text
    assert "reference: a ball ." in text
    coloured = said(capsys, "show", config, "--row", "0", "--color")
    assert "\x1b[1;32m日本語 🙂 .<|im_end|>\x1b[0m" in coloured
    assert ESCAPE not in coloured


def test_a_test_row_is_shown_as_a_prompt(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = json.loads(said(capsys, "show", config, "--row", "0", "--role", "test", "--json"))
    (prompt,) = shown["encoded"]
    assert (prompt["target"], prompt["supervised"]) == (None, 0)
    assert prompt["spans"][-1]["text"].endswith("<|im_start|>assistant\n")


def test_missing_and_bad_rows_are_named(config: str) -> None:
    with pytest.raises(ConfigError, match="counts from 0 to 1 in the train rows"):
        app(["data", "show", config, "--row", "2"], standalone_mode=False)
    with pytest.raises(typer.BadParameter, match="'select' is not one of 'train', 'validation', 'test'"):
        app(["data", "show", config, "--row", "0", "--role", "select"], standalone_mode=False)
    with pytest.raises(DataError, match="row 1: column 'captions' is empty"):
        app(["data", "show", config, "--row", "1"], standalone_mode=False)


def test_the_page_of_a_row_contains_its_resized_images(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said(capsys, "show", config, "--row", "0", "-o", str(tmp_path / "row.html"))
    page = (tmp_path / "row.html").read_text(encoding="utf-8")
    assert page.count("data:image/webp;base64,") == 2
    assert "resized to 96x160" in page
    assert "<script" not in page


def test_stats_come_from_texts_and_image_headers(
    config: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_pixels(image: Any) -> None:
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr("PIL.JpegImagePlugin.JpegImageFile.load", load_pixels)
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load_pixels)
    found = json.loads(said(capsys, "stats", config, "--json", "--progress", "none"))
    train, _, test = found["roles"]
    assert (train["rows"], train["bad"]) == (2, 1)
    assert "is empty" in train["first_bad"][0]
    assert train["references_per_row"]["max"] == 2
    assert (train["words_per_reference"]["min"], train["words_per_reference"]["max"]) == (3, 3)
    assert (train["width"]["min"], train["width"]["max"]) == (64, 96)
    assert test["supervised_fraction"] == 0
    shown = json.loads(said(capsys, "show", config, "--row", "0", "--json"))
    assert train["tokens"]["max"] == max(each["tokens"] for each in shown["encoded"])
    assert "words per reference" in said(capsys, "stats", config, "--progress", "none")


def test_stats_count_labels_and_repeated_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for n in range(2):
        (tmp_path / f"stats-{n}.png").write_bytes(encoded(make_image(64, 64, n)))
    rows = [
        {"image": f"stats-{n}.png", "label": label} for n, label in ((0, "day"), (0, "night"), (1, "day"), (1, "?"))
    ]
    for name in ("train", "validation", "test"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = tmp_path / "c.yaml"
    file.write_text(
        f"model: {{name: tiny}}\ndataset: {{source: jsonl, path: {tmp_path}, references: [label]}}\n"
        "task: {name: classification, labels: [day, night]}\n"
    )
    train = json.loads(said(capsys, "stats", str(file), "--json", "--progress", "none"))["roles"][0]
    assert train["labels"] == {"day": 2, "night": 1}
    assert train["bad"] == 1
    assert train["repeated_image_fraction"] == pytest.approx(2 / 3)
