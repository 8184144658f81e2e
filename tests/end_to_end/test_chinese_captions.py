"""A captioning run in Chinese: the metrics, lengths and report mean something to a reader of Chinese."""

import json
from pathlib import Path

from commands import warm_vlmtune
from PIL import Image, ImageDraw

COLOURS = {"红色": "#d03030", "蓝色": "#3050d0", "绿色": "#30a040"}
SHAPES = {"圆形": "ellipse", "方形": "rectangle"}

CONFIG = """
model: {name: tiny, device: cpu}
dataset:
  source: jsonl
  path: .
  splits: {train: train.jsonl, validation: validation.jsonl, test: test.jsonl}
  image: image
  references: [references]
  id: id
task: {name: captioning, prompt: 用一句话描述这张图片。}
training: {precision: fp32, epochs: 4, learning_rate: 0.002}
inference: {max_new_tokens: 48}
evaluation:
  image_control_rows: 4
  baselines: [{name: brief, length_instruction: true}]
  statistics: {resamples: 500}
"""


def draw(folder: Path, role: str, count: int) -> None:
    """Images of one coloured shape, and captions of 15 characters about them."""
    rows = []
    for n in range(count):
        colour, shape = list(COLOURS)[n % 3], list(SHAPES)[n % 2]
        image = Image.new("RGB", (64, 64), "white")
        corner = 4 + 3 * n % 17
        getattr(ImageDraw.Draw(image), SHAPES[shape])((corner, corner, corner + 36, corner + 36), fill=COLOURS[colour])
        image.save(folder / f"{role}-{n}.png")
        references = [f"白色的背景上有一个{colour}的{shape}。"]
        rows.append({"id": f"{role}-{n}", "image": f"{role}-{n}.png", "references": references})
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / f"{role}.jsonl").write_text(lines, encoding="utf-8")


def test_a_run_in_chinese_is_scored_and_reported_by_character(tmp_path: Path) -> None:
    for role, count in (("train", 24), ("validation", 4), ("test", 24)):
        draw(tmp_path, role, count)
    (tmp_path / "zh.yaml").write_text(CONFIG, encoding="utf-8")
    ran = warm_vlmtune("run", "zh.yaml", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    outputs = tmp_path / "outputs"
    result = json.loads((outputs / "compare.json").read_text(encoding="utf-8"))
    assert result["primary"] == "bleu"
    assert "tok:zh" in result["metrics"][0]["signature"]
    assert result["lengths"]["unit"] == "characters"
    assert result["lengths"]["references"]["median"] == 15
    assert not any("even the references" in warning for warning in result["warnings"])
    assert "a change larger than 0.0000" not in result["verdict"]
    (asked,) = (one for one in result["prompt_baselines"] if one["prompt_baseline"] == "brief")
    assert asked["rows"]["compared"] == 24
    facts = json.loads((outputs / "baseline_predictions.brief.manifest.json").read_text(encoding="utf-8"))
    assert facts["origin"]["prompt_baseline"]["characters"] == 15
    page = (outputs / "report.html").read_text(encoding="utf-8")
    assert "characters, median" in page
    assert "words, median" not in page
    assert "白色的背景上有一个红色的圆形。" in page
    assert '<li dir="auto" lang="zh">白色' in page, "not drawn with Japanese letter forms"
