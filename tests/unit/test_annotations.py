"""Annotations of other tools: every format from a small folder as its program writes it, and what is wrong in one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from builders import encoded, make_image

from vlmtune import registry
from vlmtune.data import ROLES, Splits, open_role, overlapping_roles
from vlmtune.errors import DataError
from vlmtune.images import decode_rgb

PNG = encoded(make_image(20, 10))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path / "cache"))


def folder(tmp_path: Path, files: Mapping[str, Any]) -> Path:
    """A dataset: texts as they are, other values as JSON, and an image where a name ends like one."""
    root = tmp_path / "set"
    for name, content in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith((".png", ".jpg")):
            file.write_bytes(PNG)
        elif isinstance(content, bytes):
            file.write_bytes(content)
        else:
            file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return root


def pictures(*names: str) -> dict[str, None]:
    return dict.fromkeys(names)


def config(root: Path, kind: str, **keys: Any) -> Any:
    return registry.load("data", "annotations").Config.model_validate({"path": str(root), "format": kind, **keys})


def rows(root: Path, kind: str, split: str, **keys: Any) -> list[dict[str, Any]]:
    """All columns of all rows, without the location."""
    found = registry.load("data", "annotations").records(config(root, kind, **keys), split)
    return [dict(found.read(index)) for index in range(found.count)]


def problem(root: Path, kind: str, split: str, **keys: Any) -> str:
    with pytest.raises(DataError) as error:
        rows(root, kind, split, **keys)
    return str(error.value).replace(str(root), "SET")


COCO: dict[str, Any] = {
    "info": {"year": 2014},
    "images": [{"id": 42, "file_name": "COCO_val_42.jpg"}, {"id": 7, "file_name": "COCO_val_07.jpg"}],
    "annotations": [
        {"id": 1, "image_id": 7, "caption": "A dog. "},
        {"id": 2, "image_id": 42, "caption": "A cat."},
        {"id": 3, "image_id": 7, "caption": "It runs."},
    ],
}
BOXES: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "1.jpg", "width": 20, "height": 10}, {"id": 2, "file_name": "2.jpg"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 3.5, 4], "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 9, "bbox": [0, 0, 2, 2], "iscrowd": 0},
        {"id": 3, "image_id": 1, "category_id": 3, "bbox": [9, 9, 1, 1], "iscrowd": 0},
        {"id": 4, "image_id": 1, "category_id": 3, "bbox": [0, 0, 20, 10], "iscrowd": 1},
    ],
    "categories": [{"id": 3, "name": "dog"}, {"id": 9, "name": "cat"}],
}


def test_coco_captions_of_an_image_are_its_references(tmp_path: Path) -> None:
    """Rows are in the order of the images, which lie in a folder that the file does not name."""
    root = folder(
        tmp_path, {"annotations/captions.json": COCO, **pictures("val2014/COCO_val_42.jpg", "val2014/COCO_val_07.jpg")}
    )
    assert rows(root, "coco", "annotations/captions.json") == [
        {"id": "42", "image": "val2014/COCO_val_42.jpg", "references": ["A cat."]},
        {"id": "7", "image": "val2014/COCO_val_07.jpg", "references": ["A dog.", "It runs."]},
    ]


def test_coco_boxes_come_with_the_names_of_their_categories(tmp_path: Path) -> None:
    """A crowd is no single object, and an image without objects is a row as well."""
    root = folder(tmp_path, {"instances.json": BOXES, **pictures("1.jpg", "2.jpg")})
    boxes = [[1, 2, 3.5, 4], [0, 0, 2, 2], [9, 9, 1, 1]]
    assert rows(root, "coco", "instances.json") == [
        {"id": "1", "image": "1.jpg", "boxes": boxes, "labels": ["dog", "cat", "dog"]},
        {"id": "2", "image": "2.jpg", "boxes": [], "labels": []},
    ]
    assert rows(root, "coco", "instances.json", rows_per="label") == [
        {"id": "1/dog", "image": "1.jpg", "question": "dog", "boxes": [boxes[0], boxes[2]], "labels": ["dog", "dog"]},
        {"id": "1/cat", "image": "1.jpg", "question": "cat", "boxes": [boxes[1]], "labels": ["cat"]},
    ]


def test_coco_is_read_as_pycocotools_reads_it(tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    root = folder(tmp_path, {"instances.json": BOXES, **pictures("1.jpg", "2.jpg")})
    oracle = coco.COCO(str(root / "instances.json"))
    for row in rows(root, "coco", "instances.json"):
        annotations = oracle.loadAnns(oracle.getAnnIds(imgIds=[int(row["id"])], iscrowd=False))
        assert row["boxes"] == [annotation["bbox"] for annotation in annotations]
        assert row["labels"] == [oracle.cats[annotation["category_id"]]["name"] for annotation in annotations]


QUESTIONS: dict[str, Any] = {
    "data_subtype": "val2014",
    "questions": [
        {"image_id": 42, "question": "What color?", "question_id": 420},
        {"image_id": 42, "question": "How many?", "question_id": 421},
    ],
}
ANSWERS: dict[str, Any] = {
    "annotations": [
        {
            "question_id": number,
            "answers": [{"answer": text, "answer_id": n} for n, text in enumerate(texts)],
            "answer_type": "other",
        }
        for number, texts in [(421, ["2", "3"]), (420, ["red", "red"])]
    ]
}
PAIR = {
    "v2_OpenEnded_mscoco_val2014_questions.json": QUESTIONS,
    "v2_mscoco_val2014_annotations.json": ANSWERS,
    "v2_mscoco_train2014_annotations.json": {"annotations": []},
    **pictures("val2014/COCO_val2014_000000000042.jpg", "train2014/COCO_train2014_000000000042.jpg"),
}


def test_vqa_answers_are_found_beside_their_questions(tmp_path: Path) -> None:
    root = folder(tmp_path, PAIR)
    image = "val2014/COCO_val2014_000000000042.jpg"
    assert rows(root, "vqa", "v2_OpenEnded_mscoco_val2014_questions.json") == [
        {"id": "420", "image": image, "question": "What color?", "references": ["red", "red"], "kind": "other"},
        {"id": "421", "image": image, "question": "How many?", "references": ["2", "3"], "kind": "other"},
    ]


KARPATHY: dict[str, Any] = {
    "dataset": "flickr8k",
    "images": [
        {"filename": f"{n}.jpg", "imgid": n, "split": split, "sentences": [{"raw": f"One {n} ."}, {"raw": f"Two {n}."}]}
        for n, split in enumerate(["train", "restval", "train", "val", "test"])
    ],
}


def test_karpathys_splits_are_those_of_the_roles(tmp_path: Path) -> None:
    root = folder(tmp_path, {"dataset_flickr8k.json": KARPATHY, **pictures(*(f"Images/{n}.jpg" for n in range(5)))})
    settings = config(
        root, "karpathy", references=["references"], target="sample", id="id", split_column="split",
        all_rows="dataset_flickr8k.json", splits={"train": "train|restval", "validation": "val", "test": "test"},
    )  # fmt: skip
    found = {role: [example.id for example in open_role(settings, role)] for role in ROLES}
    assert found == {"train": ["0.jpg", "1.jpg", "2.jpg"], "validation": ["3.jpg"], "test": ["4.jpg"]}
    train = open_role(settings, "train")
    assert train[1].truth["references"] == ["One 1 .", "Two 1."]
    assert train.target_count(1) == 2
    assert train.with_target(1, 1).target == "Two 1."
    assert decode_rgb(train[1].images[0]).size == (20, 10)


def test_the_limit_counts_the_rows_of_the_split(tmp_path: Path) -> None:
    root = folder(tmp_path, {"dataset_flickr8k.json": KARPATHY, **pictures(*(f"Images/{n}.jpg" for n in range(5)))})
    settings = config(
        root, "karpathy", references=["references"], split_column="split", all_rows="dataset_flickr8k.json",
        splits={"train": "train", "validation": "val", "test": "test"}, limit={"test": 1, "train": 1},
        unused_splits=["restval"],
    )  # fmt: skip
    assert len(open_role(settings, "train")) == 1
    assert open_role(settings, "train").fingerprint != open_role(settings, "test").fingerprint
    other = settings.model_copy(update={"splits": Splits(train="train|val|test", validation="dev", test="test")})
    with pytest.raises(DataError, match=r"no row has 'dev' in column 'split'; there are: train \(2\), restval \(1\)"):
        open_role(other, "validation")


def test_rows_of_a_split_that_no_role_names_are_not_left_out_in_silence(tmp_path: Path) -> None:
    root = folder(tmp_path, {"dataset_flickr8k.json": KARPATHY, **pictures(*(f"Images/{n}.jpg" for n in range(5)))})
    settings = config(
        root, "karpathy", references=["references"], split_column="split", all_rows="dataset_flickr8k.json",
        splits={"train": "train", "validation": "val", "test": "test"},
    )  # fmt: skip
    with pytest.raises(
        DataError, match=r"1 rows have 'restval'.*belongs to train.*splits.train=train\|restval'.*unused"
    ):
        open_role(settings, "test")


CAPTION_FILES = {
    "kaggle flickr8k": 'image,caption\na.jpg,A dog , running .\na.jpg,"He said ""hi"" , ran ."\nb.jpg,A cat .\n',
    "flickr30k": "image_name| comment_number| comment\na.jpg| 0| A dog , running .\n"
    'a.jpg| 1   He said "hi" , ran .\nb.jpg| 0| A cat .\n',
    "token": 'a.jpg#0\tA dog , running .\na.jpg.1#1\tHe said "hi" , ran .\nb.jpg#0\tA cat .\n',
    "tabs": 'a.jpg\tA dog , running .\na.jpg\tHe said "hi" , ran .\nb.jpg\tA cat .\n',
    "commas": 'a.jpg,A dog , running .\na.jpg,He said "hi" , ran .\nb.jpg,A cat .\n',
    "a space": 'a.jpg A dog , running .\na.jpg He said "hi" , ran .\nb.jpg A cat .\n',
}


@pytest.mark.parametrize("name", CAPTION_FILES)
@pytest.mark.parametrize("change", ["", "utf-16", "\r\n", "\r"])
def test_lines_of_one_image_are_one_row(name: str, change: str, tmp_path: Path) -> None:
    text = CAPTION_FILES[name]
    data = text.encode("utf-16") if change == "utf-16" else text.replace("\n", change or "\n").encode()
    root = folder(tmp_path, {"captions.txt": data, **pictures("Images/a.jpg", "Images/b.jpg")})
    assert rows(root, "captions", "captions.txt") == [
        {"id": "a.jpg", "image": "Images/a.jpg", "references": ["A dog , running .", 'He said "hi" , ran .']},
        {"id": "b.jpg", "image": "Images/b.jpg", "references": ["A cat ."]},
    ]


def test_flickr8ks_lists_of_images_are_its_splits(tmp_path: Path) -> None:
    lists = {f"text/Flickr_8k.{name}Images.txt": f"{n}.jpg\n" for n, name in enumerate(["train", "dev", "test"])}
    tokens = "".join(f"{n}.jpg#{k}\tCaption {k} of {n} .\n" for n in range(4) for k in range(2))
    images = pictures(*(f"Flicker8k_Dataset/{n}.jpg" for n in range(4)))
    root = folder(tmp_path, {"text/Flickr8k.token.txt": tokens, **lists, **images})
    found = rows(root, "captions", "text/Flickr8k.token.txt")
    assert [row.get("split") for row in found] == ["train", "val", "test", None]


def changed(value: dict[str, Any], key: str, number: int, **entry: Any) -> dict[str, Any]:
    """A copy with an entry of a list replaced or, where it is null, added."""
    entries = [dict(each) for each in value[key]]
    entries[number] |= entry
    return {**value, key: entries}


PROBLEMS: dict[str, tuple[str, str, Any, str]] = {
    "not json": ("coco", "t.json", '{"images": [\n{]}', "SET/t.json:2: not JSON: Expecting property name"),
    "rows": ("coco", "t.json", [{"image": 1}], "SET/t.json: COCO's files have a list of objects under 'images'; this"),
    "other keys": ("karpathy", "t.json", {"data": []}, "list of objects under 'images'; this file has data"),
    "no file name": ("coco", "t.json", {"images": [{"id": 5}]}, "t.json, image 5: 'file_name' must be a text"),
    "twice": ("coco", "t.json", changed(COCO, "images", 0, id=7), "t.json, image 7: two images have this id"),
    "unknown image": ("coco", "t.json", changed(COCO, "annotations", 0, image_id=8), "belongs to image 8, which"),
    "unknown category": ("coco", "t.json", changed(BOXES, "annotations", 0, category_id=8), "image 1: category 8 is"),
    "three numbers": ("coco", "t.json", changed(BOXES, "annotations", 0, bbox=[1, 2, 3]), "image 1: a box must be"),
    "nan": ("coco", "t.json", changed(BOXES, "annotations", 0, bbox=[1, 2, 3, float("nan")]), "must be a number (got"),
    "masks": ("coco", "t.json", {**COCO, "annotations": [{"image_id": 7}]}, "neither 'caption' nor 'bbox'"),
    "no image": ("vqa", "t_questions.json", QUESTIONS, "no image in SET has a name that ends with 000000000042"),
    "no header": ("captions", "t.txt", "hello world\n", "SET/t.txt:1: needs the name of an image, a separator"),
    "empty": ("captions", "t.txt", "\n", "SET/t.txt: the file is empty"),
    "no text": ("captions", "t.txt", "a.jpg\tA dog\nb.jpg\n", "SET/t.txt:2: needs the name of an image and a text"),
    "latin-1": ("captions", "t.txt", "a.jpg\tok\nb.jpg\tcafé".encode("latin-1"), "SET/t.txt:2: not UTF-8"),
    "surrogate": ("karpathy", "t.json", changed(KARPATHY, "images", 0, split="\ud800"), "image 0: contains half a"),
}  # fmt: skip


@pytest.mark.parametrize("name", PROBLEMS)
def test_what_is_wrong_is_said_with_its_place(name: str, tmp_path: Path) -> None:
    kind, file, content, message = PROBLEMS[name]
    assert message in problem(folder(tmp_path, {file: content}), kind, file)


def test_a_bad_entry_can_be_left_out(tmp_path: Path) -> None:
    root = folder(tmp_path, {"t.json": changed(BOXES, "annotations", 0, category_id=8), **pictures("1.jpg", "2.jpg")})
    settings = config(root, "coco", boxes="boxes", max_bad_fraction=0.5, splits={"train": "t.json"})
    found = open_role(settings, "train")
    assert found[1].id
    with pytest.raises(DataError, match="category 8"):
        found[0]


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    root = folder(tmp_path, {"t.json": KARPATHY})
    assert rows(root, "karpathy", "t.json")[0]["image"] == "0.jpg"
    folder(tmp_path, pictures("later/0.jpg"))
    assert rows(root, "karpathy", "t.json")[0]["image"] == "later/0.jpg"
    folder(tmp_path, {"t.json": changed(KARPATHY, "images", 0, filename="1.jpg")})
    assert rows(root, "karpathy", "t.json")[0]["id"] == "1.jpg"


def test_the_same_files_have_one_fingerprint_wherever_they_lie(tmp_path: Path) -> None:
    files = {"t.json": KARPATHY, **pictures(*(f"Images/{n}.jpg" for n in range(5)))}
    prints = {
        open_role(config(folder(tmp_path / place, files), "karpathy", references=["references"],
                         splits={"test": "t.json"}), "test").fingerprint
        for place in ("here", "there")
    }  # fmt: skip
    assert len(prints) == 1


def test_an_image_outside_of_the_folder_is_not_read(tmp_path: Path) -> None:
    folder(tmp_path, {"../secret.png": None})
    root = folder(tmp_path, {"t.txt": "../secret.png\tA secret\n"})
    settings = config(root, "captions", references=["references"], splits={"test": "t.txt"})
    with pytest.raises(DataError, match="lies outside"):
        open_role(settings, "test")[0]


def test_values_of_a_split_column_are_compared_as_such(tmp_path: Path) -> None:
    by_column = {"all_rows": "t.json", "split_column": "split"}
    first = config(
        tmp_path, "karpathy", **by_column, splits={"train": "train|val", "validation": "val", "test": "test"}
    )
    assert overlapping_roles(first, first, "validation") == {"train", "validation"}
    assert overlapping_roles(first, first, "test") == {"test"}
    whole = config(tmp_path, "karpathy", splits={"test": "./t.json"})
    assert overlapping_roles(first, whole, "test") == set(ROLES)


YOLO: dict[str, Any] = {
    "data.yaml": "path: .\ntrain: images/train\nnames: {0: block, 1: ball}\n",
    "labels/train/a.txt": "1 0.5 0.5 0.2 0.4\n0 0.25 0.25 0.5 0.5\n",
    "labels/val/c.txt": "1 0.1 0.2 0.3 0.2 0.3 0.6 0.1 0.6\n",
    "README.txt": "Read me.",
    **pictures("images/train/a.jpg", "images/train/b.jpg", "images/val/c.jpg"),
}


def test_yolo_boxes_are_corners_in_fractions(tmp_path: Path) -> None:
    """An image without labels has no objects, and a polygon has the box around it."""
    root = folder(tmp_path, YOLO)
    (first, second), (third,) = rows(root, "yolo", "images/train"), rows(root, "yolo", "images/val")
    assert first["image"] == "images/train/a.jpg"
    assert first["labels"] == ["ball", "block"]
    assert first["boxes"] == [pytest.approx([0.4, 0.3, 0.6, 0.7]), [0, 0, 0.5, 0.5]]
    assert (second["image"], second["boxes"], second["labels"]) == ("images/train/b.jpg", [], [])
    assert (third["boxes"], third["labels"]) == ([[0.1, 0.2, 0.3, 0.6]], ["ball"])
    assert len(rows(root, "yolo", ".")) == 3


@pytest.mark.parametrize(
    "classes", [{"data.yaml": "names: [block, ball]"}, {"data.yaml": "nc: 2", "classes.txt": "block\nball\n"}]
)
def test_yolo_labels_may_be_beside_their_images(classes: dict[str, str], tmp_path: Path) -> None:
    root = folder(tmp_path, {**classes, "train/a.txt": "1 0.5 0.5 0.2 0.4\n", **pictures("train/a.png")})
    assert [row["labels"] for row in rows(root, "yolo", "train")] == [["ball"]]


def voc(name: str, *objects: str, filename: str = "") -> str:
    items = "".join(
        f"<object><name>{label}</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3.5</xmax><ymax>4</ymax></bndbox></object>"
        for label in objects
    )
    return f"<annotation><filename>{filename or name}.jpg</filename>{items}</annotation>"


VOC: dict[str, Any] = {
    "Annotations/a.xml": voc("a", "cat", "dog"),
    "Annotations/b.xml": voc("b", filename="renamed"),
    "ImageSets/Main/train.txt": "a\n",
    "ImageSets/Main/trainval.txt": "a\nb\n",
    "ImageSets/Main/val.txt": "b\n",
    **pictures("JPEGImages/a.jpg", "JPEGImages/b.jpg"),
}


def test_voc_splits_are_those_of_its_lists(tmp_path: Path) -> None:
    """An image that was renamed after its annotation is found by the name of the XML file."""
    box = [1, 2, 3.5, 4]
    assert rows(folder(tmp_path, VOC), "voc", "Annotations") == [
        {"id": "a", "image": "JPEGImages/a.jpg", "boxes": [box, box], "labels": ["cat", "dog"], "split": "train"},
        {"id": "b", "image": "JPEGImages/b.jpg", "boxes": [], "labels": [], "split": "val"},
    ]


@pytest.mark.parametrize("ending", [".txt", ".gt.txt", ".caption"])
@pytest.mark.parametrize("place", ["train", "train_texts"])
def test_a_text_beside_an_image_is_its_reference(ending: str, place: str, tmp_path: Path) -> None:
    files = {
        f"{place}/1{ending}": "One line.\r\n",
        "LICENSE.txt": "x",
        "train/README.txt": "x",
        **pictures("train/1.jpg"),
    }
    expected = {"id": "train/1.jpg", "image": "train/1.jpg", "references": ["One line."]}
    assert rows(folder(tmp_path, files), "sidecar", "train") == [expected]


def test_an_object_in_a_sister_folder_is_json_text(tmp_path: Path) -> None:
    files = {"img/0.jpg": None, "key/0.json": '{"shop": "Zoë",\n "total": "0.50"}', "box/0.txt": "1,2,3,4"}
    root = folder(tmp_path, files)
    assert "box/0.txt and key/0.json could both hold its text; choose with dataset.sidecars" in problem(
        root, "sidecar", "img"
    )
    (row,) = rows(root, "sidecar", "img", sidecars="key/*.json")
    assert row["references"] == ['{"shop": "Zoë", "total": "0.50"}']


REGION = {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 0, "rectanglelabels": ["cat"]}


def task(number: int, *results: dict[str, Any], image: str = "/data/upload/1/0a1b2c3d-7.jpg") -> dict[str, Any]:
    return {"id": number, "data": {"image": image}, "annotations": [{"id": 1, "result": list(results)}]}


LABELLED: list[dict[str, Any]] = [
    task(1, {"type": "choices", "value": {"choices": ["broken"]}}),
    task(2, {"type": "rectanglelabels", "value": REGION}, image="/data/local-files/?d=pics/7.jpg"),
    task(3, {"type": "textarea", "value": {"text": ["A dog."]}}, image="s3://bucket/pics/7.jpg?x=1"),
    {**task(4), "annotations": []},
]
MINIMAL: list[dict[str, Any]] = [
    {"id": 1, "image": "/data/upload/1/0a1b2c3d-7.jpg", "choice": "broken", "annotator": 1, "lead_time": 2.5},
    {"id": 2, "image": "/data/upload/1/0a1b2c3d-7.jpg", "label": [{**REGION, "original_width": 20}]},
    {"id": 3, "image": "/data/upload/1/0a1b2c3d-7.jpg", "text": "A dog.", "created_at": "2026"},
]


@pytest.mark.parametrize("tasks", [LABELLED, MINIMAL], ids=["JSON", "JSON-MIN"])
def test_label_studios_exports(tasks: Any, tmp_path: Path) -> None:
    """A task that nobody annotated is no row."""
    first, second, third = rows(folder(tmp_path, {"t.json": tasks, **pictures("pics/7.jpg")}), "label_studio", "t.json")
    assert first == {"id": "1", "image": "pics/7.jpg", "references": ["broken"]}
    assert second == {
        "id": "2",
        "image": "pics/7.jpg",
        "boxes": [pytest.approx([0.1, 0.2, 0.4, 0.6])],
        "labels": ["cat"],
    }
    assert third == {"id": "3", "image": "pics/7.jpg", "references": ["A dog."]}


CVAT = """<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version>
<image id="0" name="sub/a.jpg" subset="Train" width="20" height="10"><tag label="day"/>
<box label="cat" xtl="1" ytl="2" xbr="3.5" ybr="4"/><polygon label="dog" points="1.0,2.0;9.0,1.0;3.0,7.0"/></image>
<image id="1" name="b.jpg"/></annotations>"""


def test_cvats_boxes_and_tags(tmp_path: Path) -> None:
    root = folder(tmp_path, {"annotations.xml": CVAT, **pictures("images/sub/a.jpg", "images/b.jpg")})
    first, second = rows(root, "cvat", "annotations.xml")
    assert first == {
        "id": "sub/a.jpg", "image": "images/sub/a.jpg", "boxes": [[1, 2, 3.5, 4], [1, 1, 9, 7]],
        "labels": ["cat", "dog"], "references": ["day"], "split": "Train",
    }  # fmt: skip
    assert second == {"id": "b.jpg", "image": "images/b.jpg", "boxes": [], "labels": []}


BOMB = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>'
ROTATED = {"type": "rectangle", "value": {**REGION, "rotation": 9}}
FOLDER_PROBLEMS: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "class": ("yolo", ".", {**YOLO, "labels/train/a.txt": "7 0 0 1 1"}, "a.txt:1: 7 is not a class; data.yaml"),
    "numbers": ("yolo", ".", {**YOLO, "labels/train/a.txt": "\n1 0 0"}, "a.txt:2: needs a class and four numbers"),
    "stray": ("yolo", ".", {**YOLO, "labels/train/z.txt": "1 0 0 1 1"}, "z.txt: no image belongs to these labels"),
    "yaml": ("yolo", ".", {**YOLO, "data.yaml": "a: [1"}, "data.yaml: not YAML"),
    "entity": ("voc", ".", {"a.xml": BOMB}, "SET/a.xml:1: a document type is not allowed"),
    "no xml": ("voc", ".", {"a.xml": "<annotation>\n<object>"}, "SET/a.xml:2: not XML"),
    "corner": ("voc", ".", {"a.xml": voc("a", "x").replace("3.5", "x")}, "a.xml, object 0: must be a number (got 'x')"),
    "no text": ("sidecar", ".", pictures("a.jpg"), "SET/a.jpg: no file of the same name with its text"),
    "no image": ("sidecar", ".", {"a.txt": "a", "b.txt": "b", "a.jpg": None}, "SET/b.txt: no image has this name"),
    "tasks": ("label_studio", "t.json", {"t.json": {"a": 1}}, "an export of Label Studio is a list of tasks"),
    "rotated": ("label_studio", "t.json", {"t.json": [task(5, ROTATED)]},
                "t.json, task 5: a box is rotated by 9 degrees"),
    "video": ("cvat", "t.xml", {"t.xml": "<annotations><track/></annotations>"}, "export as CVAT for images 1.1"),
    "no folder": ("yolo", "images/test", YOLO, "SET/images/test: no such folder; SET has images, labels"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDER_PROBLEMS)
def test_what_is_wrong_beside_an_image_is_said_with_its_place(name: str, tmp_path: Path) -> None:
    kind, split, files, message = FOLDER_PROBLEMS[name]
    assert message in problem(folder(tmp_path, files), kind, split)
