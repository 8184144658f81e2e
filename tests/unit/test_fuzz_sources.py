"""Broken dataset files of every kind end in rows or in an error of ours, never in anything else.

By itself, with more rounds and another seed: PYTHONPATH=tests python tests/unit/test_fuzz_sources.py ROUNDS SEED.
"""

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from fuzzing import hunt, mutated

from vlmtune import registry
from vlmtune.data import DatasetConfig
from vlmtune.data._annotations import FOLDERS

ROUNDS, SOAKED = 300, 2000
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
BINARY = (b"PAR1", b"ARRO", b"\xff\xff\xff\xff")
"""How Parquet, Arrow files and Arrow streams begin."""


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
        file.write_bytes(mutated(good, rng, binary=good[:4] in BINARY))
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
