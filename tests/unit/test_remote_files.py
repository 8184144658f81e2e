"""Shards in an object store: found by pattern, copied once for each version, and read like local ones."""

import json
from pathlib import Path
from typing import Any

import fsspec
import huggingface_hub.constants
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlmtune.data import jsonl, open_role, table
from vlmtune.data._remote_files import Folder
from vlmtune.errors import DataError, EnvironmentProblem


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path / "cache"))
    memory = fsspec.filesystem("memory")
    memory.makedirs("/bucket/rows", exist_ok=True)
    for shard in range(3):
        rows = [{"id": f"{shard}/{n}", "question": f"What is {n}?", "answer": str(n)} for n in range(2)]
        with memory.open(f"/bucket/rows/train-{shard}.parquet", "wb") as stream:
            pq.write_table(pa.Table.from_pylist(rows), stream)
        with memory.open(f"/bucket/rows/train-{shard}.jsonl", "w") as stream:
            stream.write("".join(json.dumps(row) + "\n" for row in rows))
    yield memory
    memory.rm("/bucket", recursive=True)


@pytest.mark.parametrize("source", [table, jsonl])
def test_shards_of_a_store_are_one_split(source: Any, store: Any, tmp_path: Path) -> None:
    ending = "parquet" if source is table else "jsonl"
    columns = {"image": None, "question": "question", "references": ["answer"], "id": "id"}
    splits = {"train": f"train-*.{ending}", "validation": f"train-0.{ending}", "test": f"gone.{ending}"}
    config = source.Config(path="memory://bucket/rows/", splits=splits, **columns)
    rows = open_role(config, "train")
    assert [rows.id(n) for n in range(len(rows))] == [f"{shard}/{n}" for shard in range(3) for n in range(2)]
    assert (rows[3].question, len(open_role(config, "validation"))) == ("What is 1?", 2)
    copies = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache/vlmtune/files").glob(f"*.{ending}")}
    assert len(copies) == 3
    assert open_role(config, "train").fingerprint == rows.fingerprint
    assert {file: file.stat().st_mtime_ns for file in copies} == copies, "copied once"
    with pytest.raises(DataError, match=rf"memory://bucket/rows/gone.{ending}: no such file; .*train-0.{ending}"):
        open_role(config, "test")


def test_files_that_are_not_needed_are_not_copied(store: Any, tmp_path: Path) -> None:
    config = jsonl.Config(
        path="memory://bucket/rows", splits={"train": "train-*.jsonl"}, limit={"train": 2}, image=None, id="id"
    )
    assert len(open_role(config, "train")) == 2
    assert len(list((tmp_path / "cache/vlmtune/files").glob("*.jsonl"))) == 1


def test_another_version_is_another_copy(store: Any) -> None:
    folder = Folder("memory://bucket/rows")
    [first] = folder.find("train-0.jsonl", [".jsonl"])
    assert folder.fetch(first).read_text().startswith('{"id": "0/0"')
    store.rm("/bucket/rows/train-0.jsonl")
    with store.open("/bucket/rows/train-0.jsonl", "w") as stream:
        stream.write('{"id": "other"}\n')
    again = Folder("memory://bucket/rows")
    [second] = again.find("train-0.jsonl", [".jsonl"])
    assert second != first
    assert again.fetch(second).read_text() == '{"id": "other"}\n'


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("nosuch://bucket", "nosuch://bucket: cannot be read: .*nosuch"),
        ("memory://gone", "memory://gone: cannot be read"),
    ],
)
def test_a_store_that_cannot_be_read_is_named(path: str, said: str) -> None:
    with pytest.raises(EnvironmentProblem, match=said):
        Folder(path).find("train.jsonl", [".jsonl"])
