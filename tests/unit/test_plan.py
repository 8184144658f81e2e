"""`vlmtune plan`: lengths from headers are those of training, figures follow from those beside them, errors help."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import TINY, assistant, encoded, make_image, ref, user
from commands import ROOT, vlmtune_in_process
from PIL import Image

from vlmtune import registry
from vlmtune.config import Config, load
from vlmtune.errors import ConfigError, DataError, IntegrityError
from vlmtune.modeling.loading import find_checkpoint
from vlmtune.planning.gpus import GPUS, find_gpu
from vlmtune.planning.lengths import Epoch, first_epoch, work_of
from vlmtune.planning.plan import Rented, estimate, make_plan, shapes_of, survey
from vlmtune.planning.text import render
from vlmtune.processing.encoder import EncodedImage, Encoder, ImageHeaders
from vlmtune.progress import Progress, Silent
from vlmtune.training.dataset import TrainingExamples
from vlmtune.training.packing import PackedSequence, Segment

QUIET = Progress(Silent())
WORDS = "a red ball on the grass and two small boats near a house".split()
GOLD = {"rtx4090": 24, "h200": 141}
Make = Callable[..., Config]


def turned(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image, "JPEG", exif=exif)


@pytest.fixture
def make_config(tmp_path: Path) -> Make:
    """Rows with images in several formats and sizes, one rotated by EXIF; each image has two captions."""
    kinds = [encoded(make_image(96, 70, 1)), encoded(make_image(64, 64, 2), "JPEG"), turned(make_image(128, 64, 3))]
    kinds += [
        encoded(make_image(70, 96, 4), "GIF"),
        encoded(make_image(200, 30, 5), "WEBP"),
        encoded(make_image(64, 90, 6)),
    ]
    for name in ("train.jsonl", "validation.jsonl", "test.jsonl"):
        lines = []
        for n, data in enumerate(kinds):
            (tmp_path / f"{n}.img").write_bytes(data)
            captions = [" ".join(WORDS[: 3 + n + more]) + " ." for more in (0, 4)]
            lines.append(json.dumps({"image": f"{n}.img", "captions": captions}) + "\n")
        (tmp_path / name).write_text("".join(lines))

    def make(*sets: str) -> Config:
        file = tmp_path / "own.yaml"
        file.write_text(
            "schema_version: 1\nmodel: {name: tiny}\ntask: {name: captioning}\n"
            f"dataset: {{source: jsonl, path: {tmp_path}, references: [captions], target: each}}\n"
            "training: {batch_size: 4, pack_tokens: 128, precision: fp32}\n"
        )
        return load(str(file), sets).config

    return make


@pytest.fixture
def large(make_config: Make, encoder: Encoder, tmp_path: Path) -> Make:
    """The same rows for a folder with the 8B's config.json beside small tokenizer and processor files; no weights."""
    folder = tmp_path / "8b"
    folder.mkdir()
    for name in ("chat_template.jinja", "tokenizer.json", "tokenizer_config.json", "processor_config.json"):
        (folder / name).write_bytes((encoder.checkpoint.folder / name).read_bytes())
    (folder / "config.json").write_bytes((ROOT / "tests" / "data" / "qwen3_vl" / "8b.json").read_bytes())

    def make(*sets: str) -> Config:
        return make_config(f"model.name={folder}", "training.precision=bf16", *sets)

    return make


def test_a_plan_takes_any_tokenizer_and_the_model_only_its_own(large: Make) -> None:
    config = large()
    assert make_plan(config, QUIET, "h200")["epoch"]["samples"] == 12
    with pytest.raises(IntegrityError, match="image_token_id in config.json is 151655, but .* is 702"):
        Encoder(find_checkpoint(config.model), config.model)


def decoded(config: Config, encoder: Encoder) -> Epoch:
    """The epoch as training itself encodes it, pixels and all."""
    source = registry.load("data", config.dataset.source)
    rows = source.open(config.dataset, config.dataset.splits.train, None)
    task = registry.load("tasks", config.task.name).TASK
    return first_epoch(
        TrainingExamples(rows, task, config.task, encoder, config.training), config.dataset.target, QUIET
    )


@pytest.mark.parametrize("target", ["each", "sample"])
def test_lengths_and_rows_from_headers_are_those_of_training(make_config: Make, encoder: Encoder, target: str) -> None:
    config = make_config(f"dataset.target={target}")
    source = registry.load("data", config.dataset.source)
    rows = source.open(config.dataset, config.dataset.splits.train, None)
    ours, training = survey(config, encoder.checkpoint, [rows], QUIET), decoded(config, encoder)
    assert ours.tokens.tolist() == training.tokens.tolist()
    assert ours.supervised.tolist() == training.supervised.tolist()
    assert ours.image_tokens.tolist() == training.image_tokens.tolist()
    assert (ours.work, ours.distinct, ours.packed_sequences) == (
        training.work,
        training.distinct,
        training.packed_sequences,
    )
    assert (ours.work.tokens < ours.tokens.sum()) == (target == "each"), "two captions share their picture"


