"""Tables: what a value is, images in them, memory, the cache, and every way in which a file can be wrong."""

import csv
import gzip
import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.constants
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet
import pytest
from builders import encoded, make_image
from growth import LINEAR, growth

from vlmtune import containers, registry
from vlmtune.containers import first_repeated
from vlmtune.data import _tables, table
from vlmtune.data._rows import MappedRows
from vlmtune.errors import DataError, EnvironmentProblem
from vlmtune.hub import cache_file
from vlmtune.images import decode_rgb
from vlmtune.predictions import Keys, read_any
from vlmtune.tasks import grounding

PNG = encoded(make_image(20, 10))
LABELS = datasets.ClassLabel(names=["cat", "dog"])


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def opened(file: Path, limit: int | None = None, **keys: Any) -> MappedRows:
    config = {"path": str(file.parent), "references": ["caption"], "image": None, **keys}
    return table.open(table.Config.model_validate(config), file.name, limit)


def write_csv(rows: pa.Table, file: Path) -> None:
    pyarrow.csv.write_csv(rows, file, pyarrow.csv.WriteOptions(delimiter="\t" if file.suffix == ".tsv" else ","))


def write_stream(rows: pa.Table, file: Path) -> None:
    with pa.ipc.new_stream(str(file), rows.schema) as writer:
        writer.write_table(rows, max_chunksize=2)


def write_file(rows: pa.Table, file: Path) -> None:
    with pa.ipc.new_file(str(file), rows.schema) as writer:
        writer.write_table(rows, max_chunksize=2)


def write_compressed(rows: pa.Table, file: Path) -> None:
    pyarrow.feather.write_feather(rows, str(file), compression="zstd", chunksize=2)


WRITERS: dict[str, Callable[[pa.Table, Path], None]] = {
    "t.csv": write_csv,
    "t.tsv": write_csv,
    "t.parquet": lambda rows, file: pyarrow.parquet.write_table(rows, file, row_group_size=2),
    "t.arrow": write_file,
    "stream.arrow": write_stream,
    "t.feather": write_compressed,
}


@pytest.mark.parametrize("name", WRITERS)
def test_columns_become_roles_in_every_format(name: str, tmp_path: Path) -> None:
    (tmp_path / "table.png").write_bytes(PNG)
    columns = {"id": list("vwxyz"), "caption": [f"One, “{n}”.\nTwo" for n in range(5)], "pic": ["table.png"] * 5}
    WRITERS[name](pa.table(columns), tmp_path / name)
    rows = opened(tmp_path / name, image="pic", id="id")
    assert [example.id for example in rows] == list("vwxyz")
    assert [example.target for example in rows] == columns["caption"]
    assert decode_rgb(rows[3].images[0]).size == (20, 10)
    assert len(opened(tmp_path / name, limit=3)) == 3
    assert opened(tmp_path / name, limit=3)[2].target == columns["caption"][2]
    assert opened(tmp_path / name).fingerprint == opened(tmp_path / name).fingerprint


@pytest.mark.parametrize("name", [name for name in WRITERS if "sv" not in name])
def test_lists_bytes_structs_and_classes_are_what_they_were(name: str, tmp_path: Path) -> None:
    columns = {
        "image": [{"bytes": PNG, "path": None}, {"bytes": None, "path": "table2.png"}],
        "raw": [PNG, PNG],
        "pages": [[{"bytes": PNG, "path": None}] * 2, []],
        "captions": [["a", "b"], ["c"]],
        "label": [1, 0],
        "labels": [[0, 1], [1]],
        "box": [[1, 2, 3, 4], [5, 6, 7, 8]],
    }
    kinds: dict[str, Any] = {"image": datasets.Image(), "raw": datasets.Value("binary"), "label": LABELS}
    kinds |= {"pages": datasets.List(datasets.Image()), "captions": datasets.List(datasets.Value("string"))}
    kinds |= {"labels": datasets.List(LABELS), "box": datasets.List(datasets.Value("int64"))}
    made = pa.Table.from_pydict(columns, datasets.Features(kinds).arrow_schema)
    WRITERS[name](made, tmp_path / name)
    (tmp_path / "table2.png").write_bytes(encoded(make_image(9, 9)))
    rows = opened(tmp_path / name, image="image", references=["captions", "label"], meta=["labels"], boxes="box")
    assert [example.truth["references"] for example in rows] == [["a", "b", "dog"], ["c", "cat"]]
    assert [decode_rgb(example.images[0]).width for example in rows] == [20, 9]
    assert rows[0].meta == {"labels": ["cat", "dog"]}
    assert rows[1].truth["boxes"] == [5, 6, 7, 8]
    assert decode_rgb(opened(tmp_path / name, image="raw", references=["label"])[0].images[0]).width == 20
    assert len(opened(tmp_path / name, images="pages", references=["label"])[0].images) == 2


