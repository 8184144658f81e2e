"""The Hub source on local folders: image columns, what rows may name, and what each failure is called."""

import datetime
import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.constants
import pyarrow.parquet
import pytest
from builders import encoded, make_image
from datasets.exceptions import DataFilesNotFoundError, DatasetGenerationError, DatasetNotFoundError

from vlmtune.data import hub
from vlmtune.data._rows import MappedRows
from vlmtune.errors import DataError, EnvironmentProblem, VlmtuneError
from vlmtune.hub import http_error
from vlmtune.images import decode_rgb

Images = dict[str, Any]
Save = Callable[..., Path]


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache / "datasets")
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", cache / "datasets/downloads")
    monkeypatch.setattr(datasets.config, "EXTRACTED_DATASETS_PATH", cache / "datasets/downloads/extracted")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(cache))
    return cache


def held(seed: int) -> Images:
    """An image inside the row; its width tells it apart."""
    return {"bytes": encoded(make_image(8 + seed, 8, seed=seed)), "path": None}


def named(file: Path | str) -> Images:
    return {"bytes": None, "path": str(file)}


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Write columns to a parquet file of the dataset's folder."""

    def write(**columns: list[Any]) -> Path:
        features = {
            "image": datasets.Image(),
            "pages": datasets.List(datasets.Image()),
            "caption": datasets.Value("string"),
            "n": datasets.Value("int64"),
            "day": datasets.Value("date32"),
            "time": datasets.Value("timestamp[s]"),
        }
        schema = datasets.Features({name: features[name] for name in columns}).arrow_schema
        folder = tmp_path / "data"
        folder.mkdir(exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pydict(columns, schema), folder / "train.parquet")
        return folder

    return write


def rows(folder: Path, limit: int | None = None, **keys: Any) -> MappedRows:
    return hub.open(hub.Config.model_validate({"path": str(folder), "references": ["caption"], **keys}), "train", limit)


def test_images_lists_of_images_and_texts(save: Save) -> None:
    folder = save(image=[held(0), held(1)], pages=[[held(2), held(3)], []], caption=["a", "b"])
    one = rows(folder)
    assert [decode_rgb(example.images[0]).width for example in one] == [8, 9]
    assert [example.truth["references"] for example in one] == [["a"], ["b"]]
    assert len({example.images[0].where for example in one}) == 2
    many = rows(folder, images="pages")
    assert [[decode_rgb(ref).width for ref in example.images] for example in many] == [[10, 11], []]
    assert len(rows(folder, limit=1)) == 1
    with pytest.raises(DataError, match="row 0, column 'caption': not an image column"):
        rows(folder, image="caption")[0]


def test_an_empty_image_is_named(save: Save) -> None:
    with pytest.raises(DataError, match="row 1, column 'image': no image in this row"):
        list(rows(save(image=[held(0), {"bytes": b"", "path": None}], caption=["a", "b"])))


