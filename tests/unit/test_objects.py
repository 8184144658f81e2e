"""Names and boxes of a row's objects in place of the marks in its texts, in ms-swift's format."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import TINY, assistant, encoded, make_image, user

from vlmtune.boxes import BOX_FORMS, NORM1000
from vlmtune.data import jsonl
from vlmtune.errors import DataError
from vlmtune.processing.encoder import Encoder
from vlmtune.processing.objects import write_objects
from vlmtune.tasks import vqa
from vlmtune.training.augmentation import augment
from vlmtune.training.config import AugmentationConfig, TrainingConfig
from vlmtune.training.thinking import open_encoder
from vlmtune.types import Example, ImageRef, Objects

Write = Callable[..., Path]
OBJECTS = {"ref": ["ball"], "bbox": [[10, 20, 40, 60]]}


def sized(width: int, height: int) -> ImageRef:
    return ImageRef(f"{width}x{height}", lambda: pytest.fail("read"), (width, height))


EXAMPLES = [
    (
        "Describe the image.",
        "<ref-object><bbox> and <ref-object><bbox> are playing on the beach",
        Objects(
            ("a dog", "a woman"),
            ((331.5, 761.4, 853.5, 1594.8), (676.5, 685.8, 1099.5, 1427.4)),
            (0, 0),
            "pixels",
        ),
        (1500, 1800),
        "Describe the image.",
        "<|object_ref_start|>a dog<|object_ref_end|><|box_start|>(221,423),(569,886)<|box_end|> and "
        "<|object_ref_start|>a woman<|object_ref_end|><|box_start|>(451,381),(733,793)<|box_end|> are playing on the "
        "beach",
    ),
    (
        "Find the <ref-object> in the image",
        "<bbox><bbox>",
        Objects(("sheep",), ((90.9, 160.8, 135, 212.8), (360.9, 480.8, 495, 532.8)), (0, 0), "pixels"),
        (900, 800),
        "Find the <|object_ref_start|>sheep<|object_ref_end|> in the image",
        "<|box_start|>(101,201),(150,266)<|box_end|><|box_start|>(401,601),(550,666)<|box_end|>",
    ),
    (
        "Help me open Google Chrome",
        "Action: click(start_box='<bbox>')",
        Objects((), ((615, 226),), (0,), "pixels"),
        (2500, 2000),
        "Help me open Google Chrome",
        "Action: click(start_box='<|box_start|>(246,113)<|box_end|>')",
    ),
]
"""Rows in ms-swift's documentation, and the same rows there as Qwen2-VL reads them; sizes follow from the two."""


@pytest.mark.parametrize(("asked", "answer", "objects", "size", "prompt", "target"), EXAMPLES)
def test_rows_of_the_documentation_become_those_of_the_model(
    asked: str, answer: str, objects: Objects, size: tuple[int, int], prompt: str, target: str
) -> None:
    image = sized(*size)
    row = Example("1", (image,), answer, {"references": [answer]}, messages=(user(image, asked),), objects=objects)
    written = write_objects(row, BOX_FORMS["tokens"], lambda _: NORM1000)
    assert written.messages == (user(image, prompt),)
    assert written.target == target
    assert written.truth["references"] == [target]
    assert written.objects is None


def test_marks_are_filled_in_order_over_all_turns() -> None:
    image = sized(100, 100)
    objects = Objects(("a", "b"), ((0, 0, 50, 50), (0.0, 0.5, 1.0, 1.0)), (0, 0), "unit")
    talk = (user(image, "Where is <ref-object>?"), assistant("<bbox>"), user("And <ref-object>?"))
    row = Example("1", (image,), "<bbox>", {"references": ["<bbox>"]}, messages=talk, objects=objects)
    written = write_objects(row, BOX_FORMS["list"], lambda _: NORM1000)
    assert written.messages == (
        user(image, "Where is a?"),
        assistant("[0, 0, 50000, 50000]"),
        user("And b?"),
    )
    assert written.target == "[0, 500, 1000, 1000]"


@pytest.fixture
def read(tmp_path: Path, write_jsonl: Write) -> Callable[..., Example]:
    (tmp_path / "turn.png").write_bytes(encoded(make_image(80, 80)))

    def read_row(asked: str, answer: str, objects: Any, **keys: Any) -> Example:
        talk = [{"role": "user", "content": f"<image>{asked}"}, {"role": "assistant", "content": answer}]
        write_jsonl("t.jsonl", {"messages": talk, "images": ["turn.png"], "objects": objects, **keys})
        return jsonl.open(jsonl.Config(path=str(tmp_path), messages="messages", images="images"), "t.jsonl")[0]

    return read_row


FORMS: dict[str, Any] = {
    "an object": {**OBJECTS, "bbox_type": "real", "image_id": [0], "width": [80], "height": [80]},
    "fractions": {"ref": ["ball"], "bbox": [[0.125, 0.25, 0.5, 0.75]], "bbox_type": "norm1"},
    "text": json.dumps(OBJECTS),
    "a list": [{"caption": "ball", "bbox": [10, 20, 40, 60], "bbox_type": "real", "image": 0}],
    "a list as text": json.dumps([{"caption": "ball", "bbox": [[10, 20, 40, 60]]}]),
}


