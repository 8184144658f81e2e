"""The demo: an improvement that is real, a page that says so, and nothing done twice."""

import json
from pathlib import Path
from typing import Any

import pytest
from commands import ROOT, Ended, warm_vlmtune
from json_schema import fits

Demo = tuple[Path, Ended]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    folder = tmp_path_factory.mktemp("demo")
    return folder, warm_vlmtune("demo", cwd=folder)


@pytest.fixture(scope="module")
def comparison(demo: Demo) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads((demo[0] / "outputs/demo/compare.json").read_text())
    return plain


def test_it_ends_with_a_verdict_and_the_next_command(demo: Demo) -> None:
    assert demo[1].returncode == 0, demo[1].stderr
    assert demo[1].stdout.startswith("Improved: bleu 0.")
    assert demo[1].stderr.splitlines()[-1] == "next: open outputs/demo/report.html"


def test_what_it_writes_fits_the_schemas(demo: Demo, comparison: dict[str, Any]) -> None:
    whole, line_schema = (
        json.loads((ROOT / f"schemas/{name}.schema.json").read_text()) for name in ("comparison", "prediction")
    )
    assert fits(comparison, whole, only_known=True)
    for name in ("baseline", "lora"):
        written = (demo[0] / f"outputs/demo/{name}_predictions.jsonl").read_text().splitlines()
        assert all(fits(json.loads(line), line_schema) for line in written)


def test_the_improvement_is_real(comparison: dict[str, Any]) -> None:
    (bleu,) = (metric for metric in comparison["metrics"] if metric["name"] == "bleu")
    assert bleu["ci"][0] > 0
    assert comparison["controls"]["length"]["ci"][0] > 0, "shorter answers alone do not explain it"
    assert comparison["shares"]["b"]["ended"] >= 0.95
    assert comparison["controls"]["image"]["b"]["kept"] < 0.4
    assert comparison["controls"]["adapter_delta"]["max_logit_difference"] > 0.1


def test_page_and_screen_say_all_three(demo: Demo, comparison: dict[str, Any]) -> None:
    page = (demo[0] / "outputs/demo/report.html").read_text()
    image = comparison["controls"]["image"]["b"]
    for text in (page, demo[1].stdout):
        assert comparison["verdict"] in text
        assert f"{comparison['shares']['b']['ended']:.1%}" in text
        assert f"{image['shuffled']:.4f}, {image['kept']:.0%} of it" in text
    assert page.count("data:image/webp;base64,") >= 20, "the first rows show their picture without the script"


def test_a_second_run_does_nothing_again(demo: Demo) -> None:
    files = [demo[0] / "outputs/demo" / name for name in ("baseline_predictions.jsonl", "lora_predictions.jsonl")]
    files.append(demo[0] / "outputs/demo/lora/adapter_model.safetensors")
    before = [file.stat().st_mtime_ns for file in files]
    again = warm_vlmtune("demo", cwd=demo[0])
    assert again.returncode == 0, again.stderr
    assert again.stdout == demo[1].stdout
    assert [file.stat().st_mtime_ns for file in files] == before
    assert again.stderr.count("is finished") == 3


def test_its_adapter_gives_the_same_tokens_in_plain_transformers_and_peft(demo: Demo) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from vlmtune.data import scenes
    from vlmtune.modeling.loading import ModelConfig, find_checkpoint

    base = str(find_checkpoint(ModelConfig(name="tiny")).folder)
    processor = AutoProcessor.from_pretrained(base)
    model = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, str(demo[0] / "outputs/demo/lora")).eval()
    lines = [json.loads(line) for line in (demo[0] / "outputs/demo/lora_predictions.jsonl").read_text().splitlines()]
    rows = {row.id: row for row in scenes.open(scenes.Config(id="id"), "test", len(lines))}
    prompt = "Describe this image in one concise, informative sentence."
    for line in lines[:10]:
        content = [{"type": "image", "image": rows[line["id"]].images[0].read()}, {"type": "text", "text": prompt}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
        )
        made = model.generate(**inputs, max_new_tokens=64, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert processor.decode(made, skip_special_tokens=True) == line["prediction"]
        assert len(made) == line["tokens"]