def test_ids_of_a_column_and_choices_need_no_image(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(image=[held(n) for n in range(4)], caption=list("abcd"), n=[7, 8, 9, 10])
    real, read = datasets.Dataset.__getitem__, []

    def watched(table: datasets.Dataset, index: int) -> Any:
        read.append(set(table.column_names))
        return real(table, index)

    monkeypatch.setattr(datasets.Dataset, "__getitem__", watched)
    made = rows(folder, id="n", target="sample")
    assert [made.id(n) for n in range(4)] == ["7", "8", "9", "10"]
    assert [made.target_count(n) for n in range(4)] == [1] * 4
    assert [columns for columns in read if "image" in columns] == [{"image", "caption", "n"}], "the first row's columns"
    read.clear()
    assert made.fingerprint == made.fingerprint
    assert len(read) == 4


def test_files_in_the_folder_are_read_and_their_content_counts(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    (folder / "train").mkdir(parents=True)
    for n in range(2):
        (folder / f"train/{n}.png").write_bytes(encoded(make_image(8 + n, 8)))
    lines = [json.dumps({"file_name": f"{n}.png", "caption": f"c{n}"}) + "\n" for n in range(2)]
    (folder / "train/metadata.jsonl").write_text("".join(lines), encoding="utf-8")
    made = rows(folder)
    assert [decode_rgb(example.images[0]).width for example in made] == [8, 9]
    before, ids = made.fingerprint, [made.id(0), made.id(1)]
    (folder / "train/1.png").write_bytes(encoded(make_image(9, 8, seed=5)))
    assert made.fingerprint != before
    (folder / "train/1.png").unlink()
    assert len({before, made.fingerprint}) == 2
    assert [made.id(0), made.id(1)] == ids


def test_rows_may_name_files_of_the_folder_and_the_caches_alone(save: Save, tmp_path: Path, caches: Path) -> None:
    outside, folder = tmp_path / "secret.png", tmp_path / "data"
    folder.mkdir()
    inside = [folder / "in.png", caches / "hub/a/in.png", caches / "datasets/downloads/in.png"]
    for file in (outside, *inside):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(make_image(8, 8)))
    (folder / "link.png").symlink_to(outside)
    good = rows(save(image=[*map(named, inside), named("in.png")], caption=list("abcd")))
    assert [decode_rgb(example.images[0]).size for example in good] == [(8, 8)] * 4
    bad = [outside, folder / "../secret.png", folder / "link.png", "../secret.png", "/etc/passwd"]
    bad += ["https://example.org/in.png", "zip://in.png::" + str(outside), f"hf://{outside}", str(caches / "x\0y")]
    made = rows(save(image=list(map(named, bad)), caption=[f"{n}" for n in range(len(bad))]))
    assert len(made) == len(bad)
    for number in range(len(bad)):
        with pytest.raises(DataError, match=f"row {number}, column 'image': .* (lies outside|is a remote image)"):
            made[number]
    with_secret = made.fingerprint
    outside.write_bytes(b"other")
    assert made.fingerprint == with_secret, "not even for a fingerprint"


def test_dates_in_metadata_become_text_and_images_are_refused(save: Save) -> None:
    day, time = datetime.date(2026, 2, 3), datetime.datetime(2026, 2, 3, 4, 5, 6)
    folder = save(image=[held(0)], caption=["a"], day=[day], time=[time], n=[None])
    example = rows(folder, meta=["day", "time", "n"])[0]
    assert example.meta == {"day": "2026-02-03", "time": "2026-02-03T04:05:06", "n": None}
    with pytest.raises(DataError, match="row 0: column 'image' holds a value that JSON cannot represent"):
        rows(folder, meta=["image"])[0]


def test_a_null_group_is_named(save: Save) -> None:
    with pytest.raises(DataError, match="row 1: dataset.group names column 'n', which is null"):
        list(rows(save(caption=["a", "b"], n=[1, None]), image=None, group="n"))


@pytest.mark.parametrize("path", ["./nofolder", "../nofolder", "/no/folder", "~/nofolder", "no/such/folder"])
def test_a_missing_folder_is_named(path: str) -> None:
    with pytest.raises(DataError, match=f"dataset.path '{path}': no such folder"):
        hub.open(hub.Config(path=path), "train")


def test_broken_files_and_wrong_names_are_data_errors(save: Save, tmp_path: Path) -> None:
    folder = save(caption=["a"])
    with pytest.raises(DataError, match=r"cannot be opened: Unknown split .*train"):
        hub.open(hub.Config(path=str(folder)), "test")
    with pytest.raises(DataError, match=r"set dataset.name to one of .*got 'big'.*Available: \['default'\]"):
        rows(folder, name="big")
    with pytest.raises(DataError, match="is a file; name the folder"):
        rows(folder / "train.parquet")
    for name, content, said in (
        ("torn.jsonl", '{"caption": "a"}\n{torn\n', "its files cannot be read: "),
        ("torn.parquet", "PAR1 not really", "cannot be opened: .*[Pp]arquet"),
    ):
        other = tmp_path / name.replace(".", "-")
        other.mkdir()
        (other / name.replace("torn", "train")).write_text(content, encoding="utf-8")
        with pytest.raises(DataError, match=said):
            rows(other)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="doesn't contain any data files"):
        rows(empty)


ReadTimeout = type("ReadTimeout", (http_error(),), {})
"""An error of the HTTP library that the Hub's client uses."""


