"""Rows in the containers in which people have them: compressed, in other encodings, inside one object, in a tar."""

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from builders import encoded, make_image

from vlmtune import registry
from vlmtune.data import DatasetConfig
from vlmtune.data._json_objects import object_rows
from vlmtune.data._rows import MappedRows
from vlmtune.errors import DataError
from vlmtune.images import decode_rgb

CAPTIONS = ["A café, red.", "Two\u2028dogs."]
PICTURE = encoded(make_image(20, 10))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vlmtune" / "rows"


def opened(file: Path, **keys: Any) -> MappedRows:
    """The rows of one file; the source is that of its ending."""
    endings = {"jsonl": (".jsonl", ".json", ".ndjson"), "webdataset": (".tar",)}
    name = file.name.removesuffix(".gz")
    source = next((source for source, known in endings.items() if name.endswith(known)), "table")
    (file.parent / "a.png").write_bytes(PICTURE)
    plugin = registry.load("data", source)
    block = {"path": str(file.parent), "references": ["text"], **keys}
    config: DatasetConfig = plugin.Config.model_validate(block)
    rows: MappedRows = plugin.open(config, file.name)
    return rows


def targets(rows: MappedRows) -> list[str | None]:
    return [example.target for example in rows]


LINES = "".join(json.dumps({"image": "a.png", "text": text}, ensure_ascii=False) + "\n" for text in CAPTIONS)
CELLS = "image,text\n" + "".join(f'a.png,"{text}"\n' for text in CAPTIONS)
ENCODED: dict[str, Callable[[str], bytes]] = {
    "as it is": str.encode,
    "gzip": lambda text: gzip.compress(text.encode()),
    "utf-8 with a mark": lambda text: text.encode("utf-8-sig"),
    "utf-16": lambda text: text.encode("utf-16"),
    "utf-16 without a mark": lambda text: text.encode("utf-16-le"),
    "utf-16, big end first": lambda text: text.encode("utf-16-be"),
    "gzipped utf-16": lambda text: gzip.compress(text.encode("utf-16")),
    "windows": lambda text: text.replace("\n", "\r\n").encode(),
    "an old mac": lambda text: text.replace("\n", "\r").encode(),
}


@pytest.mark.parametrize("name", ENCODED)
@pytest.mark.parametrize("kind", ["t.jsonl", "t.csv"])
def test_text_is_read_in_any_encoding(kind: str, name: str, tmp_path: Path) -> None:
    file = tmp_path / (f"{kind}.gz" if "gzip" in name else kind)
    file.write_bytes(ENCODED[name](LINES if kind == "t.jsonl" else CELLS))
    assert targets(opened(file)) == CAPTIONS