def test_a_picture_is_its_grid_and_its_file(encoder: Encoder) -> None:
    small = Encoder(encoder.checkpoint, TINY, ImageHeaders)
    lying = turned(make_image(128, 64, 3))

    def of(encoder: Encoder, data: bytes, where: str) -> EncodedImage:
        (made,) = encoder.training_example((user(ref(data, where)), assistant("Yes .")), "all", 4096).images
        return made

    first = of(small, lying, "one")
    assert first.grid == of(encoder, lying, "lying").grid == (1, 8, 4)
    assert of(small, lying, "the same file by another name").digest == first.digest
    assert of(small, turned(make_image(128, 64, 4)), "another picture").digest != first.digest


def test_pixels_are_not_decoded(make_config: Make, encoder: Encoder, tmp_path: Path) -> None:
    """A file whose header is whole and whose pixels are cut off is planned; training will name it."""
    cut = encoded(make_image(90, 90, 9), "JPEG")
    (tmp_path / "0.img").write_bytes(cut[: len(cut) // 2])
    config = make_config()
    assert make_plan(config, QUIET, None)["epoch"]["samples"] == 12
    with pytest.raises(DataError, match="cannot be decoded"):
        decoded(config, encoder)


def test_pairs_are_those_of_the_causal_mask_and_the_parent() -> None:
    segments = (Segment(0, 5), Segment(5, 8, 0, 5), Segment(8, 10))
    row = PackedSequence((0,) * 10, None, segments, (), (), (), ())  # type: ignore[arg-type]
    assert work_of(row).pairs == (1 + 2 + 3 + 4 + 5) + (6 + 7 + 8) + (1 + 2)


def test_every_figure_follows_from_those_beside_it(large: Make) -> None:
    found = make_plan(large(), QUIET, "RTX 5090", Rented(0.69, 0.5))
    (gpu,) = found["gpus"]
    work, shapes, terms = found["epoch"]["work"], found["shapes"], {t["name"]: t for t in found["flops"]["terms"]}
    assert gpu["name"] == "rtx5090"
    assert terms["head"]["forward"] == 2 * work["supervised"] * 4096 * 151_936
    assert terms["language model"]["forward"] == 2 * work["tokens"] * 36 * 192_937_984
    assert terms["attention"]["forward"] == 4 * work["pairs"] * shapes["decoder"]["kinds"][0]["queries"] * 36
    assert found["flops"]["total"] == sum(term["forward"] + term["backward"] for term in terms.values())
    assert gpu["checkpoint_layers"] == 0
    assert gpu["seconds_per_epoch"] == pytest.approx(found["flops"]["total"] / (209.5e12 * 0.5))
    assert gpu["usd_per_epoch"] == pytest.approx(gpu["seconds_per_epoch"] / 3600 * 0.69)
    kind = next(
        kind for kind in found["memory"]["precisions"] if (kind["precision"], kind["quantization"]) == ("bf16", None)
    )
    assert kind["base_bytes"] == 2 * found["parameters"] == 2 * 8_767_123_696
    assert gpu["peak_bytes"] == kind["base_bytes"] + kind["over_base"][0]["peak"]
    peaks = [each["peak"] for each in kind["over_base"]]
    assert peaks == sorted(peaks, reverse=True), "more checkpointed layers, less memory"


def test_the_pipelines_estimate_is_the_plans(large: Make) -> None:
    config = large("training.checkpoint_layers=9")
    found = make_plan(config, QUIET, "h200")
    checkpoint = find_checkpoint(config.model)
    source = registry.load("data", config.dataset.source)
    rows = source.open(config.dataset, config.dataset.splits.train, None)
    made = estimate(config, checkpoint, survey(config, checkpoint, [rows], QUIET), 9)
    assert made.flops == found["gpus"][0]["flops_per_epoch"] == found["flops"]["total"]
    assert made.peak_bytes + 2 * shapes_of(checkpoint).parameters == found["gpus"][0]["peak_bytes"]


def test_a_gpu_that_is_too_small_is_told_what_to_change(large: Make) -> None:
    fixed = large("training.checkpoint_layers=0", "training.precision=fp32")
    (gpu,) = make_plan(fixed, QUIET, "rtx4090")["gpus"]
    assert not gpu["fits"]
    assert gpu["seconds_per_epoch"] is None
    assert [(change["set"], change["fits"]) for change in gpu["changes"]][:1] == [
        (["training.checkpoint_layers=auto"], False)
    ]
    for change in gpu["changes"]:
        settings = ["training.checkpoint_layers=0", "training.precision=fp32", *change["set"]]
        (again,) = make_plan(large(*settings), QUIET, "rtx4090")["gpus"]
        assert (again["fits"], again["peak_bytes"]) == (change["fits"], change["peak_bytes"]), "they do what they say"
    fitting = next(change for change in gpu["changes"] if change["fits"])
    assert {"model.quantization=nf4", "training.precision=bf16"} < set(fitting["set"])
    text = render(make_plan(fixed, QUIET, "rtx4090"))
    assert "--set model.quantization=nf4 --set training.precision=bf16" in text


def test_a_model_too_large_to_train_in_full_is_told_what_an_adapter_takes(large: Make) -> None:
    """16 bytes a weight of the language model, embeddings and head included; nothing in 4 bits."""
    plan = make_plan(large("training.method=full"), QUIET, "h200")
    [gpu] = plan["gpus"]
    states = plan["memory"]["precisions"][0]["over_base"][0]["states"]
    assert states == 16 * plan["trained_weights"] == 16 * 8_190_735_360
    assert [each["quantization"] for each in plan["memory"]["precisions"]] == [None, None]
    assert not gpu["fits"]
    assert {word for change in gpu["changes"] if change["fits"] for word in change["set"]} == {"training.method=lora"}


def test_a_plan_says_how_many_gpus_a_model_must_be_divided_among(large: Make) -> None:
    """Each has half of the language model, or an eighth, and of 16 bytes a trained weight, beside the whole tower."""
    language, rest = 8_190_735_360, 8_767_123_696 - 8_190_735_360
    full, fp32 = "training.method=full", "training.precision=fp32"
    for gpu, words, cards in (("rtx4090", fp32, 2), ("h200", full, 2), ("a100-40gb", full, 8)):
        sets, width = (words, "training.batch_size=8"), 4 if words == fp32 else 2
        plan = make_plan(large(*sets), QUIET, gpu)
        [found] = plan["gpus"]
        assert not found["fits"]
        assert found["sharded"]["cards"] == cards
        assert f"--set training.sharding=fsdp on {cards} cards: fits" in render(plan)
        divided = make_plan(large(*sets, "training.sharding=fsdp"), QUIET, gpu, Rented(cards=cards))
        [each] = divided["gpus"]
        assert each["fits"]
        assert each["peak_bytes"] == found["sharded"]["peak_bytes"]
        memory = next(one for one in divided["memory"]["precisions"] if one["precision"] == divided["precision"])
        assert memory["base_bytes"] == width * (rest + language // cards)
        trained = language // cards if words == full else 43_646_976
        assert memory["over_base"][0]["states"] == 16 * trained


def test_without_a_gpu_all_known_ones_are_looked_at(make_config: Make) -> None:
    found = make_plan(make_config(), QUIET, None)
    assert [gpu["name"] for gpu in found["gpus"]] == list(GPUS)
    assert {name: GPUS[find_gpu(name)].memory_gb for name in GOLD} == GOLD


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("rtx490", None, 0.35), "did you mean 'rtx4090'"),
        ((None, 2.0, 0.35), "--price needs --gpu"),
        (("h100", None, 35.0), "--efficiency must be above 0 and at most 1"),
    ],
)
def test_wrong_options_are_named(make_config: Make, words: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make_plan(make_config(), QUIET, words[0], Rented(*words[1:]))


def test_more_checkpointed_layers_than_there_are_is_an_error(make_config: Make) -> None:
    with pytest.raises(ConfigError, match="checkpoint_layers is 5, but this model has 4 layers"):
        make_plan(make_config("training.checkpoint_layers=5"), QUIET, None)


def test_the_command_prints_the_plan(tmp_path: Path) -> None:
    words = ("plan", "demo.yaml", "--set", "dataset.limit.train=16", "--set", "training.precision=bf16")
    ended = vlmtune_in_process(*words, "--gpu", "rtx4090", "--price", "0.4", "--json", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["schema_version"] == 1
    text = vlmtune_in_process(*words, "--gpu", "rtx4090", "--price", "0.4", cwd=tmp_path)
    assert text.stdout == render(found) + "\n"
    assert "16 rows, 16 samples, 1 steps" in text.stdout
    assert list(tmp_path.iterdir()) == [], "a plan writes nothing"


def test_a_model_out_of_reach_ends_with_4(tmp_path: Path) -> None:
    ended = vlmtune_in_process("plan", "demo.yaml", "--set", "model.name=nobody/nothing", "--offline", cwd=tmp_path)
    assert ended.returncode == 4
    assert "the Hub cannot be reached" in ended.stderr