def raised(error: Exception, cause: Exception | None = None) -> Exception:
    error.__cause__ = cause
    return error


FULL = OSError(errno.ENOSPC, "No space left on device")
BUILD = "An error occurred while generating the dataset"
FROM_THE_HUB = {
    "gated": (
        DatasetNotFoundError("Dataset 'o/n' is a gated dataset on the Hub. You must be authenticated to access it."),
        EnvironmentProblem,
        "is gated: accept its conditions at https://huggingface.co/datasets/o/n, then run: hf auth login",
    ),
    "revision": (
        DatasetNotFoundError("Revision 'v9' doesn't exist for dataset 'o/n' on the Hub."),
        DataError,
        "has no revision 'v9'; set dataset.revision",
    ),
    "nothing there": (
        DatasetNotFoundError("Dataset 'o/n' doesn't exist on the Hub or cannot be accessed."),
        DataError,
        "does not exist on the Hub, or is private",
    ),
    "configuration": (
        ValueError("BuilderConfig 'x' not found. Available: ['en', 'de']"),
        DataError,
        r"set dataset.name to one of its configurations .*\['en', 'de'\]",
    ),
    "configuration in the cache": (
        ValueError("Couldn't find cache for o/n for config 'x'\nAvailable configs in the cache: ['en']"),
        DataError,
        r"set dataset.name to one of its configurations [\s\S]*\['en'\]",
    ),
    "bad file": (
        raised(DatasetGenerationError(BUILD), ValueError("Expected object")),
        DataError,
        "its files cannot be read: ValueError: Expected object",
    ),
    "cut download": (
        raised(DatasetGenerationError(BUILD), ReadTimeout("timed out")),
        EnvironmentProblem,
        "the Hub cannot be reached .*ReadTimeout: timed out",
    ),
    "full disk": (raised(DatasetGenerationError(BUILD), FULL), EnvironmentProblem, "cache is full"),
    "offline": (
        ConnectionError("Couldn't reach 'o/n' on the Hub (OfflineModeIsEnabled)"),
        EnvironmentProblem,
        "not in the local cache and the Hub cannot be reached",
    ),
    "offline, quoted": (
        FileNotFoundError("Couldn't find any data file at x. Couldn't find 'o/n' either: LocalEntryNotFoundError: no"),
        EnvironmentProblem,
        "the Hub cannot be reached",
    ),
    "no data files": (DataFilesNotFoundError("No (supported) data files found in o/n"), DataError, "No .supported."),
    "script": (RuntimeError("Dataset scripts are no longer supported, but found n.py"), DataError, "scripts are no"),
    "permission": (PermissionError(13, "Permission denied", "cache"), EnvironmentProblem, "Permission denied"),
}