def test_excels_hint_names_the_separator(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("sep=;\nimage;text\na.png;One, two\na.png;x;y\n")
    with pytest.raises(DataError, match="t.csv:4: row 1 has 3 values, but the header names 2 columns"):
        targets(opened(file))
    file.write_text("sep=;\nimage;text\na.png;One, two\n")
    assert targets(opened(file)) == ["One, two"]


def test_damaged_text_is_named(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl.gz"
    file.write_bytes(gzip.compress(LINES.encode())[:-12])
    with pytest.raises(DataError, match="t.jsonl.gz: the gzip file is damaged or cut off"):
        opened(file)
    file.write_bytes(gzip.compress(LINES.encode("latin-1", "replace").replace(b"?", b"\xe9")))
    with pytest.raises(DataError, match=r"t.jsonl.gz:\d: not UTF-8"):
        opened(file)


def test_a_gzip_bomb_does_not_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlmtune.data._text.LARGEST", 1000)
    file = tmp_path / "t.csv.gz"
    file.write_bytes(gzip.compress(b"text\n" + b"a" * 5_000_000))
    with pytest.raises(DataError, match="t.csv.gz: expands to more than 200 times its size"):
        opened(file)


ROWS = [{"image": "a.png", "text": text} for text in CAPTIONS]
OBJECTS: dict[str, Any] = {
    "a list among others": {"dataset_name": "d", "info": {"v": 1}, "data": ROWS},
    "rows by key": {"17": ROWS[0], "18": ROWS[1]},
    "rows by key, wrapped": {"version": 1, "annotations": {"17": ROWS[0], "18": ROWS[1]}},
    "lists by split": {"train": ROWS[:1], "test": ROWS[1:]},
    "columns": {"image": ["a.png"] * 2, "text": CAPTIONS},
    "pandas by column": {"image": {"0": "a.png", "1": "a.png"}, "text": dict(enumerate(CAPTIONS))},
    "pandas split": {"columns": ["image", "text"], "index": [0, 1], "data": [["a.png", each] for each in CAPTIONS]},
    "pandas records": {"schema": {"fields": [], "primaryKey": ["index"]}, "data": ROWS},
    "an array of arrays": [["image", "text"], *(["a.png", each] for each in CAPTIONS)],
    "an array of objects": ROWS,
}


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("indent", [None, 1])
def test_rows_inside_one_value_are_rows(name: str, indent: int | None, tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    file.write_text(json.dumps(OBJECTS[name], indent=indent))
    assert targets(opened(file)) == CAPTIONS
    assert [row["text"] for row in map(opened(file)._records.read, range(2))] == CAPTIONS, "from the cache"


def test_the_key_and_the_split_of_a_row_are_columns() -> None:
    assert object_rows(OBJECTS["rows by key"]) == [{"key": "17", **ROWS[0]}, {"key": "18", **ROWS[1]}]
    assert object_rows(OBJECTS["lists by split"]) == [{"split": "train", **ROWS[0]}, {"split": "test", **ROWS[1]}]
    texts = {"1.jpg": "A dog.", "2.jpg": ["A cat.", "A pet."]}
    assert object_rows(texts) == [
        {"image": "1.jpg", "text": "A dog."},
        {"image": "2.jpg", "text": ["A cat.", "A pet."]},
    ]
    arrays = {"0": ["0.png", "How?"], "1": ["1.png", "Why?"]}
    assert object_rows(arrays) == [
        {"key": "0", "column_0": "0.png", "column_1": "How?"},
        {"key": "1", "column_0": "1.png", "column_1": "Why?"},
    ]


@pytest.mark.parametrize(
    "row",
    [
        {"image": "a.png", "text": "x"},
        {"messages": [{"role": "user", "content": "x"}], "images": ["a.png"]},
        {"image": "a.png", "objects": [{"bbox": [1, 2, 3, 4]}]},
        {"images": ["a.png", "b.png"], "record": {"shop": "x"}},
        {"images": [{"id": 1}], "annotations": [{"image_id": 1}]},
        {},
    ],
)
def test_a_row_is_no_container(row: dict[str, Any]) -> None:
    assert object_rows(row) is None


def test_lines_of_arrays_have_numbered_columns(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text("".join(json.dumps(["a.png", text, 7]) + "\n" for text in CAPTIONS))
    assert targets(opened(file, image="column_0", references=["column_1"])) == CAPTIONS
    file.write_text('["a.png", "x"]\n["a.png"]\n7\n')
    rows = opened(file, image=None, references=["column_1"], max_bad_fraction=0.9)
    with pytest.raises(DataError, match=r"row 1: no column 'column_1'; the row has: column_0"):
        rows[1]
    with pytest.raises(DataError, match=r"t.jsonl:3: a row must be a JSON object \(got int\)"):
        rows[2]


def excel(file: Path, sheets: dict[str, list[list[Any]]]) -> Path:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(file)
    return file


def test_excel_is_text_as_csv(tmp_path: Path) -> None:
    file = excel(
        tmp_path / "t.xlsx", {"Sheet": [["image", "text", "n"], ["a.png", "007", 2.0], [], ["a.png", 7, None]]}
    )
    rows = opened(file, meta=["n"])
    assert targets(rows) == ["007", "7"]
    assert [row.meta["n"] for row in rows] == ["2", ""]


def test_sheets_of_excel_are_one_table_or_one_is_chosen(tmp_path: Path) -> None:
    head, both = ["image", "text"], {"train": "x", "test": "y"}
    file = excel(tmp_path / "t.xlsx", {name: [head, ["a.png", text]] for name, text in both.items()})
    rows = opened(file, meta=["sheet"])
    assert [(row.target, row.meta["sheet"]) for row in rows] == [("x", "train"), ("y", "test")]
    excel(file, {"notes": [["written by hand"]], "rows": [head, ["a.png", "z"]]})
    with pytest.raises(
        DataError, match="sheets 'notes' and 'rows' have different columns; choose one with dataset.sheet"
    ):
        opened(file)
    assert targets(opened(file, sheet="rows")) == ["z"]
    with pytest.raises(DataError, match="no rows in a sheet 'more'"):
        opened(file, sheet="more")


def tar(file: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(file, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file


def test_members_of_a_tar_with_one_key_are_a_row(tmp_path: Path) -> None:
    members = {
        "d/000.jpg": PICTURE, "d/000.txt": b"One.\n", "d/000.json": b'{"width": 20, "tags": ["x"]}', "d/000.cls": b"7",
        "d/001.txt": b"Two.", "d/001.JPG": PICTURE, "d/001.json": b"{}", "d/001.cls": b"8", "d/._001.jpg": b"mac",
    }  # fmt: skip
    file = tar(tmp_path / "train-000.tar", members)
    rows = opened(file, id="key", meta=["label"])
    assert [(row.id, row.target, row.meta["label"]) for row in rows] == [("d/000", "One.", "7"), ("d/001", "Two.", "8")]
    assert rows[1].images[0].read() == PICTURE
    assert rows._records.read(0)["width"] == 20
    several = registry.load("data", "webdataset")
    tar(tmp_path / "train-001.tar", {"e/5.png": PICTURE, "e/5.txt": b"Three.", "e/6.png": PICTURE, "e/6.txt": b"4"})
    config = several.Config(path=str(tmp_path), references=["text"])
    assert targets(several.open(config, "train-*.tar", 3)) == ["One.", "Two.", "Three."]


def test_a_gzipped_tar_is_read(tmp_path: Path) -> None:
    packed = tar(tmp_path / "t.tar", {"0.jpg": PICTURE, "0.txt": b"One."}).read_bytes()
    (tmp_path / "t.tar.gz").write_bytes(gzip.compress(packed))
    assert targets(opened(tmp_path / "t.tar.gz")) == ["One."]


def test_a_tar_is_not_unpacked_and_its_links_are_not_followed(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "t.tar"
    with tarfile.open(file, "w") as archive:
        for name, kind in (("0.jpg", tarfile.SYMTYPE), ("0.png", tarfile.LNKTYPE)):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "/etc/passwd"
            archive.addfile(link)
        text = tarfile.TarInfo("0.txt")
        text.size = 1
        archive.addfile(text, io.BytesIO(b"x"))
    with pytest.raises(DataError, match=r"dataset.image names column 'image'; there are: key, text"):
        opened(file)
    assert not cache.exists()


def test_a_broken_tar_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(DataError, match="t.tar: not a readable tar file"):
        opened(tmp_path / "t.tar")
    file = tar(tmp_path / "t.tar", {"0.jpg": PICTURE, "0.json": b"{"})
    with pytest.raises(DataError, match=r"t.tar, row 0, member .json: not JSON"):
        targets(opened(file))


def test_a_thousand_columns_are_not_listed(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(json.dumps({f"pixel_{n}": n for n in range(1000)} | {"textt": "x"}) + "\n")
    with pytest.raises(DataError) as error:
        opened(tmp_path / "t.jsonl", image=None)
    assert "there are: textt, pixel_0, pixel_1" in str(error.value)
    assert str(error.value).endswith("and 989 more")


def test_a_document_is_all_of_its_pages_and_a_fragment_one(tmp_path: Path) -> None:
    for name, kind in (("d.pdf", "PDF"), ("d.tif", "TIFF")):
        pages = [make_image(40, 24, seed=seed) for seed in range(3)]
        (tmp_path / name).write_bytes(encoded(pages[0], kind, save_all=True, append_images=pages[1:]))
        (tmp_path / "t.jsonl").write_text(
            json.dumps({"image": name, "text": "x"})
            + "\n"
            + json.dumps({"image": f"{name}#page=2", "text": "y"})
            + "\n"
        )
        rows = opened(tmp_path / "t.jsonl")
        assert [len(row.images) for row in rows] == [3, 1]
        assert len({image.where for row in rows for image in row.images}) == 4
        assert rows[1].images[0].read().tobytes() == rows[0].images[1].read().tobytes()
        assert rows.group_key(0) == rows.group_key(1), "pages of one file stay in the same split"
    (tmp_path / "t.jsonl").write_text('{"image": "d.pdf#page=4", "text": "x"}\n')
    with pytest.raises(DataError, match=r"d.pdf#page=4.*has no page 4; it has 3"):
        decode_rgb(opened(tmp_path / "t.jsonl")[0].images[0])
