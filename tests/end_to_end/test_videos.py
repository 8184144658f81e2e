"""From clips to a report: what `vlmtune run` makes of rows with videos, and what a trained model says about a file."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from clips import clip_file
from PIL import Image, ImageDraw

from vlmtune.cli.app import app
from vlmtune.files import read_json


def rolling(number: int) -> Iterator[Image.Image]:
    """A ball that rolls to one side; only the order of the frames says to which."""
    shade, top = 180 + number % 40, 8 + 5 * number % 36
    for n in range(8):
        frame = Image.new("RGB", (64, 64), (shade, shade, 255 - number % 30))
        left = 4 + 6 * n if number % 2 else 46 - 6 * n
        ImageDraw.Draw(frame).ellipse((left, top, left + 12, top + 12), fill="red")
        yield frame


@pytest.fixture
def config(tmp_path: Path) -> Path:
    rows = []
    for n in range(20):
        (tmp_path / f"{n}.mp4").write_bytes(clip_file(list(rolling(n)), 4, crf=10))
        rows.append({"clip": f"{n}.mp4", "caption": f"The ball goes {'right' if n % 2 else 'left'} ."})
    for role, part in (("train", rows[:12]), ("validation", rows[12:16]), ("test", rows[16:])):
        (tmp_path / f"{role}.jsonl").write_text("\n".join(map(json.dumps, part)))
    file = tmp_path / "videos.yaml"
    file.write_text(
        "model: {name: tiny, device: cpu}\n"
        f"dataset: {{source: jsonl, path: {tmp_path}, video: clip, references: [caption]}}\n"
        "task: {name: captioning, prompt: What happens in this video?}\n"
        "training: {precision: fp32, epochs: 2, batch_size: 4}\n"
        "inference: {max_new_tokens: 8}\n"
        f"output: {{dir: {tmp_path / 'out'}}}\n"
    )
    return file


def ran(*arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        app(list(arguments))
    assert not ended.value.code, arguments


def test_from_clips_to_a_report(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran("plan", str(config), "--json", "--progress", "none")
    plan = json.loads(capsys.readouterr().out)
    assert plan["epoch"]["image_share"] > 0.1
    ran("run", str(config), "--json", "--progress", "none")
    out = config.parent / "out"
    lines = [json.loads(line) for line in (out / "lora_predictions.jsonl").read_text().splitlines()]
    assert [line["failure"] for line in lines] == [None] * 4
    assert len({line["image"] for line in lines}) == 4
    assert read_json(out / "compare.json")["rows"]["compared"] == 4
    pictures = [Image.open(file) for file in (out / "thumbnails").iterdir()]
    assert {picture.size for picture in pictures} == {(128, 128)}, "four frames of 64x64 pixels"
    page = (out / "report.html").read_text()
    assert page.count("data:image/webp") >= 4
    controls = read_json(out / "lora_predictions.controls.json")
    assert len(controls["image"]["lines"]) == 4, "answers about the clips of other rows"
