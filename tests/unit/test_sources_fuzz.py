"""Broken dataset files of every kind end in rows or in an error of ours, never in anything else.

By itself, with more rounds and another seed: python tests/unit/test_sources_fuzz.py ROUNDS SEED.
"""

import json
import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from vlmtune import plugs
from vlmtune.data import DatasetConfig
from vlmtune.errors import VlmtuneError

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
BINARY = (b"PAR1", b"ARRO", b"\xff\xff\xff\xff")
"""How Parquet, Arrow files and Arrow streams begin."""

HUGE = [b"1e999", b"9" * 400, b"-0", b"NaN", b"[" * 3000, b'{"a":' * 2000, b"null", b"\\ud800", b"18446744073709551616"]


def damages(data: bytes, rng: random.Random) -> list[Callable[[], bytes]]:
    """What may happen to a file: to its bits, ends, lines, encoding, values."""
    at, length = rng.randrange(len(data) + 1), rng.randrange(1, 40)
    lines = data.split(b"\n")
    first, second = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[first], lines[second] = lines[second], lines[first]
    text = data.decode("utf-8", "replace")
    put = [*HUGE, b'"', b",", b"]", b"}", b"\\", b"\t", b"\0"]
    return [
        lambda: flipped(data, rng, 8),
        lambda: data[:at],
        lambda: data[at:],
        lambda: data[:at] + data[at + length :],
        lambda: data[:at] + data[at : at + length] * 3 + data[at:],
        lambda: b"\n".join(lines),
        lambda: b"\xef\xbb\xbf" + data,
        lambda: data.replace(b"\n", b"\r\n"),
        lambda: text.encode("utf-16"),
        lambda: text.encode("latin-1", "replace"),
        *[lambda: data[:at] + rng.choice(put) + data[at:]] * 3,
    ]


def flipped(data: bytes, rng: random.Random, most: int) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, most) if data else 0):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One to three damages. Of binary files a byte or two in most cases: more, and nothing reads beyond the header."""
    if data[:4] in BINARY and rng.random() < 0.8:
        return flipped(data, rng, 2)
    for _ in range(rng.randint(1, 3)):
        data = rng.choice(damages(data, rng))()
    return data


def hunt(folder: Path, name: str, rounds: int, seed: int) -> Counter[str]:
    """How broken copies of a file ended: in "rows" or "error"; anything else is raised."""
    source, good = FILES[name]
    plug = plugs.load("data", source)
    ends: Counter[str] = Counter()
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    split = name if source != "imagefolder" else "split"
    for number in range(rounds):
        rng = random.Random(f"{seed}/{name}/{number}")
        keys: dict[str, Any] = rng.choice([KEYS, TALK])
        bad = rng.choice([0, 0.9])
        config: DatasetConfig = plug.Config.model_validate({"path": str(folder), **keys, "max_bad_fraction": bad})
        file.unlink(missing_ok=True)  # a mapped file must not change under its reader
        file.write_bytes(mutated(good, rng))
        try:
            for example in plug.open(config, split, rng.choice([None, 3])):
                assert isinstance(example.id, str)
            ends["rows"] += 1
        except VlmtuneError:
            ends["error"] += 1
        except Exception as error:
            error.add_note(f"{name}, round {number} of seed {seed}: {file}")
            raise
    return ends


@pytest.mark.parametrize("name", FILES)
def test_broken_files_end_in_rows_or_a_named_error(
    name: str, tmp_path: Path, soak: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path / "cache"))
    ends = hunt(tmp_path, name, SOAKED if soak else ROUNDS, seed=1)
    assert min(ends["rows"], ends["error"]) >= 10, "the damage is too heavy or too light to say anything"


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as made:
        huggingface_hub.constants.HF_HOME = f"{made}/cache"
        for each in FILES:
            print(each, dict(hunt(Path(made, each), each, int(sys.argv[1]), int(sys.argv[2]))), flush=True)