@pytest.mark.parametrize("name", FORMS)
def test_objects_are_read_in_every_form_that_ms_swift_had(name: str, read: Any, encoder: Encoder) -> None:
    written = encoder.with_objects(read("Find <ref-object>", "<bbox>", FORMS[name]))
    assert written.messages[0].content[1] == "Find ball"
    assert written.target == "[125, 250, 500, 750]"


REFUSED: dict[str, tuple[str, str, Any, str]] = {
    "fewer boxes": ("<ref-object>", "<bbox> <bbox>", OBJECTS, "<bbox> occurs 2 times in the texts, but .* has 1 entr"),
    "more boxes": ("<ref-object>", "none", OBJECTS, "<bbox> occurs 0 times in the texts, but objects.bbox has 1"),
    "no marks": ("What?", "none", OBJECTS, "<ref-object> occurs 0 times"),
    "fewer names": ("<ref-object>", "<bbox> <ref-object>", OBJECTS, "<ref-object> occurs 2 times .* objects.ref has 1"),
    "nothing listed": ("<ref-object>", "x", {"ref": [], "bbox": []}, "<ref-object> occurs 1 times .* has 0 entries"),
    "three numbers": ("a", "<bbox>", {"bbox": [[1, 2, 3]]}, r"must hold points \[x, y\] or boxes"),
    "a text": ("a", "<bbox>", {"bbox": [["1", "2", "3", "4"]]}, "must hold points"),
    "another image": ("a", "<bbox>", {"bbox": [[1, 2, 3, 4]], "image_id": [1]}, "one of the row's 1 images"),
    "too few images": ("a", "<bbox><bbox>", {"bbox": [[1, 2]] * 2, "image_id": [0]}, "for each of its 2 boxes"),
    "another unit": ("a", "<bbox>", {"bbox": [[1, 2, 3, 4]], "bbox_type": "norm999"}, "real .* or norm1"),
    "a list as unit": ("a", "<bbox>", {"bbox": [[1, 2, 3, 4]], "bbox_type": ["real"]}, "real .* or norm1"),
    "a number as box": ("<ref-object>", "<bbox>", [{"caption": "a", "bbox": 5}], r"must hold points .*\(got 5\)"),
    "an object as box": ("<ref-object>", "<bbox>", [{"caption": "a", "bbox": {"x": 1}}], "must hold points .*'x'"),
    "an unknown key": ("a", "<bbox>", {"bbox": [[1, 2, 3, 4]], "mask": [1]}, "the key 'mask'"),
    "a number as name": ("<ref-object>", "a", {"ref": [7]}, "objects.ref must hold texts"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_objects_that_do_not_fit_are_refused_with_row_and_counts(name: str, read: Any) -> None:
    asked, answer, objects, said = REFUSED[name]
    with pytest.raises(DataError, match=rf"t.jsonl, row 0.*{said}"):
        read(asked, answer, objects)


def test_columns_of_that_name_without_marks_are_something_else(read: Any) -> None:
    detected = {"bbox": [[1, 2, 3, 4]], "category": [3], "area": [4]}
    plain = read("What?", "red", detected)
    assert plain.objects is None
    assert plain.id == read("What?", "red", None).id
    assert read("<bbox> in HTML", "yes", None).messages[0].content[1] == "<bbox> in HTML"


def test_objects_are_part_of_a_row_s_content(read: Any) -> None:
    other = {"ref": ["ball"], "bbox": [[10, 20, 40, 61]]}
    assert read("<ref-object>", "<bbox>", OBJECTS).id != read("<ref-object>", "<bbox>", other).id


def test_tokens_of_boxes_are_allowed_where_rows_have_objects(read: Any, tmp_path: Path, encoder: Encoder) -> None:
    row = read("Find <ref-object>", "<bbox>", OBJECTS)
    model = TINY.model_copy(update={"box_form": "tokens"})
    data = jsonl.Config.model_validate(
        {"path": str(tmp_path), "messages": "messages", "images": "images", "splits": {"train": "t.jsonl"}}
    )
    opened = open_encoder(encoder.checkpoint, model, TrainingConfig(), data)
    written = opened.with_objects(row)
    ids = opened.training_example((*written.messages, assistant(written.target)), "all", 4096).rendered
    supervised = [token for token, counts in zip(ids.ids, ids.loss_mask, strict=True) if counts]
    assert opened.renderer.text(supervised) == "<|box_start|>(125,250),(500,750)<|box_end|>"


def test_an_image_with_boxes_in_its_texts_is_not_moved(read: Any) -> None:
    row = read("Find <ref-object>", "<bbox>", OBJECTS)
    assert augment(row, vqa.TASK, vqa.Config(), AugmentationConfig(color=0.1), "key").objects == row.objects
    with pytest.raises(DataError, match=r"would not move along with the image"):
        augment(row, vqa.TASK, vqa.Config(), AugmentationConfig(crop=0.1), "key")
