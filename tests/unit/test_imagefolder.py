"""Folders of images: labels by folder, tables beside images, order, ids, and what else may lie there."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from builders import encoded, make_image

from vlmtune.data import imagefolder
from vlmtune.data._rows import MappedRows
from vlmtune.errors import DataError, EnvironmentProblem
from vlmtune.images import decode_rgb

PNG = encoded(make_image(13, 9))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path / "cache"))


def put(folder: Path, *names: str) -> Path:
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(PNG)
    return folder


def opened(folder: Path, split: str = "train", limit: int | None = None, **keys: Any) -> MappedRows:
    config = {"path": str(folder), "references": ["label"], **keys}
    return imagefolder.open(imagefolder.Config.model_validate(config), split, limit)


def test_the_folder_is_the_label(tmp_path: Path) -> None:
    put(tmp_path / "f", "train/cat/1.PNG", "train/dog/2.jpg", "train/big/dog/3.webp", "test/cat/4.png")
    rows = opened(tmp_path / "f", meta=["file_name"])
    assert {(example.target, example.meta["file_name"]) for example in rows} == {
        ("cat", "cat/1.PNG"), ("dog", "dog/2.jpg"), ("dog", "big/dog/3.webp")
    }  # fmt: skip
    assert {decode_rgb(example.images[0]).size for example in rows} == {(13, 9)}
    assert len(opened(tmp_path / "f", "test")) == 1


def test_an_image_without_a_folder_has_no_label(tmp_path: Path) -> None:
    put(tmp_path / "f", "train/1.png")
    with pytest.raises(DataError, match="row 0: column 'label' must hold text"):
        opened(tmp_path / "f")[0]
    assert opened(tmp_path / "f", references=[])[0].target is None


def test_a_limit_takes_of_every_label_and_a_new_image_moves_no_other(tmp_path: Path) -> None:
    folder = put(tmp_path / "f", *(f"train/{label}/{n}.png" for label in ("cat", "dog") for n in range(40)))
    first = opened(folder, limit=20)
    counts = Counter(example.target for example in first)
    assert min(counts["cat"], counts["dog"]) >= 4
    before = [example.id for example in opened(folder)]
    put(folder, "train/eel/0.png")
    assert [one for one in (example.id for example in opened(folder)) if one in set(before)] == before


def test_the_whole_folder_is_a_split_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "f", "cat/1.png", "dog/2.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    rows = opened(Path("~/f"), ".", meta=["file_name"])
    assert {(row.target, row.meta["file_name"]) for row in rows} == {("cat", "cat/1.png"), ("dog", "dog/2.png")}
    assert {decode_rgb(row.images[0]).size for row in rows} == {(13, 9)}


def test_ids_do_not_depend_on_where_the_folder_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("here", "there"):
        put(tmp_path / name, "train/cat/1.png", "train/dog/2.png")
    monkeypatch.chdir(tmp_path)
    places = (tmp_path / "here", tmp_path / "there", Path("here"))
    made = {(rows.fingerprint, *(row.id for row in rows)) for rows in map(opened, places)}
    assert len(made) == 1


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_table_names_the_images(kind: str, tmp_path: Path) -> None:
    folder = put(tmp_path / "f", "train/a/1.png", "train/2.png", "train/unlisted.png", "train/list.txt")
    if kind == "csv":
        text = "file_name,caption\na/1.png,One\n2.png,Two\n"
    else:
        text = "".join(
            json.dumps({"file_name": f, "caption": c}) + "\n" for f, c in (("a/1.png", "One"), ("2.png", "Two"))
        )
    (folder / f"train/metadata.{kind}").write_text(text, encoding="utf-8")
    rows = opened(folder, references=["caption"], meta=["file_name"])
    assert [(example.target, example.meta["file_name"]) for example in rows] == [("One", "a/1.png"), ("Two", "2.png")]
    assert decode_rgb(rows[1].images[0]).size == (13, 9)
    assert len(opened(folder, limit=1, references=["caption"])) == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"file_name": "../../secret.png"}, "lies outside"),
        ({"file_name": "/etc/passwd"}, "lies outside"),
        ({"file_name": ""}, r"metadata.jsonl, row 0: file_name must name the row's image \(got ''\)"),
        ({"caption": "x"}, r"metadata.jsonl, row 0: file_name must name the row's image \(got None\)"),
    ],
)
def test_a_line_without_an_image_of_the_folder_is_named(line: dict[str, str], said: str, tmp_path: Path) -> None:
    folder = put(tmp_path / "f", "train/1.png")
    put(tmp_path, "secret.png")
    (folder / "train/metadata.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(DataError, match=said):
        opened(folder, references=[])[0]


def test_other_files_are_counted_and_named_unless_ignored(tmp_path: Path) -> None:
    folder = put(tmp_path / "f", "train/cat/1.png", "train/cat/.hidden.txt", "train/.git/x", "train/cat/.DS_Store")
    assert len(opened(folder)) == 1
    put(folder, "train/list.txt", "train/cat/1.png.bak", "train/cat/clip.mp4")
    with pytest.raises(DataError, match=r"3 of 4 files are not images: cat/1.png.bak, cat/clip.mp4, list.txt\. Move"):
        opened(folder)
    assert len(opened(folder, ignore=["*.txt", "cat/*.bak", "*.mp4"])) == 1
    (folder / "train/eel").symlink_to(put(tmp_path / "elsewhere", "2.png"))
    with pytest.raises(DataError, match="1 of 2 files are not images: eel"):
        opened(folder, ignore=["*.txt", "*.bak", "*.mp4"])
    for link in ("eel", "e*l", "eel/"):
        assert len(opened(folder, ignore=["*.txt", "*.bak", "*.mp4", link])) == 1


def test_files_that_describe_a_dataset_stop_nothing(tmp_path: Path) -> None:
    others = ("README.md", "LICENSE", "CHANGELOG.txt", "train/Readme", "train/classes.txt", "train/cat/Thumbs.db")
    assert len(opened(put(tmp_path / "f", "train/cat/1.png", *others))) == 1


def test_missing_and_doubled_things_name_what_is_there(tmp_path: Path) -> None:
    folder = put(tmp_path / "f", "train/cat/1.png", "valid/cat/1.png")
    with pytest.raises(DataError, match="test: no such folder; .* has train, valid"):
        opened(folder, "test")
    for name in ("csv", "jsonl"):
        (folder / f"train/metadata.{name}").write_text("file_name\n")
    with pytest.raises(DataError, match="has metadata.csv and metadata.jsonl; keep the one"):
        opened(folder)
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match="no rows"):
        opened(folder, "empty")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything: run the tests as another user")
def test_a_folder_that_may_not_be_read_is_no_empty_one(tmp_path: Path) -> None:
    folder = put(tmp_path / "f", "train/cat/1.png", "train/dog/1.png")
    (folder / "train/dog").chmod(0)
    with pytest.raises(EnvironmentProblem, match="dog: Permission denied"):
        opened(folder)
    (folder / "train/dog").chmod(0o755)
