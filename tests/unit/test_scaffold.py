"""`vlmtune init`: configs for common datasets, errors where nothing can be inferred, and that the configs work."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.constants
import pyarrow as pa
import pyarrow.parquet
import pytest
from builders import encoded, make_image

from vlmtune import registry
from vlmtune.cli.app import main
from vlmtune.config import Config, load, parse_overrides
from vlmtune.data import ROLES, _tables, hub, open_role
from vlmtune.errors import ConfigError, DataError
from vlmtune.scaffold import writer
from vlmtune.scaffold.questions import Undecided
from vlmtune.scaffold.sources import SourceSettings
from vlmtune.scaffold.writer import Scaffold, write

PNG = encoded(make_image(40, 20))
MANY = 60


@pytest.fixture(autouse=True)
def work_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache" / "datasets")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


def rows(folder: str, *records: dict[str, Any], splits: tuple[str, ...] = ("train", "validation", "test")) -> str:
    """JSONL files next to an image."""
    Path(folder).mkdir()
    Path(folder, "init.png").write_bytes(PNG)
    for n, split in enumerate(splits):
        text = "".join(json.dumps({"image": "init.png", **record}) + "\n" for record in records)
        Path(folder, f"{split}.jsonl").write_text(text + "\n" * n, encoding="utf-8")  # no file is a copy of another
    return folder


def write_images(folder: str, name: str) -> None:
    """Enough different images to divide among three roles."""
    Path(folder).mkdir(parents=True)
    for n in range(MANY):
        Path(folder, f"{name}-{n}.png").write_bytes(encoded(make_image(20, 20, seed=int(name[4:]) * 100 + n)))


def init(text: str, *sets: str) -> tuple[Config, Scaffold, str]:
    file = Path("init.yaml")
    file.unlink(missing_ok=True)
    scaffold = write(text, file, parse_overrides(list(sets)))
    return load("init.yaml").config, scaffold, file.read_text(encoding="utf-8")


def human(text: str) -> dict[str, str]:
    return {"from": "human", "value": text}


MESSAGES = [human("<image>\nWhat is it?"), {"from": "gpt", "value": "A fox that sits in the snow."}]
CASES: dict[str, tuple[list[dict[str, Any]], str, dict[str, Any]]] = {
    "captions": (
        [{"caption_0": "A fox.", "caption_1": "An animal."}],
        "captioning",
        {"references": ["caption_0", "caption_1"]},
    ),
    "list of captions": ([{"captions": ["A fox.", "Snow."]}], "captioning", {"references": ["captions"]}),
    "the only text": (
        [{"note": f"Fox number {n}.", "size": n} for n in range(3)],
        "captioning",
        {"references": ["note"]},
    ),
    "vqa": ([{"question": "What?", "answers": ["fox"]}], "vqa", {"question": "question", "references": ["answers"]}),
    "classes": ([{"label": "fox"}, {"label": "hare"}], "classification", {"references": ["label"]}),
    "boxes": (
        [{"phrase": "the fox", "bbox": [0.1, 0.5, 0.9, 0.6]}],
        "grounding",
        {"question": "phrase", "boxes": "bbox"},
    ),
    "records": (
        [{"ground_truth": json.dumps({"total": "1", "date": "x"})}],
        "extraction",
        {"references": ["ground_truth"]},
    ),
    "lines": ([{"transcription": "Dear Sir or Madam, hello"}], "ocr", {"references": ["transcription"]}),
    "conversation": ([{"conversations": MESSAGES}], "captioning", {"messages": "conversations", "images": "image"}),
    "ids": ([{"id": n, "caption": "A fox."} for n in range(3)], "captioning", {"id": "id"}),
    "no ids": ([{"id": 1, "caption": f"A fox {n}."} for n in range(3)], "captioning", {"id": None}),
}


@pytest.mark.parametrize("name", CASES)
def test_columns_get_their_roles(name: str) -> None:
    records, task, keys = CASES[name]
    config, scaffold, _ = init(rows("photos", *records))
    assert (config.task.name, scaffold.warnings if task != "grounding" else []) == (task, [])
    assert {key: getattr(config.dataset, key) for key in keys} == keys
    assert config.dataset.splits.validation == "validation.jsonl"


@pytest.mark.parametrize(("about", "task"), [("docs", "docvqa"), ("charts", "chartqa"), ("photos", "vqa")])
def test_the_name_suggests_documents_and_charts(about: str, task: str) -> None:
    assert init(rows(about, {"question": "What?", "answer": "fox"}))[0].task.name == task


def test_every_inferred_key_has_a_reason_and_unused_columns_are_listed() -> None:
    _, _, text = init(rows("photos", {"caption": "A\nfox: # 1.", "width": 3}))
    assert "references: [caption] # sentences about the image" in text
    assert "# not used: width (number)" in text
    assert "# tasks: captioning, chartqa, classification" in text
    assert all(line.startswith(("#", " ")) or line.endswith(":") or not line for line in text.splitlines())


def test_labels_of_all_rows_are_listed() -> None:
    labels = [f"kind {n}" for n in range(70)] + ["no", "12: odd", "ö"]
    config, _, _ = init(rows("photos", *({"label": label} for label in labels)))
    assert config.task.model_dump()["labels"] == sorted(labels)
    with pytest.raises(DataError, match="column 'label' has 201 different texts, too many"):
        init(rows("more", *({"label": f"kind {n}"} for n in range(201))))


BOXES = {
    "unit xyxy": ([[0.5, 0.5, 0.9, 0.9]], "unit", "xyxy"),
    "unit xywh": ([[0.5, 0.5, 0.2, 0.4]], "unit", "xywh"),
    "pixels xywh": ([[30, 1, 9, 18], [1, 1, 2, 2], *[[2, 2, 5, 5]] * 20], "pixels", "xywh"),
    "norm1000 xyxy": ([[500, 500, 900, 900]], "norm1000", "xyxy"),
}


@pytest.mark.parametrize("name", BOXES)
def test_unit_and_corners_of_boxes_are_those_that_fit_all_images(name: str) -> None:
    boxes, unit, corners = BOXES[name]
    config, scaffold, _ = init(rows("boxes", *({"phrase": "the fox", "box": box} for box in boxes)))
    assert (config.task.model_dump()["unit"], config.task.model_dump()["corners"]) == (unit, corners)
    assert scaffold.warnings == []


def test_unit_and_corners_of_four_columns_are_inferred() -> None:
    folder = rows("boxes", {"phrase": "the fox", "x": "0.5", "y": "0.5", "w": "0.2", "h": "0.4"})
    config, _, _ = init(folder, "task.name=grounding", "dataset.question=phrase", "dataset.boxes=[x, y, w, h]")
    assert config.task.model_dump() | {"unit": "unit", "corners": "xywh"} == config.task.model_dump()


@pytest.mark.parametrize("answer", ["pixels", "norm1000"])
def test_boxes_that_can_be_read_in_two_ways_are_a_question(answer: str) -> None:
    folder = rows("boxes", *({"phrase": "the fox", "box": box} for box in ([30, 1, 9, 15], [1, 1, 2, 2])))
    with pytest.raises(
        Undecided, match=r"column 'box'.*2 ways.*\n  --set task.unit=pixels --set task.corners=xywh"
    ) as one:
        init(folder)
    assert not Path("init.yaml").exists()
    chosen = next(option for option in one.value.options if f"task.unit={answer}" in option.sets)
    config, scaffold, _ = init(folder, *chosen.sets)
    assert config.task.model_dump()["unit"] == answer
    assert scaffold.warnings == []


def test_a_folder_of_labels_and_a_folder_for_datasets() -> None:
    for split in ("train", "val"):
        for label in ("cat", "dog"):
            write_images(f"zoo/{split}/{label}", "init2")
    config, scaffold, _ = init("zoo")
    assert (config.dataset.source, config.task.model_dump()["labels"]) == ("imagefolder", ["cat", "dog"])
    assert (config.dataset.splits.validation, config.dataset.splits.test) == ("val", "val")
    assert scaffold.warnings == ["no test split was found: dataset.shares divides val"]
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog", "eel"])})
    Path("local/data").mkdir(parents=True)
    table = pa.Table.from_pydict({"image": [{"bytes": PNG, "path": None}], "label": [0]}, kinds.arrow_schema)
    for split in ("train", "validation", "test"):
        pyarrow.parquet.write_table(table, f"local/data/{split}-00000-of-00001.parquet")
    config, scaffold, _ = init("local")
    assert (config.dataset.source, config.task.model_dump()["labels"]) == ("hub", ["cat", "dog", "eel"])
    assert scaffold.warnings == []


def test_only_the_first_rows_of_a_remote_dataset_are_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    columns = {"image": [{"bytes": PNG, "path": None}] * 300, "label": [f"kind {n // 50}" for n in range(300)]}
    Path("far").mkdir()
    pyarrow.parquet.write_table(pa.Table.from_pydict(columns, kinds.arrow_schema), "far/train.parquet")
    far = SourceSettings(
        {"source": "hub", "path": "far"}, "", dict.fromkeys(("train", "validation", "test"), "train"), "", remote=True
    )
    monkeypatch.setattr(writer, "find_source", lambda text, given: far)
    fetched = []
    real = _tables.stream_table
    monkeypatch.setattr(hub, "stream_table", lambda *args: fetched.append(args[-1]) or real(*args))
    config, scaffold, text = init("far")
    assert set(fetched) == {200}
    assert config.task.model_dump()["labels"] == [f"kind {n}" for n in range(4)]
    assert scaffold.warnings == ["labels of the first 200 rows; add missing ones"]
    assert "stream" not in text


def test_label_folders_without_split_folders_are_one_split_that_is_divided() -> None:
    for label in ("cat", "dog"):
        write_images(f"zoo/{label}", "init3")
    config, scaffold, _ = init("zoo")
    assert (config.dataset.source, config.dataset.splits.model_dump()) == ("imagefolder", dict.fromkeys(ROLES, "."))
    assert (config.dataset.shares is not None, config.task.model_dump()["labels"]) == (True, ["cat", "dog"])
    assert scaffold.warnings == ["only . was found: dataset.shares divides its rows among the roles"]
    found = {row.target for role in ROLES for row in open_role(config.dataset, role)}
    assert found == {"cat", "dog"}


def test_a_table_next_to_label_folders_is_ignored_but_one_next_to_unlabelled_images_is_read() -> None:
    for split in ("train", "test"):
        for label in ("fox", "hare"):
            write_images(f"animals/{split}/{label}", "init5")
    Path("animals/classes.json").write_text('{"fox": 0, "hare": 1}')
    config, _, text = init("animals")
    assert (config.dataset.source, config.dataset.splits.test) == ("imagefolder", "test")
    assert "source: imagefolder # folders of images; classes.json not read" in text
    write_images("flat/train", "init6")
    table = "".join(f"train/init6-{n}.png,{n % 2}\n" for n in range(MANY))
    Path("flat/labels.csv").write_text(f"image,label\n{table}")
    config, _, _ = init("flat")
    assert (config.dataset.source, config.dataset.splits.train) == ("table", "labels.csv")


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet", "rows.json"])
def test_one_file(name: str) -> None:
    write_images("team", "init4")
    records = [{"file": f"init4-{n}.png", "caption": f"Fox {n}."} for n in range(MANY)]
    if name == "rows.csv":
        lines = "".join(f"{record['file']},{record['caption']}\n" for record in records)
        Path("team", name).write_text(f"file,caption\n{lines}")
    elif name == "rows.json":
        Path("team", name).write_text(json.dumps(records))
    else:
        pyarrow.parquet.write_table(pa.Table.from_pylist(records), f"team/{name}")
    config, scaffold, _ = init(f"team/{name}")
    assert (config.dataset.image, config.dataset.references, config.dataset.splits.test) == ("file", ["caption"], name)
    assert scaffold.warnings[0].startswith(f"only {name} was found: dataset.shares divides its rows")


def test_what_cannot_be_inferred_is_asked_for_and_given_keys_are_used() -> None:
    folder = rows("team", {"grade": "good", "why": "It is fine."}, {"grade": "bad", "why": "It is not."})
    with pytest.raises(
        DataError,
        match=r"no column has a name .* image \(image\); grade \(text\); why \(text\)\..*\n.*--set 'data",
    ):
        init(folder)
    assert not Path("init.yaml").exists()
    config, _, text = init(folder, "dataset.references=[grade]", "task.name=classification", "model.name=tiny")
    assert (config.task.model_dump()["labels"], config.model.name) == (["bad", "good"], "tiny")
    assert "name: classification # set on the command line" in text
    with pytest.raises(DataError, match=r"no column holds images: image \(empty\); caption \(text\)"):
        init(rows("bare", {"caption": "A fox.", "image": None}))


BROKEN: dict[str, tuple[Callable[[], str], list[str], type[Exception], str]] = {
    "first row": (lambda: rows("a", {"caption": "x", "image": "gone.png"}), [], DataError, "row 0.*No such file"),
    "unknown key": (lambda: rows("b", {"caption": "x"}), ["dataset.imag=x"], ConfigError, "dataset.imag"),
    "no block": (lambda: rows("c", {"caption": "x"}), ["task=vqa"], ConfigError, "task: is a block"),
    "wrong value": (lambda: rows("d", {"caption": "x"}), ["training.epochs=0"], ConfigError, "training.epochs"),
    "nothing there": (lambda: "no/such/place", [], ConfigError, "no such file or folder"),
    "a file of another kind": (
        lambda: __file__,
        [],
        ConfigError,
        "must end in .jsonl, .json, .ndjson, .csv",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_config_that_does_not_work_is_not_written(name: str) -> None:
    source, sets, error, message = BROKEN[name]
    with pytest.raises(error, match=message):
        init(source(), *sets)
    assert not Path("init.yaml").exists()


def run(*words: str) -> Any:
    sys.argv = ["vlmtune", *words]
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code


def test_the_command_prints_the_file_and_the_next_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    rows("photos", {"caption": "A fox."})
    assert run("init", "photos", "--set", "model.name=tiny") == 0
    assert capsys.readouterr().out == "photos.yaml: captioning\nnext: vlmtune data check photos.yaml\n"
    before = Path("photos.yaml").read_bytes()
    assert run("init", "photos") == 2
    assert "photos.yaml already exists and is not overwritten; choose another name with -o" in capsys.readouterr().err
    assert Path("photos.yaml").read_bytes() == before
    assert run("init", "photos", "-o", "other.yaml") == 0
    assert run("config", "check", "other.yaml") == 0


def test_numbered_files_of_a_role_become_a_pattern() -> None:
    write_images("hub", "init7")
    for role, count in (("train", 3), ("test", 1)):
        for number in range(count):
            records = [{"image": f"init7-{n}.png", "caption": f"{role} {number} {n}"} for n in range(20)]
            pyarrow.parquet.write_table(pa.Table.from_pylist(records), f"hub/{role}-{number:05}-of-{count:05}.parquet")
    for named in ("hub", "hub/train-00001-of-00003.parquet"):
        config, _, _ = init(named, "dataset.join=[]")
        assert config.dataset.splits.train == "train-*-of-00003.parquet"
        assert config.dataset.splits.test == "test-00000-of-00001.parquet"
        assert len(registry.load("data", "table").open(config.dataset, config.dataset.splits.train)) == 60
    text = "".join(f"init7-{n}.png,c{n}\n" for n in range(20))
    for number in (1, 2):
        Path(f"hub/train_{number}.csv").write_text(f"image,caption\n{text}")
    config, _, _ = init("hub/train_1.csv", "dataset.join=[]")
    assert config.dataset.splits.model_dump() == dict.fromkeys(ROLES, "train_*.csv")
    assert sum(len(open_role(config.dataset, role)) for role in ROLES) == 40


@pytest.mark.parametrize("others", [["train.csv", "train_old.csv"], ["1_train.csv", "2_train.csv", "val_train.csv"]])
def test_files_of_one_role_that_are_not_shards_are_an_error(others: list[str]) -> None:
    write_images("hub", "init8")
    for name in others:
        Path("hub", name).write_text("image,caption\n" + "".join(f"init8-{n}.png,c{n}\n" for n in range(MANY)))
    with pytest.raises(Undecided, match=rf"{others[0]}, {others[1]} could each hold the train rows"):
        init("hub")
    config, _, _ = init("hub", f"dataset.splits.train={others[1]}")
    assert config.dataset.splits.train == others[1]


def test_a_split_with_the_exact_name_of_a_role_is_preferred_and_the_others_are_listed() -> None:
    for split in ("train", "testA", "test"):
        for label in ("cat", "dog"):
            write_images(f"zoo/{split}/{label}", "init9")
    config, scaffold, _ = init("zoo")
    assert config.dataset.splits.test == "test"
    assert "testA not used: test is test" in scaffold.warnings[0]


def lines(folder: str, *records: dict[str, Any]) -> str:
    """One JSONL file with an image for each row."""
    write_images(folder, "init10")
    numbered = [{"image": f"init10-{n}.png", **record} for n, record in enumerate(records)]
    Path(folder, "rows.jsonl").write_text("".join(json.dumps(record) + "\n" for record in numbered))
    return f"{folder}/rows.jsonl"


def test_rows_without_a_label_are_counted_and_add_no_label() -> None:
    bad: list[dict[str, Any]] = [{"label": None}, {"label": ""}, {}, {"label": " "}]
    file = lines("pets", *([{"label": "cat"}, {"label": "dog"}] * 25), *bad)
    config, scaffold, _ = init(file)
    assert config.task.model_dump()["labels"] == ["cat", "dog"]
    assert (
        "all labels of 54 rows; 4 of 54 rows have none: repair them, or set dataset.max_bad_fraction"
        in scaffold.warnings
    )


def test_integers_are_labels_and_answers() -> None:
    config, _, _ = init(lines("pets", *({"label": n % 3} for n in range(MANY))))
    assert (config.task.name, config.task.model_dump()["labels"]) == ("classification", ["0", "1", "2"])
    assert open_role(config.dataset, "train")[0].target in {"0", "1", "2"}
    config, _, _ = init(lines("counts", *({"question": "How many?", "answer": n} for n in range(MANY))))
    assert (config.task.name, config.dataset.references) == ("vqa", ["answer"])
    with pytest.raises(DataError, match=r"cannot infer .* label \(number\)"):
        init(lines("shares", *({"label": n / 3} for n in range(MANY))))


@pytest.mark.parametrize("name", ["filename", "file_name", "path", "url", "image_id"])
def test_an_identifier_column_holds_the_images_if_no_other_column_does(name: str) -> None:
    records = [{"caption": f"Fox {n}.", name: f"init10-{n}.png"} for n in range(MANY)]
    file = lines("photos", *records)
    both, _, _ = init(file)
    assert both.dataset.image == "image"
    bare = [{key: value for key, value in record.items() if key != "image"} for record in records]
    Path(file).write_text("".join(json.dumps(record) + "\n" for record in bare))
    assert init(file)[0].dataset.image == name


@pytest.mark.parametrize("mark", [";", "\t"])
def test_a_spreadsheet_in_capitals_with_another_separator(mark: str) -> None:
    write_images("inspection", "init11")
    text = "".join(f'"init11-{n}.png"{mark}"dent, {n}"{mark}{n % 7}\r\n' for n in range(MANY))
    Path("inspection/TRAIN.CSV").write_bytes(b"\xef\xbb\xbf" + f"photo{mark}caption{mark}width, mm\r\n{text}".encode())
    for named in ("inspection", "inspection/TRAIN.CSV"):
        config, _, _ = init(named)
        keys = config.dataset.model_dump()
        assert (keys["separator"], keys["image"], keys["references"]) == (mark, "photo", ["caption"])
        assert str(open_role(config.dataset, "train")[0].target).startswith("dent, ")


def test_a_home_folder_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(Path.cwd()))
    lines("photos", *({"caption": f"Fox {n}."} for n in range(MANY)))
    assert init("~/photos")[0].dataset.references == ["caption"]
    assert init("photos", "dataset.path=~/photos")[0].dataset.references == ["caption"]


def test_annotations_next_to_image_folders() -> None:
    write_images("coco/train2017", "init12")
    rows = [{"image": f"train2017/init12-{n}.png", "conversations": MESSAGES} for n in range(MANY)]
    Path("coco/annotations").mkdir()
    Path("coco/annotations/llava.json").write_text(json.dumps(rows))
    for sets in ([], ["dataset.path=coco"]):
        config, _, _ = init("coco/annotations/llava.json", *sets)
        assert (config.dataset.model_dump()["path"], config.dataset.splits.train) == ("coco", "annotations/llava.json")
        assert len(open_role(config.dataset, "train")[0].images) == 1


@pytest.mark.parametrize("indent", [None, 1])
def test_one_object_with_nested_tables_is_refused(indent: int | None) -> None:
    Path("coco").mkdir()
    whole = {"pictures": [{"id": 1, "title": "1"}], "annotations": [{"image_id": 1, "caption": "A fox."}]}
    Path("coco/captions.json").write_text(json.dumps(whole, indent=indent))
    with pytest.raises(DataError, match=r"captions.json.*one (JSON )?object.*(, not|instead of) rows"):
        init("coco/captions.json")


def test_too_few_rows_to_divide_are_an_error() -> None:
    with pytest.raises(DataError, match="1 rows are too few to divide among train, validation, test"):
        init(lines("photos", {"caption": "A fox."}))
    assert not Path("init.yaml").exists()


def test_an_address_names_a_dataset_of_the_hub_or_is_refused() -> None:
    for address in ("https://example.org/data.zip", "http://huggingface.co/datasets/org/name"):
        with pytest.raises(ConfigError, match="only datasets of the Hub are fetched; download it"):
            write(address, Path("init.yaml"), parse_overrides([]))
    with pytest.raises(Exception, match="org/missing"):
        write("https://huggingface.co/datasets/org/missing/", Path("init.yaml"), parse_overrides([]))
