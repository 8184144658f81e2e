"""Random changes to training images: the same for a seed, boxes follow, sizes stay, what would be wrong is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import make_image, ref
from numpy.testing import assert_allclose
from PIL import Image, ImageDraw
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode, functional

from vlmtune.boxes import labelled
from vlmtune.cli.app import app
from vlmtune.config import load
from vlmtune.errors import ConfigError, DataError
from vlmtune.images import decode_rgb
from vlmtune.processing.encoder import DecodedImages, Encoder
from vlmtune.tasks import captioning, grounding
from vlmtune.training.augmentation import GREY, Change, augment, draw, refuse_sides
from vlmtune.training.config import AugmentationConfig
from vlmtune.types import Example, Message

ALL = AugmentationConfig(crop=0.4, flip=True, rotation=15, color=0.3, jpeg=30)
PLAIN = Change(0, (0, 0, 1), flipped=False, color=(1, 1, 1), quality=None)
SIZE = (160, 120)
BOX = (40.0, 30.0, 100.0, 75.0)
"""In pixels of an image of SIZE."""


def thousandths(box: tuple[float, ...]) -> list[float]:
    return [number * 1000 / SIZE[n % 2] for n, number in enumerate(box)]


def pixels(box: list[float]) -> list[float]:
    return [number * SIZE[n % 2] / 1000 for n, number in enumerate(box)]


def boxes_of(box: tuple[float, ...]) -> tv_tensors.BoundingBoxes:
    return tv_tensors.BoundingBoxes(torch.tensor([box]), format="XYXY", canvas_size=(SIZE[1], SIZE[0]))  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("change", "reference"),
    [
        (replace(PLAIN, flipped=True), functional.horizontal_flip),
        (
            replace(PLAIN, window=(0.125, 0.05, 0.75)),
            lambda given: functional.resized_crop(
                given, 6, 20, 90, 120, [SIZE[1], SIZE[0]], InterpolationMode.BICUBIC, antialias=True
            ),
        ),
        (
            replace(PLAIN, angle=10.0),
            lambda given: functional.rotate(given, 10.0, InterpolationMode.BICUBIC, fill=list(GREY)),
        ),
        (replace(PLAIN, color=(1.3, 1, 1)), lambda given: functional.adjust_brightness(given, 1.3)),
        (replace(PLAIN, color=(1, 0.7, 1)), lambda given: functional.adjust_contrast(given, 0.7)),
        (replace(PLAIN, color=(1, 1, 1.25)), lambda given: functional.adjust_saturation(given, 1.25)),
    ],
    ids=["flip", "crop", "rotation", "brightness", "contrast", "saturation"],
)
def test_each_change_is_torchvisions(change: Change, reference: Callable[[Any], Any]) -> None:
    image = make_image(*SIZE)
    ours, theirs = np.array(change.image(image), np.int16), np.array(reference(image), np.int16)
    inside = slice(4, -4)  # at its edges, a crop is interpolated with what lies beyond them
    assert np.abs(ours - theirs)[inside, inside].max() <= 1
    assert np.abs(ours - np.array(image, np.int16)).max() > 10
    if change.color == (1, 1, 1):
        found = reference(boxes_of(BOX))[0].tolist()
        assert_allclose(pixels(change.box(thousandths(BOX), SIZE)), found, atol=0.01)


def drawn_box(image: Image.Image) -> list[int]:
    """The smallest box around all red pixels."""
    values = np.array(image, np.int16)
    red = (values[..., 0] > 180) & (values[..., 1] < 100) & (values[..., 2] < 100)
    rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


@pytest.mark.parametrize("unit", ["pixels", "norm1000", "unit"])
@pytest.mark.parametrize("corners", ["xyxy", "xywh"])
def test_a_drawn_box_is_found_where_its_box_has_moved(unit: Any, corners: Any) -> None:
    image = Image.new("RGB", SIZE, (20, 60, 20))
    ImageDraw.Draw(image).rectangle((40, 30, 99, 74), fill=(255, 0, 0))
    scale = {"pixels": SIZE, "norm1000": (1000, 1000), "unit": (1, 1)}[unit]
    box = [number / SIZE[n % 2] * scale[n % 2] for n, number in enumerate(BOX)]
    box = [box[0], box[1], box[2] - box[0], box[3] - box[1]] if corners == "xywh" else box
    config = grounding.Config(unit=unit, corners=corners)
    example = Example("row", (ref(image),), None, {"references": [], "boxes": [box], "box_labels": ["a ball"]})
    moved_in = set()
    for step in range(20):
        changed = augment(example, grounding.TASK, config, replace_jpeg(ALL), f"1/{step}/row")
        [found] = [labelled(one) for one in grounding.truth(config, changed)["boxes"]]
        shown = decode_rgb(changed.images[0])
        assert (shown.size, found.label) == (SIZE, "a ball")
        assert_allclose(drawn_box(shown), pixels(list(found.box)), atol=3)
        moved_in.add(tuple(round(number) for number in found.box))
        assert json.loads(grounding.target(config, changed))[0]["bbox_2d"] == [round(number) for number in found.box]
    assert len(moved_in) == 20


def replace_jpeg(settings: AugmentationConfig) -> AugmentationConfig:
    """JPEG and color would blur what the test looks for."""
    return settings.model_copy(update={"jpeg": None, "color": 0.0})


def test_boxes_are_never_cut() -> None:
    rng = np.random.default_rng(3)
    for n in range(300):
        low, high = np.sort(rng.uniform(0, 1000, (2, 2)), axis=0)
        box = [*low.tolist(), *high.tolist()]
        change = draw(AugmentationConfig(crop=0.9, flip=True), f"{n}", SIZE, [box])
        moved = change.box(box, SIZE)
        assert min(moved) >= -1e-6
        assert max(moved) <= 1000 + 1e-6
        x, y, side = change.window
        assert (moved[2] - moved[0]) * side == pytest.approx(box[2] - box[0])
        assert 0 <= x <= 1 - side + 1e-9
        assert 0 <= y <= 1 - side + 1e-9


def test_a_rotation_that_would_lose_a_box_is_left_out() -> None:
    corner, middle = [980.0, 0.0, 1000.0, 20.0], [400.0, 400.0, 600.0, 600.0]
    settings = AugmentationConfig(rotation=30)
    angles = [draw(settings, f"{n}", SIZE, [corner]).angle for n in range(50)]
    assert 0 in angles
    assert all(draw(settings, f"{n}", SIZE, [middle]).angle for n in range(50))


def test_one_setting_does_not_change_another() -> None:
    both, alone = draw(ALL, "key", SIZE, []), draw(AugmentationConfig(crop=0.4), "key", SIZE, [])
    assert (both.window, alone.angle, alone.quality) == (alone.window, 0, None)
    assert both.angle != 0


def test_the_same_key_gives_the_same_pixels() -> None:
    image = make_image(*SIZE)
    example = Example("row", (ref(image),), "a ball", {"references": ["a ball"]})

    def shown(key: str) -> bytes:
        changed = augment(example, captioning.TASK, captioning.Config(), ALL, key)
        return decode_rgb(changed.images[0]).tobytes()

    assert shown("1/2/row") == shown("1/2/row")
    assert len({shown(f"1/{step}/row") for step in range(10)}) == 10


def test_all_images_of_a_conversation_change_alike() -> None:
    one, two = ref(make_image(*SIZE), "one"), ref(make_image(*SIZE), "two")
    messages = (Message("user", (one, two, "Same?")),)
    example = Example("row", (one, two), "yes", {"references": ["yes"]}, messages=messages)
    changed = augment(example, captioning.TASK, captioning.Config(), ALL, "key")
    assert changed.messages is not None
    assert changed.messages[0].content[2] == "Same?"
    pictures = [decode_rgb(part).tobytes() for part in changed.messages[0].content[:2] if not isinstance(part, str)]
    assert pictures[0] == pictures[1] == decode_rgb(changed.images[1]).tobytes() != one.read().tobytes()


def test_changed_images_do_not_fill_the_cache(encoder: Encoder) -> None:
    images = DecodedImages(encoder.image_processor, encoder.video_processor)
    example = Example("row", (ref(make_image(*SIZE), "cached"),), "a", {"references": ["a"]})
    changed = augment(example, captioning.TASK, captioning.Config(), ALL, "key").images[0]
    assert images.load(changed).grid == images.load(example.images[0]).grid
    assert list(images._cache) == ["cached"]


@pytest.mark.parametrize(
    "text",
    ["the LEFT one", "rightmost", "right-hand side", "links oben", "à gauche", "a la derecha", "在左边", "слева"],
)
def test_words_for_sides_are_found(text: str) -> None:
    with pytest.raises(DataError, match="wrong in a mirrored image; set training.augmentation.flip to false"):
        refuse_sides((Message("user", (ref(make_image(8, 8)), f"Where? {text} .")),))


@pytest.mark.parametrize("text", ["a bright copyright", "leftover food", "weblinks", "upright"])
def test_other_words_are_not_sides(text: str) -> None:
    refuse_sides((Message("assistant", (text,)),))


CONFIG = """\
model: {name: tiny, device: cpu}
dataset: {source: scenes, identifiable: true, question: phrase, boxes: box, id: id, limit: {train: 4}}
task: {name: grounding}
training: {precision: fp32, augmentation: {crop: 0.5, flip: true}}
output: {dir: out}
"""


@pytest.mark.parametrize(
    ("task", "setting", "said"),
    [
        ("ocr", "flip: true", "training.augmentation.flip would mirror text, which the task ocr reads"),
        ("docvqa", "crop: 0.2", "training.augmentation.crop would cut off text, which the task docvqa reads"),
        ("chartqa", "flip: true", "would mirror text, which the task chartqa reads"),
        ("extraction", "crop: 0.1", "would cut off text, which the task extraction reads"),
    ],
)
def test_text_is_neither_mirrored_nor_cut(task: str, setting: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    block = "{source: scenes, references: [caption_0], question: question}"
    fields = ", fields: [a]" if task == "extraction" else ""
    text = f"model: {{name: tiny}}\ndataset: {block}\ntask: {{name: TASK}}\ntraining: {{augmentation: {{{setting}}}}}\n"
    file.write_text(text.replace("TASK", task + fields))
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert said in str(caught.value)
    file.write_text(text.replace("TASK", task + fields).replace(setting, "rotation: 3, color: 0.2, jpeg: 60"))
    assert load(file).config.training.augmentation.active
    mixed = f"datasets: [{{name: more, weight: 0.1, dataset: {block}, task: {{name: {task}{fields}}}}}]\n"
    file.write_text(text.replace("TASK", "captioning") + mixed)
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert said in str(caught.value)


def test_an_augmented_row_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(CONFIG)

    def shown(*words: str) -> Any:
        app(["data", "show", "c.yaml", "--row", "1", "--json", *words], standalone_mode=False)
        return json.loads(capsys.readouterr().out)

    plain, first, second = shown(), shown("--augmented", "1", "-o", "one.html"), shown("--augmented", "2")
    targets = {one["encoded"][0]["target"] for one in (plain, first, second)}
    assert len(targets) == 3
    assert first == shown("--augmented", "1")
    assert "augmented 42/0/" in Path("one.html").read_text()
    assert first["images"][0]["tokens"] == plain["images"][0]["tokens"]
    with pytest.raises(ConfigError, match="--augmented shows train rows"):
        shown("--augmented", "1", "--set", "training.augmentation={crop: 0, flip: false}")
