"""Annotations of other tools: every format from a small folder as its program writes it, and what is wrong in one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from builders import encoded, make_image

from vlmtune import registry
from vlmtune.data import ROLES, open_role, overlapping_roles
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
        splits={"train": "train", "validation": "dev", "test": "test"}, limit={"test": 1, "train": 1},
    )  # fmt: skip
    assert len(open_role(settings, "train")) == 1
    assert open_role(settings, "train").fingerprint != open_role(settings, "test").fingerprint
    with pytest.raises(DataError, match=r"no row has 'dev' in column 'split'; there are: train \(2\), restval \(1\)"):
        open_role(settings, "validation")


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
