"""What a training keeps of each row beside the model: its place, id and content, its examples' lengths, its samples."""

import gc
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pyarrow as pa
import pyarrow.parquet
import pytest
from builders import make_image

from vlmtune import registry
from vlmtune.data import Rows, _spilled
from vlmtune.processing.chat_template import Renderer
from vlmtune.processing.encoder import Encoder
from vlmtune.progress import Progress, Silent
from vlmtune.signals import StopRequest
from vlmtune.tasks import vqa
from vlmtune.training.config import TrainingConfig
from vlmtune.training.dataset import TrainingExamples
from vlmtune.training.sampler import sample_batches

MOST_BYTES, MOST_BYTES_SPILLED = 200, 45
EPOCHS = 3
FEW = 200


def opened(folder: Path, source: str, count: int, column: str | None, named: bool) -> Rows:
    rows = [{"n": f"row {n}", "q": f"What is {n}?", "a": [f"{n}", "no"], "pic": "shared.png"} for n in range(count)]
    file = folder / f"{count}.{'jsonl' if source == 'jsonl' else 'parquet'}"
    if source == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), file)
    del rows
    plugin = registry.load("data", source)
    columns = {"question": "q", "references": ["a"], "target": "sample", "image": column, "id": "n" if named else None}
    found: Rows = plugin.open(plugin.Config(path=str(folder), **columns), file.name)
    assert len(found.fingerprint) == 64
    return found


def bytes_a_row(keep: Callable[[int], Any]) -> float:
    """How much more `keep` leaves in memory for ten times as many rows, over the rows that are more."""
    left = []
    for count in (FEW, FEW, 10 * FEW):  # once for what is made at the first use
        gc.collect()
        tracemalloc.start()
        kept = keep(count)
        gc.collect()
        left.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        del kept
    return (left[2] - left[1]) / (9 * FEW)


@pytest.mark.parametrize("named", [True, False], ids=["named", "by content"])
@pytest.mark.parametrize("column", [None, "pic"], ids=["text", "a picture"])
@pytest.mark.parametrize("source", ["jsonl", "table"])
def test_rows_and_their_samples(
    source: str, column: str | None, named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path / "cache"))
    make_image(40, 40).save(tmp_path / "shared.png")

    def keep(count: int) -> Any:
        rows = opened(tmp_path, source, count, column, named)
        return rows, sample_batches(rows, "sample", EPOCHS, 8, 1)

    taken = bytes_a_row(keep)
    print(f"{source}, {column}, {named}: {taken:.0f} bytes a row with {EPOCHS} epochs planned")
    assert taken <= MOST_BYTES


@pytest.mark.parametrize("source", ["jsonl", "table"])
def test_rows_themselves_lie_on_disk(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the first megabyte of each buffer, which here is 4 KiB: ids, contents and image files take no memory."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(_spilled, "SPILL_BYTES", 4096)
    make_image(40, 40).save(tmp_path / "shared.png")
    taken = bytes_a_row(lambda count: opened(tmp_path, source, count, "pic", True))
    print(f"{source}: {taken:.0f} bytes a row")
    assert taken <= MOST_BYTES_SPILLED


def test_lengths_of_examples(encoder: Encoder, tmp_path: Path) -> None:
    def sizes(count: int) -> Any:
        rows = opened(tmp_path, "jsonl", count, None, True)
        lessons = TrainingExamples(rows, vqa.TASK, vqa.Config(), encoder, TrainingConfig(workers=0))
        found = lessons.check("train", Progress(Silent()), StopRequest())
        Renderer._encode.cache_clear()  # it keeps no more than 4,096 texts
        return rows, found

    taken = bytes_a_row(sizes)
    print(f"checked: {taken:.0f} bytes a row")
    assert taken <= MOST_BYTES
