"""Broken dataset files of every kind end in rows or in an error of ours, never in anything else.

By itself, with more rounds and another seed: PYTHONPATH=tests python tests/fuzz/test_fuzz_sources.py ROUNDS SEED.
"""

import gzip
import io
import json
import random
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import openpyxl
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from fuzzing import hunt, mutated

from vlmtune import registry
from vlmtune.data import DatasetConfig
from vlmtune.data._annotations import FOLDERS

ROUNDS, SOAKED = 100, 2000
ROWS: list[dict[str, Any]] = [
    {
        "id": f"r{n}",
        "image": "a.png",
        "caption": f"A red ball, number {n}.\nIt's “round”, and é.",
        "box": [n, 2, 30, 40],
        "messages": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": f"Ball {n}."}],
        "words": ["ball", "red|crimson"],
    }
    for n in range(7)
]
KEYS = {"references": ["caption"], "boxes": "box", "keywords": "words", "id": "id"}
TALK = {"messages": "messages", "images": "image", "id": "id"}


def csv_bytes(separator: str) -> bytes:
    def cell(value: Any) -> str:
        text = value if isinstance(value, str) else json.dumps(value)
        return '"' + text.replace('"', '""') + '"'

    lines = [separator.join(ROWS[0]), *(separator.join(map(cell, row.values())) for row in ROWS)]
    return ("\n".join(lines) + "\n").encode()


def table_bytes(write: Callable[[pa.Table, Any], object]) -> bytes:
    sink = pa.BufferOutputStream()
    write(pa.Table.from_pylist(ROWS), sink)
    return bytes(sink.getvalue())


def arrow_stream(table: pa.Table, sink: Any) -> None:
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)


def excel_bytes() -> bytes:
    book, stream = openpyxl.Workbook(), io.BytesIO()
    for row in [list(ROWS[0]), *(list(row.values()) for row in ROWS)]:
        book.active.append([cell if isinstance(cell, str) else json.dumps(cell) for cell in row])
    book.save(stream)
    return stream.getvalue()


