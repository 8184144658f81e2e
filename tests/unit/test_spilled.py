"""Buffers that continue on disk read as those in memory, and find the same repetitions as a dictionary."""

import random
from pathlib import Path

import huggingface_hub.constants
import pytest

from vlmtune.data import DatasetConfig, _spilled
from vlmtune.data._records import Records
from vlmtune.data._rows import MappedRows
from vlmtune.data._spilled import ContentIndex, SpilledBytes, StringArray, repeated
from vlmtune.errors import DataError, EnvironmentProblem


@pytest.fixture(autouse=True)
def on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(_spilled, "SPILL_BYTES", 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_bytes_are_read_across_disk_and_memory() -> None:
    data, kept = SpilledBytes(), b""
    for n in range(90):
        data.append(bytes([n, n]))
        kept += bytes([n, n])
        assert len(data) == len(kept)
    assert data._stored == 160
    for start in range(0, 180, 7):
        for end in range(start, 181, 11):
            assert data.read(start, end) == kept[start:end]


def test_strings_and_repetitions() -> None:
    drawn = random.Random(1)
    texts = [f"{drawn.randrange(300)} äöü"[: drawn.randrange(9)] for _ in range(2000)]
    found = StringArray(texts)
    assert found[0] == texts[0]
    assert list(found) == texts
    assert (found[-1], found[3:9:2], len(found)) == (texts[-1], texts[3:9:2], 2000)
    first: dict[str, int] = {}
    expected = {n: first[text] for n, text in enumerate(texts) if first.setdefault(text, n) != n}
    assert repeated(found) == expected
    assert list(repeated(found)) == list(expected)
    assert repeated([]) == {}


def test_contents_are_numbered() -> None:
    index, digests = ContentIndex(), ["ab" * 32, "", "cd" * 32, "ab" * 32, "", "ab" * 32]
    for n, digest in enumerate(digests):
        index.add(digest, [f"/data/images/{n}.jpg"], None)
    assert [index.digest(n) for n in range(6)] == digests
    assert index.files(4) == ["/data/images/4.jpg"]
    assert index.numbers() == {3: 2, 5: 3}


def rows(ids: list[str], **settings: object) -> MappedRows:
    config = DatasetConfig.model_validate({"source": "own", "image": None, "id": "id", **settings})
    return MappedRows(config, Records("own", len(ids), lambda n: {"id": ids[n]}, lambda value, where: value))


def test_ids_that_repeat_are_found_on_disk() -> None:
    ids = [f"a row with a long name {n}" for n in range(50)]
    assert [rows(ids).id(n) for n in range(50)] == ids
    again = [*ids, ids[7], "last", ids[7]]
    with pytest.raises(DataError, match="own, row 50: id 'a row with a long name 7' is also that of own, row 7"):
        rows(again)
    found = rows(again, max_bad_fraction=1.0)
    assert [found.id(n) for n in range(53)] == [*ids, "row 50", "last", "row 52"]
    assert found[51].id == "last"
    with pytest.raises(DataError, match="is also that of"):
        found[52]


def test_a_cache_that_cannot_be_written_is_named(on_disk: Path) -> None:
    on_disk.write_text("not a folder")
    with pytest.raises(EnvironmentProblem, match="rows and images are cached there"):
        StringArray(["a text that is longer than the buffer"] * 3)