@pytest.mark.parametrize("name", FROM_THE_HUB)
def test_each_failure_has_its_own_message(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    error, kind, said = FROM_THE_HUB[name]

    def load(*words: object, **more: object) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(VlmtuneError, match=said) as caught:
        hub.open(hub.Config(path="o/n", name="x", revision="v9"), "train")
    assert type(caught.value) is kind
    assert str(caught.value).startswith("dataset 'o/n'")


def test_numbers_of_classes_are_their_names(tmp_path: Path) -> None:
    label = datasets.ClassLabel(names=["cat", "dog"])
    kinds = datasets.Features({"label": label, "labels": datasets.List(label), "n": datasets.Value("int64")})
    made = pyarrow.Table.from_pydict({"label": [1, 0], "labels": [[0, 1], []], "n": [1, 0]}, kinds.arrow_schema)
    folder = tmp_path / "classes"
    folder.mkdir()
    pyarrow.parquet.write_table(made, folder / "train.parquet")
    keys: dict[str, Any] = {
        "references": ["label"],
        "target": "label",
        "image": None,
        "id": "n",
        "meta": ["labels", "n"],
    }
    for stream in (False, True):
        found = rows(folder, stream=stream, **keys)
        assert [(example.target, example.meta) for example in found] == [
            ("dog", {"labels": ["cat", "dog"], "n": 1}),
            ("cat", {"labels": [], "n": 0}),
        ]
        assert [found.target_count(n) for n in range(2)] == [1, 1]


def test_ids_of_a_local_folder_do_not_depend_on_where_it_lies(tmp_path: Path) -> None:
    found = []
    for name in ("here", "there"):
        for label in ("cat", "dog"):
            (tmp_path / name / "train" / label).mkdir(parents=True)
            (tmp_path / name / "train" / label / "1.png").write_bytes(encoded(make_image(8, 8)))
        made = rows(tmp_path / name, references=["label"])
        assert [decode_rgb(example.images[0]).size for example in made] == [(8, 8)] * 2
        found.append((made.fingerprint, made.id(0), made.id(1)))
    assert found[0] == found[1]


def streams(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Notes each time that `datasets` is asked to load something: whether as a stream."""
    asked: list[bool] = []
    real = datasets.load_dataset

    def watched(*words: Any, **more: Any) -> Any:
        asked.append(bool(more.get("streaming")))
        return real(*words, **more)

    monkeypatch.setattr(datasets, "load_dataset", watched)
    return asked


def test_a_stream_is_fetched_once_and_then_read_at_random(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = {"bytes": b"no image", "path": None}
    folder = save(image=[held(0), broken, *map(held, range(2, 200))], caption=[f"c{n}" for n in range(200)])
    plain = rows(folder, 150)
    asked = streams(monkeypatch)
    streamed = rows(folder, 150, stream=True)
    again = rows(folder, 150, stream=True)
    assert asked == [True], "the second one is in the cache"
    assert len(streamed) == len(again) == 150
    assert streamed[149].target == "c149"
    assert decode_rgb(streamed[2].images[0]).width == 10
    with pytest.raises(DataError, match="row 1"):
        decode_rgb(streamed[1].images[0])
    assert streamed.fingerprint == again.fingerprint == plain.fingerprint
    assert len(rows(folder, 10, stream=True)) == 10
    assert asked == [True, True], "another limit is another index"
    save(image=[held(0)], caption=["new"])
    assert rows(folder, 10, stream=True)[0].target == "new", "another content, too"


def test_a_stream_that_breaks_off_starts_anew(save: Save, monkeypatch: pytest.MonkeyPatch, caches: Path) -> None:
    folder = save(caption=[f"c{n}" for n in range(200)])
    real = datasets.IterableDataset.iter

    def torn(dataset: Any, batch_size: int) -> Any:
        yield next(real(dataset, batch_size))
        raise ReadTimeout("timed out")

    with monkeypatch.context() as patch:
        patch.setattr(datasets.IterableDataset, "iter", torn)
        with pytest.raises(EnvironmentProblem, match="the Hub cannot be reached"):
            rows(folder, image=None, stream=True)
    assert len(rows(folder, image=None, stream=True)) == 200


def test_a_stream_without_rows_or_split_is_named(save: Save) -> None:
    folder = save(caption=["a"])
    empty = folder.with_name("empty")
    empty.mkdir()
    (empty / "train.csv").write_text("caption\n")
    with pytest.raises(DataError, match=r"\[train\]: no rows; check dataset.splits"):
        rows(empty, image=None, stream=True)
    with pytest.raises(DataError, match="cannot be opened: .*nosplit"):
        hub.open(hub.Config(path=str(folder), stream=True), "nosplit")


def test_images_of_a_streamed_folder_stay_where_they_are(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / "f/train" / label).mkdir(parents=True)
        (tmp_path / "f/train" / label / "1.png").write_bytes(encoded(make_image(8, 8)))
    found = rows(tmp_path / "f", stream=True, references=["label"])
    assert sorted((example.target, decode_rgb(example.images[0]).size) for example in found) == [
        ("cat", (8, 8)), ("dog", (8, 8))
    ]  # fmt: skip


def test_remote_images_of_a_column_of_addresses(save: Save) -> None:
    url = "https://images.example.org/a.png"
    folder = save(caption=[url])
    with pytest.raises(DataError, match="allow its host in dataset.remote_images"):
        rows(folder, image="caption")[0]
    allowed = rows(folder, image="caption", remote_images=["images.example.org"])[0]
    assert url in allowed.images[0].where