def test_a_cell_of_csv_is_text_whatever_it_looks_like(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_bytes(
        b'\xef\xbb\xbfid,caption,box,words,m\r\n007,NA,"[1, 2, 3, 4]","[""ball""]",1.50\r\n\r\n8,null,[],[],\r\n'
    )
    rows = opened(file, id="id", boxes="box", keywords="words", meta=["m"])
    assert [(example.id, example.target, example.meta["m"]) for example in rows] == [
        ("007", "NA", "1.50"),
        ("8", "null", ""),
    ]
    assert (rows[0].truth["boxes"], rows[0].truth["keywords"]) == ([1, 2, 3, 4], ["ball"])


def test_types_that_change_far_down_are_no_matter(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("caption\n" + "1\n" * 20_000 + "x\n", encoding="utf-8")
    rows = opened(file)
    assert (rows[0].target, rows[20_000].target) == ("1", "x")


BAD = {
    "few values": (b'a,caption\n1,"x\ny"\n2\n', "t.csv:4: row 1 has 1 values, but the header names 2 columns"),
    "many values": (b"a,caption\n1,x\n2,y,z\n3,w\n", "t.csv:3: row 1 has 3 values.* quote values that contain ','"),
    "open quote": (b'a,caption\n1,x\n2,"y\n3,z\n', "t.csv:3: this quote is never closed"),
    "twice": (b'a,caption\n"1\n2,y,z\n",x\n2,y,z\n', "t.csv:5: row 1 has 3 values"),
    "open behind a double quote": (b'a,caption\n1,"x ""y"""\n2,"z""', "t.csv:3: this quote is never closed"),
    "open quote at the end": (b'a,caption\n1,x\n2,"y', "t.csv:3: this quote is never closed"),
    "latin-1": ("caption\nfine\ncafé\n".encode("latin-1"), "t.csv:3: not UTF-8; save the file as UTF-8"),
    "utf-16, cut off": ("caption\nfine\n".encode("utf-16")[:-1], "t.csv:1: not UTF-16; save the file as UTF-8"),
    "twin columns": (b"caption,caption\n1,2\n", "two columns are called 'caption'"),
    "empty": (b"", "t.csv: cannot be read: Empty CSV file"),
    "only a header": (b"caption\n", "t.csv: no rows"),
    "semicolons": (b"a;caption\n1;x\n", "names column 'caption'; there are: a;caption"),
    "empty value": (b"a,caption\n1,\n", "t.csv, row 0: column 'caption' is empty"),
    "nul": (b"a,caption\n1,x\0y\n", "row 0: column 'caption' contains a NUL"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_csv_is_named_with_its_line(name: str, tmp_path: Path, cache: Path) -> None:
    content, said = BAD[name]
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(DataError, match=said):
        list(opened(tmp_path / "t.csv"))


def test_another_separator(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"a;caption\n1;x, y\n")
    assert opened(tmp_path / "t.csv", separator=";")[0].target == "x, y"


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow", "t.feather"])
def test_broken_binary_files_are_named(name: str, tmp_path: Path) -> None:
    WRITERS[name](pa.table({"caption": ["a"] * 50}), tmp_path / name)
    data = (tmp_path / name).read_bytes()
    for content in (b"", data[:40], data[: len(data) // 2], b"no table"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name}: "):
            opened(tmp_path / name)


def test_offsets_that_point_out_of_an_arrow_file_are_refused(tmp_path: Path) -> None:
    write_file(pa.table({"caption": ["abc", "def"]}), tmp_path / "t.arrow")
    data = (tmp_path / "t.arrow").read_bytes()
    offsets = (0).to_bytes(4, "little") + (3).to_bytes(4, "little") + (6).to_bytes(4, "little")
    assert data.count(offsets) == 1
    (tmp_path / "t.arrow").write_bytes(data.replace(offsets, offsets[:8] + (1 << 30).to_bytes(4, "little")))
    with pytest.raises(DataError, match="t.arrow: cannot be read"):
        opened(tmp_path / "t.arrow")


def test_missing_files_name_what_is_there(tmp_path: Path) -> None:
    write_csv(pa.table({"caption": ["a"]}), tmp_path / "train.csv")
    with pytest.raises(DataError, match="test.csv: no such file; .* has train.csv"):
        opened(tmp_path / "test.csv")
    (tmp_path / "train.xls").write_bytes(b"x")
    with pytest.raises(DataError, match="a table must end in .csv, .tsv, .parquet, .arrow, .feather"):
        opened(tmp_path / "train.xls")


def kept(cache: Path) -> list[Path]:
    return sorted(file for file in cache.rglob("*.arrow") if not file.name.startswith("."))


def test_a_table_is_written_to_the_cache_once_for_each_content(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "t.csv"
    for content, copies in (("a", 1), ("a", 1), ("b", 2)):
        if not file.exists() or content not in file.read_text():
            file.write_text(f"caption\n{content}\n")
        assert opened(file)[0].target == content
        assert len(kept(cache)) == copies
    write_file(pa.table({"caption": ["c"]}), tmp_path / "t.arrow")
    assert opened(tmp_path / "t.arrow")[0].target == "c"
    assert len(kept(cache)) == 2, "Arrow is read where it lies"


def test_a_conversion_that_was_killed_leaves_nothing_that_is_believed(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pyarrow.parquet.write_table(pa.table({"caption": list("abc")}), tmp_path / "t.parquet")

    def killed(file: Path, schema: Any, batches: Any) -> None:
        file.write_bytes(b"ARROW1 half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_tables, "write_arrow", killed)
        with pytest.raises(KeyboardInterrupt):
            opened(tmp_path / "t.parquet")
    assert kept(cache) == []
    assert len(opened(tmp_path / "t.parquet")) == 3


def _open_and_count(file: Path, cache: Path, made: Any) -> None:
    huggingface_hub.constants.HF_HOME = str(cache)
    made.put(len(opened(file)))


def test_processes_that_start_together_all_get_the_rows(tmp_path: Path, cache: Path) -> None:
    pyarrow.parquet.write_table(pa.table({"caption": [f"c{n}" for n in range(3000)]}), tmp_path / "t.parquet")
    fork = multiprocessing.get_context("fork")
    made = fork.Queue()
    started = [fork.Process(target=_open_and_count, args=(tmp_path / "t.parquet", cache, made)) for _ in range(4)]
    for process in started:
        process.start()
    assert [made.get(timeout=60) for _ in started] == [3000] * 4
    for process in started:
        process.join()
    assert len(kept(cache)) == 1


def test_a_cache_that_cannot_be_written_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.csv").write_text("caption\na\n")
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path / "file"))
    with pytest.raises(EnvironmentProblem, match="Free some space, or set HF_HOME"):
        opened(tmp_path / "t.csv")


@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "t.arrow", "t.feather"])
def test_memory_does_not_grow_with_the_rows(name: str, tmp_path: Path) -> None:
    text = "x" * 20_000
    WRITERS[name](pa.table({"id": [str(n) for n in range(1000)], "caption": [text] * 1000}), tmp_path / name)
    before = pa.total_allocated_bytes()
    rows = opened(tmp_path / name, id="id")
    assert rows[999].target == text
    assert rows.target_count(5) == 1
    assert pa.total_allocated_bytes() - before < 1_000_000, "of 20 MB"


BOXES = {
    "pixels xyxy": ("pixels", "xyxy", [2, 2, 12, 6]),
    "pixels xywh": ("pixels", "xywh", [2, 2, 10, 4]),
    "unit xyxy": ("unit", "xyxy", [0.1, 0.2, 0.6, 0.6]),
    "unit xywh": ("unit", "xywh", [0.1, 0.2, 0.5, 0.4]),
    "norm1000 xyxy": ("norm1000", "xyxy", [100, 200, 600, 600]),
    "norm1000 xywh": ("norm1000", "xywh", [100, 200, 500, 400]),
}


@pytest.mark.parametrize("name", BOXES)
@pytest.mark.parametrize("kind", ["t.csv", "t.parquet", "t.jsonl", "imagefolder"])
def test_a_box_means_the_same_from_every_source(kind: str, name: str, tmp_path: Path) -> None:
    unit, corners, box = BOXES[name]
    place = tmp_path / "split" if kind == "imagefolder" else tmp_path
    place.mkdir(exist_ok=True)
    (place / "table3.png").write_bytes(PNG)
    row = {"image": "table3.png", "file_name": "table3.png", "phrase": "the ball", "box": box}
    if kind == "t.jsonl":
        (tmp_path / kind).write_text(json.dumps(row) + "\n")
    elif kind == "t.parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist([row]), tmp_path / kind)
    else:
        values = {key: value if isinstance(value, str) else json.dumps(value) for key, value in row.items()}
        if kind == "imagefolder":
            del values["image"]
        write_csv(pa.Table.from_pylist([values]), place / "metadata.csv" if kind == "imagefolder" else tmp_path / kind)
    source = {"t.jsonl": "jsonl", "imagefolder": "imagefolder"}.get(kind, "table")
    plugin = registry.load("data", source)
    config = plugin.Config(path=str(tmp_path), question="phrase", boxes="box")
    example = plugin.open(config, "split" if kind == "imagefolder" else kind)[0]
    task = grounding.Config.model_validate({"unit": unit, "corners": corners})
    assert grounding.TASK.truth(task, example)["boxes"] == [pytest.approx([100, 200, 600, 600])]
    target = json.loads(grounding.TASK.target(task, example))
    assert target == [{"bbox_2d": [100, 200, 600, 600], "label": "the ball"}]


def test_a_kept_file_is_named_by_its_key() -> None:
    assert cache_file("rows", ["a", 1]) != cache_file("rows", ["a", 2])
    assert cache_file("rows", ["a", 1], ".arrow") == cache_file("rows", ["a", 1], ".arrow")


def shards(folder: Path, kind: str, **more: list[dict[str, Any]]) -> None:
    """Three files of two rows; each file's name sorts before the next."""
    for number in range(3):
        records = [{"n": f"{number}{row}", "caption": f"c{number}{row}"} for row in range(2)]
        records = more.get(f"f{number}", records)
        file = folder / f"train-{number:05}-of-00003{kind}"
        if kind == ".jsonl":
            file.write_text("".join(json.dumps(record) + "\n" for record in records))
        else:
            WRITERS[f"t{kind}"](pa.Table.from_pylist(records), file)


@pytest.mark.parametrize("kind", [".csv", ".parquet", ".feather", ".jsonl"])
def test_a_pattern_takes_all_rows_of_all_files(kind: str, tmp_path: Path) -> None:
    shards(tmp_path, kind)
    plugin = registry.load("data", "jsonl" if kind == ".jsonl" else "table")
    config = plugin.Config(path=str(tmp_path), image=None, references=["caption"], id="n")

    def ids(limit: int | None) -> list[str]:
        return [row.id for row in plugin.open(config, f"train-*{kind}", limit)]

    assert ids(None) == ["00", "01", "10", "11", "20", "21"]
    assert ids(3) == ["00", "01", "10"]
    whole = plugin.open(config, f"train-*{kind}")
    assert [whole.target_count(5), whole[4].target] == [1, "c20"]
    assert whole.fingerprint == plugin.open(config, f"train-?????-of-00003{kind}").fingerprint
    assert len(plugin.open(config, f"train-00001-of-00003{kind}")) == 2
    with pytest.raises(DataError, match=r"test-\*: no file matches this pattern; .* has train-00000-of-00003"):
        plugin.open(config, "test-*")


@pytest.mark.parametrize("kind", [".csv", ".parquet", ".jsonl"])
def test_what_is_wrong_in_one_of_several_files_names_it(kind: str, tmp_path: Path) -> None:
    plugin = registry.load("data", "jsonl" if kind == ".jsonl" else "table")
    config = plugin.Config(path=str(tmp_path), image=None, references=["caption"], id="n")
    fine = {"n": "10", "caption": "c"}
    for bad, said in (
        ({"n": "11", "caption": "  "}, "train-00001-of-00003[^ ]*, row 1: column 'caption' is empty"),
        ({"n": "00", "caption": "c"}, "train-00001-[^ ]*, row 1: id '00' is also that of .*train-00000-[^ ]*, row 0"),
    ):
        shards(tmp_path, kind, f1=[fine, bad])
        with pytest.raises(DataError, match=said):
            list(plugin.open(config, f"train-*{kind}"))
    shards(tmp_path, kind, f1=[{"n": "10", "text": "c"}])
    said = "train-00001-of-00003.*(its columns differ from those of .*train-00000.*: caption, text\\.|no column)"
    with pytest.raises(DataError, match=said):
        list(plugin.open(config, f"train-*{kind}"))


def test_files_of_a_pattern_have_the_same_classes(tmp_path: Path) -> None:
    for number, names in enumerate((["cat", "dog"], ["dog", "cat"])):
        schema = datasets.Features({"caption": datasets.ClassLabel(names=names)}).arrow_schema
        pyarrow.parquet.write_table(pa.Table.from_pydict({"caption": [0]}, schema), tmp_path / f"t{number}.parquet")
    with pytest.raises(DataError, match=r"t1.parquet: its columns differ from those of .*t0.parquet: caption\."):
        opened(tmp_path / "t*.parquet")


def test_images_of_several_files_have_names_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "table4.png").write_bytes(PNG)
    for number in range(2):
        write_csv(pa.table({"image": ["table4.png"], "caption": ["c"]}), tmp_path / f"t{number}.csv")
    rows = opened(tmp_path / "t[01].csv", image="image")
    assert len({row.images[0].where for row in rows}) == len(rows) == 2


def test_a_file_of_just_that_name_is_no_pattern(tmp_path: Path) -> None:
    for name in ("t[01].csv", "t0.csv"):
        write_csv(pa.table({"caption": [name]}), tmp_path / name)
    assert [row.target for row in opened(tmp_path / "t[01].csv")] == ["t[01].csv"]


def test_an_ending_in_capitals_and_a_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "table5.png").write_bytes(PNG)
    write_csv(pa.table({"image": ["table5.png"], "caption": ["c"]}), tmp_path / "TRAIN.CSV")
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    rows = opened(Path("~", tmp_path.name, "TRAIN.CSV"), image="image")
    assert (rows[0].target, decode_rgb(rows[0].images[0]).width) == ("c", 20)


@pytest.mark.parametrize("last", ['""', '"so ""he"" said"', '"he said ""so"""', '"a""b"', 'x 5"', '5" and "6"'])
def test_the_last_value_may_end_in_a_quote(last: str, tmp_path: Path, cache: Path) -> None:
    """As the reader of the standard library."""
    text = f'n,caption\n1,"a ""quoted"" text"\n2,{last}'
    (tmp_path / "quotes.csv").write_text(text)
    rows = table.records(table.Config(path=str(tmp_path), image=None), "quotes.csv")
    assert [rows.read(n) for n in range(rows.count)] == list(csv.DictReader(text.splitlines(keepends=True)))


@pytest.mark.parametrize("ending", [".parquet", ".feather"])
def test_dictionaries_that_differ_between_parts_of_a_file(ending: str, tmp_path: Path, cache: Path) -> None:
    """As pandas writes categories: each part of the file has the values that stand in it."""
    kind = pa.dictionary(pa.int8(), pa.string())
    parts = [pa.array(words).dictionary_encode().cast(kind) for words in (["fox", "owl"], ["owl", "hare"])]
    batches = [pa.record_batch([part], names=["caption"]) for part in parts]
    file = tmp_path / f"categories{ending}"
    if ending == ".parquet":
        with pa.parquet.ParquetWriter(file, batches[0].schema) as parquet:
            for batch in batches:
                parquet.write_batch(batch)
    else:
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with file.open("wb") as stream, pa.ipc.new_stream(stream, batches[0].schema, options=options) as writer:
            for batch in batches:
                writer.write_batch(batch)
    rows = table.open(table.Config(path=str(tmp_path), image=None, references=["caption"]), file.name)
    assert [row.truth["references"] for row in rows] == [["fox"], ["owl"], ["owl"], ["hare"]]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything: run the tests as another user")
def test_a_table_that_may_not_be_read_is_named(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "locked.csv").write_text("a\n1\n")
    (tmp_path / "locked.csv").chmod(0)
    with pytest.raises(EnvironmentProblem, match="locked.csv: Permission denied; check that it exists"):
        table.open(table.Config(path=str(tmp_path), image=None, references=["a"]), "locked.csv")


def test_a_file_that_expands_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One value, stored once, in every row: 100 KB of Parquet are gigabytes of text."""
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 2000, pa.int32()), pa.array(["x" * 10_000]))
    pyarrow.parquet.write_table(pa.table({"caption": column}), tmp_path / "t.parquet", compression="zstd")
    monkeypatch.setattr(containers, "ALWAYS_ALLOWED", 1_000_000)
    with pytest.raises(DataError, match=r"t.parquet: the file has [\d,]+ bytes, its content more than"):
        opened(tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"t.parquet: the file has [\d,]+ bytes, its content more than"):
        read_any(tmp_path / "t.parquet", Keys(prediction="caption"))
    (tmp_path / "p.jsonl.gz").write_bytes(gzip.compress(b" " * 3_000_000))
    with pytest.raises(DataError, match=r"p.jsonl.gz: the file has [\d,]+ bytes, its content more than"):
        read_any(tmp_path / "p.jsonl.gz")


def test_many_columns_are_read_in_linear_time(tmp_path: Path) -> None:
    def read(text: str) -> None:
        names = [f"c{n}" for n in range(len(text))]
        file = tmp_path / f"{len(text)}.csv"
        file.write_text(",".join(["caption", *names]) + "\n" + ",".join(["a", *names]) + "\n")
        assert first_repeated([*names, "c3"]) == "c3"
        assert len(opened(file)) == 1
        assert len(read_any(file, Keys(prediction="caption")).lines) == 1

    assert growth(read, "x", 2500) < LINEAR
