"""Shapes of rows, answers and image paths: joined records, four columns, lists as text, templates, images in parts."""

import base64
import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from builders import encoded, make_image
from pydantic import ValidationError

from vlmtune.data import Rows, _values, jsonl, open_role, table
from vlmtune.errors import DataError, ImageError
from vlmtune.images import decode_rgb
from vlmtune.tasks import grounding
from vlmtune.types import ImageRef

PNG, WIDE = encoded(make_image(20, 10)), encoded(make_image(30, 10))
URL = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"


def opened(folder: Path, records: Sequence[dict[str, Any]], **keys: Any) -> Rows:
    (folder / "t.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records), encoding="utf-8")
    settings = {"path": str(folder), "splits": {"test": "t.jsonl"}, **keys}
    return open_role(jsonl.Config.model_validate(settings), "test")


def widths(images: Sequence[ImageRef]) -> list[int]:
    return [decode_rgb(image).size[0] for image in images]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for name, data in {"pics/000000000007.png": PNG, "pics/b.png": WIDE}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    return tmp_path


LINES = [
    {"image": "b.png", "caption": "One.", "photographer": "Ann", "id": 1},
    {"image": "a.png", "caption": "Other.", "photographer": "Bob", "id": 2},
    {"image": "b.png", "caption": ["Two.", "Three."], "photographer": "Ann", "id": 3},
]


def test_captions_on_lines_of_their_own_are_joined(tmp_path: Path) -> None:
    keys = {"references": ["caption"], "target": "each", "join": ["image"]}
    rows = opened(tmp_path, LINES, **keys, meta=["photographer"])
    assert [row.truth["references"] for row in rows] == [["One.", "Two.", "Three."], ["Other."]]
    assert rows.target_count(0) == 3
    assert rows[0].meta == {"photographer": "Ann"}
    assert len(opened(tmp_path, LINES, **keys, limit={"test": 1})) == 1, "the limit counts joined rows"
    with pytest.raises(DataError, match="column 'id' is 1 here and 3 in another record of the same row"):
        opened(tmp_path, LINES, **keys, id="id")
    with pytest.raises(DataError, match="dataset.join names column 'file'; there are: image, caption"):
        opened(tmp_path, LINES, **keys | {"join": ["file"]})


def test_a_line_that_cannot_be_read_is_not_joined(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text("".join(json.dumps(each) + "\n" for each in LINES) + '{"image": "b.png", "caption": \n')
    settings = {"path": str(tmp_path), "references": ["caption"], "join": ["image"], "splits": {"test": "t.jsonl"}}
    with pytest.raises(DataError, match="t.jsonl:4: not JSON"):
        open_role(jsonl.Config.model_validate(settings), "test")
    rows = open_role(jsonl.Config.model_validate({**settings, "max_bad_fraction": 0.5}), "test")
    assert len(rows) == 3
    assert rows[0].truth["references"] == ["One.", "Two.", "Three."]


def test_four_columns_are_a_box_and_joined_a_list_of_them(tmp_path: Path) -> None:
    lines = ["a.png,cat,5,6,50,60", "a.png,dog,1,2,3,4.5", "a.png,cat,7,8,9,10", "b.png,cat,,,,"]
    text = "\n".join(["filename,class,xmin,ymin,xmax,ymax", *lines])
    (tmp_path / "t.csv").write_text(text)
    keys = {
        "path": str(tmp_path), "image": "filename", "question": "class", "splits": {"test": "t.csv"},
        "boxes": ["xmin", "ymin", "xmax", "ymax"],
    }  # fmt: skip
    rows = open_role(table.Config.model_validate(keys), "test")
    assert [row.truth["boxes"] for row in rows] == [[5, 6, 50, 60], [1, 2, 3, 4.5], [7, 8, 9, 10], []]
    joined = open_role(table.Config.model_validate({**keys, "join": ["filename", "class"]}), "test")
    assert [row.truth["boxes"] for row in joined] == [[[5, 6, 50, 60], [7, 8, 9, 10]], [[1, 2, 3, 4.5]], []]
    assert [row.question for row in joined] == ["cat", "dog", "cat"]
    with pytest.raises(DataError, match="column 'class' is 'cat' here and 'dog' in another record"):
        open_role(table.Config.model_validate({**keys, "join": ["filename"]}), "test")


def test_joined_boxes_have_a_label_each(tmp_path: Path) -> None:
    lines = ["a.png,cat,5,6,50,60", "a.png,dog,1,2,3,4", "b.png,cat,,,,", "a.png,,,,,"]
    (tmp_path / "t.csv").write_text("\n".join(["filename,class,xmin,ymin,xmax,ymax", *lines]))
    keys = {
        "path": str(tmp_path), "image": "filename", "splits": {"test": "t.csv"},
        "boxes": ["xmin", "ymin", "xmax", "ymax"], "box_labels": "class",
    }  # fmt: skip
    single = open_role(table.Config.model_validate(keys), "test")
    task = grounding.Config(name="grounding", unit="norm1000")
    read = [grounding.TASK.truth(task, row)["boxes"] for row in single]
    cat, dog = {"box": [5, 6, 50, 60], "label": "cat"}, {"box": [1, 2, 3, 4], "label": "dog"}
    assert read == [[cat], [dog], [], []]
    joined = open_role(table.Config.model_validate({**keys, "join": ["filename"]}), "test")
    assert [grounding.TASK.truth(task, row)["boxes"] for row in joined] == [[cat, dog], []]
    objects = [{"image": "a.png", "box": each["box"], "kind": each["label"]} for each in (cat, dog)]
    (row,) = opened(tmp_path, objects, boxes="box", box_labels="kind", join=["image"])
    assert grounding.TASK.truth(task, row)["boxes"] == [cat, dog]


def test_a_box_that_is_no_number_is_named(tmp_path: Path) -> None:
    rows = opened(tmp_path, [{"image": "a.png", "x": 1, "y": 2, "r": "wide", "b": 4}], boxes=["x", "y", "r", "b"])
    with pytest.raises(DataError, match="row 0, columns x, y, r, b: must hold numbers"):
        rows[0]
    with pytest.raises(ValidationError, match="at least 4 items"):
        jsonl.Config(path=".", boxes=["x", "y"])


ANSWERS: list[tuple[Any, list[str]]] = [
    ("red", ["red"]),
    (["red", "dark red"], ["red", "dark red"]),
    ([{"answer": "red", "answer_confidence": "yes"}, {"answer": "blue", "answer_id": 2}], ["red", "blue"]),
    ({"answer": ["red", "blue"], "answer_id": [1, 2]}, ["red", "blue"]),
    ([{"raw": "A dog .", "tokens": ["a", "dog"], "sentid": 3, "imgid": 1}], ["A dog ."]),
    ([{"caption": "A dog", "id": 3, "image_id": 1}], ["A dog"]),
    (7, ["7"]),
    (0.0, ["0"]),
    (0.1, ["0.1"]),
    ([1, 2.5], ["1", "2.5"]),
    ('["red", "dark red"]', ["red", "dark red"]),
    ("""['red', "it's"]""", ["red", "it's"]),
    ("['red' 'dark red']", ["red", "dark red"]),
    ("['red'\n 'dark red']", ["red", "dark red"]),
    ("[1, 2]", ["1", "2"]),
    ('[{"answer": "red", "answer_id": 1}]', ["red"]),
    ('[{"name": "tea"}]', ['[{"name": "tea"}]']),
    ("[sic] he said 'no'", ["[sic] he said 'no'"]),
    ("[CLS]", ["[CLS]"]),
    ({"shop": "Zoë", "total": 2.5}, ['{"shop": "Zoë", "total": 2.5}']),
    ([{"name": "tea", "price": 2}], ['{"name": "tea", "price": 2}']),
]


@pytest.mark.parametrize(("value", "texts"), ANSWERS, ids=[str(value)[:30] for value, _ in ANSWERS])
def test_answers_in_every_form_are_texts(value: Any, texts: list[str]) -> None:
    assert [_values.answer(item, "a", "row 0") for item in _values.answers(value)] == texts


def test_columns_become_one_object(tmp_path: Path) -> None:
    row = {"image": "a.png", "shop": "Zoë", "total": "0.50", "items": [{"name": "tea"}]}
    rows = opened(tmp_path, [row], record=["shop", "total", "items"])
    (reference,) = rows[0].truth["references"]
    assert list(json.loads(reference).items()) == list(row.items())[1:]
    assert rows[0].target == reference


@pytest.mark.parametrize(
    ("template", "row"),
    [
        ("pics/{file}", {"image": "b.png"}),
        ("pics", {"image": "b.png"}),
        ("pics/{name}.png", {"name": "b"}),
        ("pics/{file}", {"file": "b.png"}),
        ("{folder}/{file}.png", {"image": "b", "folder": "pics"}),
    ],
)
def test_an_image_path_is_made_from_columns(template: str, row: dict[str, str], pictures: Path) -> None:
    rows = opened(pictures, [{**row, "caption": "x"}], references=["caption"], image_path=template)
    assert widths(rows[0].images) == [30]


@pytest.mark.parametrize("number", [7, "7", "007"])
def test_a_number_is_written_as_the_template_says(number: Any, pictures: Path) -> None:
    keys = {"references": ["caption"], "image_path": "pics/{image_id:012d}.png"}
    rows = opened(pictures, [{"image_id": number, "caption": "x"}], **keys)
    assert widths(rows[0].images) == [20]
    other = opened(pictures, [{"image_id": 8, "caption": "x"}], **keys)
    assert rows.fingerprint != other.fingerprint, "the image counts, not only the text"
    with pytest.raises(DataError, match=r"row 0: dataset.image_path cannot write 'seven' as '012d'"):
        opened(pictures, [{"image_id": "seven", "caption": "x"}], **keys)[0]


@pytest.mark.parametrize("template", ["{}", "{a", "{a!r}", "{a:{b}}"])
def test_a_template_that_is_none_is_refused(template: str) -> None:
    with pytest.raises(ValidationError, match="image_path"):
        jsonl.Config(path=".", image_path=template)


def test_a_template_reads_no_attributes(pictures: Path) -> None:
    with pytest.raises(DataError, match="'file.__class__'"):
        opened(pictures, [{"image": "b.png", "caption": "x"}], references=["caption"], image_path="{file.__class__}")


def test_named_folders_outside_may_hold_images(pictures: Path) -> None:
    rows, elsewhere = pictures / "rows", pictures / "pics"
    rows.mkdir()
    (rows / "link").symlink_to(elsewhere, target_is_directory=True)
    for path in (str(elsewhere / "b.png"), "link/b.png"):
        records = [{"image": path, "caption": "x"}]
        with pytest.raises(DataError, match=rf"lies outside.*set dataset.image_roots=\[{elsewhere}\]"):
            opened(rows, records, references=["caption"])[0]
        assert widths(opened(rows, records, references=["caption"], image_roots=[str(elsewhere)])[0].images) == [30]


def test_a_name_that_nearly_fits_is_said(pictures: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "café.png") for form in ("NFC", "NFD"))
    (pictures / "pics" / composed).write_bytes(PNG)
    for path, said in (("pics/B.PNG", "b.png exists, with other upper"), (f"pics/{decomposed}", "accents")):
        with pytest.raises((ImageError, DataError, FileNotFoundError), match=said):
            decode_rgb(opened(pictures, [{"image": path, "caption": "x"}], references=["caption"])[0].images[0])


PARTS: dict[str, Any] = {
    "OpenAI": {"type": "image_url", "image_url": {"url": URL}},
    "OpenAI, short": {"type": "image_url", "image_url": URL},
    "OpenAI, value": {"type": "image_url", "value": URL},
    "OpenAI, responses": {"type": "input_image", "image_url": URL},
    "Qwen": {"type": "image", "image": "pics/000000000007.png", "text": None},
    "Qwen, file": {"type": "image", "image": "file://PATH/pics/000000000007.png"},
    "path": {"type": "image", "path": "pics/000000000007.png"},
}


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("keys", [("role", "user", "content"), ("from", "human", "value")])
def test_images_in_parts_are_read(name: str, keys: tuple[str, str, str], pictures: Path) -> None:
    part = json.loads(json.dumps(PARTS[name]).replace("PATH", str(pictures)))
    role, user, content = keys
    talk = [
        {role: user, content: [part, {"type": "text", "text": "What?"}]},
        {role: "gpt" if role == "from" else "assistant", content: "A dot."},
    ]
    rows = opened(pictures, [{"messages": talk}], messages="messages")
    assert widths(rows[0].images) == [20]
    assert rows[0].target == "A dot."
    talk[0] = {**talk[0], content: [part]}
    other = opened(pictures, [{"messages": talk}], messages="messages")
    assert rows.group_key(0) == other.group_key(0), "rows about the same image stay together"


def test_images_in_parts_and_in_a_column_keep_their_order(pictures: Path) -> None:
    parts = [{"type": "image"}, {"type": "image", "image": "pics/b.png"}, {"type": "text", "text": "Same?"}]
    talk = [{"role": "user", "content": parts}, {"role": "assistant", "content": "No"}]
    for column in (["pics/000000000007.png"], ["pics/000000000007.png", "pics/b.png"]):
        rows = opened(pictures, [{"messages": talk, "images": column}], messages="messages", images="images")
        assert rows[0].messages is not None
        shown = [part for part in rows[0].messages[0].content if isinstance(part, ImageRef)]
        assert widths(shown) == [20, 30]


def test_a_query_with_a_list_of_images_is_a_question(pictures: Path) -> None:
    """As ms-swift's rows are."""
    row = {"query": "<image>What is it?", "response": "A dot.", "images": ["pics/b.png"]}
    rows = opened(pictures, [row], image="images", question="query", references=["response"])
    assert (rows[0].question, widths(rows[0].images)) == ("What is it?", [30])