def tar_bytes() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for row in ROWS:
            rest = {key: value for key, value in row.items() if key != "image"}
            for ending, data in {"png": b"no image", "json": json.dumps(rest).encode(), "txt": b"A cat."}.items():
                info = tarfile.TarInfo(f"d/{row['id']}.{ending}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


FILES: dict[str, tuple[str, bytes]] = {
    "t.jsonl": ("jsonl", "".join(json.dumps(row) + "\n" for row in ROWS).encode()),
    "t.json": ("jsonl", json.dumps(ROWS, indent=1, ensure_ascii=False).encode()),
    "t.csv": ("table", csv_bytes(",")),
    "t.tsv": ("table", csv_bytes("\t")),
    "t.parquet": ("table", table_bytes(pyarrow.parquet.write_table)),
    "t.feather": ("table", table_bytes(pyarrow.feather.write_feather)),
    "t.arrow": ("table", table_bytes(arrow_stream)),
    "split/metadata.csv": ("imagefolder", csv_bytes(",").replace(b"image", b"file_name", 1)),
    "split/metadata.jsonl": (
        "imagefolder",
        "".join(json.dumps({"file_name": "a.png", **row}) + "\n" for row in ROWS).encode(),
    ),
}
COLUMNS = {key: [row[key] for row in ROWS] for key in ROWS[0]}
VALUES = [list(row.values()) for row in ROWS]
FILES |= {
    "object.json": ("jsonl", json.dumps({"version": 1, "data": ROWS}).encode()),
    "keyed.json": ("jsonl", json.dumps({row["id"] + "x": row for row in ROWS}).encode()),
    "split.json": ("jsonl", json.dumps({"train": ROWS[:4], "test": ROWS[4:]}).encode()),
    "columns.json": ("jsonl", json.dumps(COLUMNS).encode()),
    "pandas.json": ("jsonl", json.dumps({"columns": list(ROWS[0]), "data": VALUES}).encode()),
    "arrays.json": ("jsonl", json.dumps([list(ROWS[0]), *VALUES]).encode()),
    "utf16.jsonl": ("jsonl", FILES["t.jsonl"][1].decode().encode("utf-16")),
    "utf16.csv": ("table", csv_bytes(",").decode().encode("utf-16-le")),
    "mac.csv": ("table", b"sep=;\r" + csv_bytes(";").replace(b"\n", b"\r")),
    "t.jsonl.gz": ("jsonl", gzip.compress(FILES["t.jsonl"][1], 0)),
    "t.csv.gz": ("table", gzip.compress(csv_bytes(","), 0)),
    "t.xlsx": ("table", excel_bytes()),
    "t.tar": ("webdataset", tar_bytes()),
}
COCO = {
    "images": [{"id": n, "file_name": "a.png"} for n in range(5)],
    "annotations": [
        {"image_id": n % 5, "caption": f"“{n}”", "bbox": [n, 1, 2.5, 3], "category_id": n % 2, "iscrowd": 0}
        for n in range(9)
    ],
    "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
}
KARPATHY = {"images": [{"filename": "a.png", "split": "train", "sentences": [{"raw": "A cat."}, {"raw": "A é."}]}] * 6}
VQA = {
    "questions": [
        {"question_id": n, "image": "a.png", "question": "What?", "image_id": n, "answers": ["a"]} for n in range(5)
    ]
}
VOC = """<annotation><filename>a.png</filename><size><width>20</width></size><object><name>cät</name><bndbox>
<xmin>1</xmin><ymin>2</ymin><xmax>3.5</xmax><ymax>4</ymax></bndbox></object></annotation>"""
CVAT = """<?xml version="1.0"?><annotations><image id="0" name="a.png" subset="train"><tag label="cät"/>
<box label="cat" xtl="1" ytl="2" xbr="3" ybr="4"/><polygon label="dog" points="1,2;3,4"/></image></annotations>"""
REGION = {"x": 10, "y": 20.5, "width": 30, "height": 40, "rotation": 0, "rectanglelabels": ["cät"]}
RESULTS = [{"type": "choices", "value": {"choices": ["ok"]}}, {"type": "rectanglelabels", "value": REGION}]
TASK = {"data": {"image": "/data/upload/1/a.png"}, "annotations": [{"result": RESULTS}]}
MIN_TASK = {"image": "/data/upload/1/a.png", "choice": "ok", "label": [REGION]}
ANNOTATED: dict[str, tuple[str, bytes]] = {
    "coco.json": ("coco", json.dumps(COCO, indent=1).encode()),
    "karpathy.json": ("karpathy", json.dumps(KARPATHY).encode()),
    "vqa.json": ("vqa", json.dumps(VQA).encode()),
    "token.txt": ("captions", "".join(f"a{n // 2}.png#{n}\tA cät {n} .\n" for n in range(9)).encode()),
    "images/a.txt": ("yolo", b"0 0.5 0.5 0.2 0.2\n1 0.1 0.2 0.3 0.4\n" * 3),
    "a.xml": ("voc", VOC.encode()),
    "a.json": ("sidecar", json.dumps({"shop": "Zoë", "items": [{"name": "tea", "price": 2.5}]}).encode()),
    "ls.json": ("label_studio", json.dumps([{**TASK, "id": n} for n in range(5)]).encode()),
    "min.json": ("label_studio", json.dumps([{**MIN_TASK, "id": n} for n in range(5)]).encode()),
    "cvat.xml": ("cvat", CVAT.encode()),
    "pipes.csv": ("captions", b"image_name| comment_number| comment\n" + b"a.png| 0| A cat .\n" * 8),
}
"""Files in formats of `annotations`, by name."""

FILES |= {name: ("annotations", data) for name, (_, data) in ANNOTATED.items()}
BINARY = (b"PAR1", b"ARRO", b"\xff\xff\xff\xff", b"PK\3\4", b"d/r0")
"""How Parquet, Arrow files and streams, Excel and our tar begin."""


def damaged(good: bytes, rng: random.Random) -> bytes:
    """A mutated file. A compressed one may be whole around mutated text: any change to itself is noticed."""
    if good.startswith(b"\x1f\x8b"):
        return gzip.compress(mutated(gzip.decompress(good), rng), 1) if rng.random() < 0.7 else mutated(good, rng)
    if good[:4] not in BINARY and b"\0" in good[:4] and rng.random() < 0.9:
        encoding = "utf-16" if good.startswith(b"\xff\xfe") else "utf-16-le"
        return mutated(good.decode(encoding).encode(), rng).decode("utf-8", "replace").encode(encoding)
    return mutated(good, rng, binary=good[:4] in BINARY)


def broken(folder: Path, name: str) -> Callable[[random.Random], None]:
    """A case of a hunt: read a broken copy of a file to its end."""
    source, good = FILES[name]
    plugin = registry.load("data", source)
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    split = name if source != "imagefolder" else "split"
    if name in ANNOTATED and ANNOTATED[name][0] in FOLDERS:
        split = "."

    def case(rng: random.Random) -> None:
        keys: dict[str, Any] = rng.choice([KEYS, TALK])
        if name in ANNOTATED:
            keys = {"format": ANNOTATED[name][0], "image": "image", "meta": rng.choice([[], ["id"]])}
            (file.parent / "a.png").touch()
        bad = rng.choice([0, 0.9])
        config: DatasetConfig = plugin.Config.model_validate({"path": str(folder), **keys, "max_bad_fraction": bad})
        file.unlink(missing_ok=True)  # a mapped file must not change under its reader
        file.write_bytes(damaged(good, rng))
        for example in plugin.open(config, split, rng.choice([None, 3])):
            assert isinstance(example.id, str)

    return case


@pytest.mark.parametrize("name", FILES)
def test_broken_files_end_in_rows_or_a_named_error(
    name: str, tmp_path: Path, soak: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path / "cache"))
    ends = hunt(name, SOAKED if soak else ROUNDS, broken(tmp_path, name))
    assert min(ends["fine"], ends["error"]) >= 10, "the damage is too heavy or too light to say anything"


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as made:
        huggingface_hub.constants.HF_HOME = f"{made}/cache"
        for each in FILES:
            print(
                each, dict(hunt(each, int(sys.argv[1]), broken(Path(made, each), each), int(sys.argv[2]))), flush=True
            )
