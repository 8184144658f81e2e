"""Memory of opening, fingerprinting and sampling Parquet shards of many tiny rows, beside the number of rows.

    python benchmarks/data/many_rows.py [ROWS …]

Prints a line per number of rows: the most anonymous memory beyond that of the imports, in bytes a row, and the time.
Every measurement has a process of its own. Files are written to a temporary folder, the cache to another.
"""

import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

SHARDS = 8
BATCH = 10_000
ROWS = (10_000, 100_000, 1_000_000)
READ = 1000


def write(folder: Path, count: int) -> None:
    """Shards of `count` rows in all, each with an id, a question, an answer and a tiny image."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (2, 2)).save(buffer, "PNG")
    image = {"bytes": buffer.getvalue(), "path": None}
    starts = [count * n // SHARDS for n in range(SHARDS + 1)]
    texts = [(name, pa.string()) for name in ("id", "question", "answer")]
    schema = pa.schema([*texts, ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))])
    for shard, (start, end) in enumerate(pairwise(starts)):
        with pq.ParquetWriter(folder / f"train-{shard:05d}.parquet", schema) as writer:
            for at in range(start, end, BATCH):
                rows = range(at, min(at + BATCH, end))
                columns = {
                    "id": [f"row {n}" for n in rows],
                    "question": [f"What is {n}?" for n in rows],
                    "answer": [str(n) for n in rows],
                    "image": [image] * len(rows),
                }
                writer.write_table(pa.table(columns, schema))


def anonymous_bytes() -> int:
    """Memory of this process that is not a mapped file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no RssAnon; this needs Linux")


class Peak:
    """The most anonymous memory during a block, looked at every 20 ms."""

    def __enter__(self) -> "Peak":
        self.bytes, self._done = anonymous_bytes(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self.bytes = max(self.bytes, anonymous_bytes())

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.bytes = max(self.bytes, anonymous_bytes())


def measure(folder: Path, count: int) -> str:
    """One line about `count` rows."""
    import pyarrow as pa

    from vlmtune.data import open_role, table
    from vlmtune.training.sampler import sample_batches

    pa.set_cpu_count(1)
    columns = {"question": "question", "references": ["answer"], "id": "id"}

    def opened(path: Path) -> Iterator[int]:
        config = table.Config(path=str(path), splits={"train": "train-*.parquet"}, **columns)  # type: ignore[arg-type]
        rows = open_role(config, "train")
        assert len(rows.fingerprint) == 64
        steps = sample_batches(rows, None, 1, 8, 1)
        drawn = random.Random(1)
        for _ in range(READ):
            yield len(rows[drawn.randrange(len(rows))].images)
        yield len(steps)

    few = folder / "few"
    few.mkdir()
    write(few, SHARDS)
    list(opened(few))  # what is imported and allocated once
    write(folder, count)
    before, began = anonymous_bytes(), time.monotonic()
    with Peak() as peak:
        *_, steps = opened(folder)
    seconds, more = time.monotonic() - began, peak.bytes - before
    size = f"{more / 1e6:>7.1f} MB  {more / count:>7.1f} bytes a row"
    return f"{count:>10,} rows  {steps:>8,} steps  {size}  {seconds:>6.1f} s"


def main() -> None:
    """Measure every number of rows in a child."""
    if os.environ.get("MANY_ROWS_CHILD"):
        print(measure(Path(sys.argv[1]), int(sys.argv[2])), flush=True)
        return
    for count in map(int, sys.argv[1:] or ROWS):
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as cache:
            environment = {**os.environ, "MANY_ROWS_CHILD": "1", "HF_HOME": cache}
            subprocess.run([sys.executable, __file__, folder, str(count)], env=environment, check=True)


if __name__ == "__main__":
    main()
