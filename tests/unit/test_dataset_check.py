"""`vlmtune data check`: every planted fault is found and nothing else, and a second check is short."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import encoded, make_image, planting
from PIL import Image

from vlmtune.cli.app import app
from vlmtune.config import Config, load
from vlmtune.dataset_check import image_index, runner
from vlmtune.errors import DataError, Interrupted
from vlmtune.files import read_json
from vlmtune.modeling.loading import find_checkpoint
from vlmtune.progress import Progress, Silent
from vlmtune.registry import load as load_plugin
from vlmtune.run_layout import DATA_CHECK, DATA_CHECK_PAGE, IMAGE_INDEX
from vlmtune.signals import StopRequest
from vlmtune.training.dataset import TrainingExamples
from vlmtune.training.sampler import Sample

Found = dict[str, Any]


PLANTING = planting()
CAPTIONS = "task: {name: captioning}\ndataset: {source: jsonl, path: %s, references: [caption], id: id, %s}\n"
FILES = "splits: {train: train.jsonl, validation: validation.jsonl, test: test.jsonl}"


def config_file(folder: Path, block: str, more: str = "") -> Path:
    file = folder / "check.yaml"
    file.write_text(
        f"schema_version: 1\nmodel: {{name: tiny, device: cpu}}\n{block}{more}"
        f"training: {{precision: fp32, max_tokens: 1000}}\noutput: {{dir: {folder / 'out'}}}\n"
    )
    return file


def checked(config: Config, stop: StopRequest | None = None) -> Found:
    folder = Path(config.output.dir)
    task = load_plugin("tasks", config.task.name).TASK
    check = runner.DatasetCheck(
        config,
        task,
        find_checkpoint(config.model),
        folder / ".vlmtune" / IMAGE_INDEX,
        Progress(Silent()),
        stop or StopRequest(),
    )
    return check.write(folder)


def rows_by_kind(found: Found) -> dict[str, set[tuple[str, int]]]:
    made: dict[str, set[tuple[str, int]]] = {}
    for kind, where in PLANTING.finding_rows(found):
        made.setdefault(kind, set()).add(where)
    return made


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Any, Found]:
    """300 rows with every fault, and the result of their check."""
    folder = tmp_path_factory.mktemp("planted")
    made = PLANTING.plant(folder, 300)
    config = load(str(config_file(folder, CAPTIONS % (folder, FILES)))).config
    return config, made, checked(config)


def test_every_planted_fault_is_found_and_nothing_else(planted: tuple[Config, Any, Found]) -> None:
    _, made, found = planted
    assert rows_by_kind(found) == made.findings
    assert sum(split["properties"]["EXIF-rotated"] for split in found["splits"]) == made.rotated
    assert found["status"] == "errors"


def unusable(found: Found) -> set[tuple[str, int]]:
    return {(each["role"], each["row"]) for each in found["findings"] if each["severity"] == "error"}


def test_lengths_are_those_of_training(planted: tuple[Config, Any, Found], encoder: Any) -> None:
    config, _, found = planted
    train = found["splits"][0]
    rows = load_plugin("data", "jsonl").open(
        config.dataset.model_copy(update={"max_bad_fraction": 1.0}), "train.jsonl", None
    )
    lessons = TrainingExamples(rows, load_plugin("tasks", "captioning").TASK, config.task, encoder, config.training)
    lengths = []
    for row in range(len(rows)):
        try:
            lengths.append(len(lessons.encode(Sample(row, 0, 0))))
        except DataError:
            continue
    assert train["tokens"]["sum"] == sum(lengths)
    assert train["tokens"]["max"] == max(lengths)
    dataset = config.dataset.model_copy(update={"max_bad_fraction": 1.0})
    answered = load_plugin("data", "jsonl").open(dataset, "test.jsonl", None)
    asked = [row for row in range(len(answered)) if ("test", row) not in unusable(found)]
    prompts = [len(encoder.prompt(lessons.task.prompt(config.task, answered[row]))) for row in asked]
    assert found["splits"][2]["tokens"]["sum"] == sum(prompts)
    counted = train["tokens"]["histogram"]
    assert counted["counts"] == np.histogram(lengths, counted["edges"])[0].tolist()
    assert sum(counted["counts"]) == len(lengths)


def test_pairs_name_both_sides(planted: tuple[Config, Any, Found]) -> None:
    _, _, found = planted
    leak = next(each for each in found["findings"] if each["kind"] == "leak")
    assert (leak["role"], leak["other"]["role"]) == ("train", "test")
    near = next(each for each in found["findings"] if each["kind"] == "near-leak")
    assert (near["role"], near["other"]["role"]) == ("test", "train")
    assert all(each["advice"] for each in found["findings"])


def test_a_second_check_decodes_no_image(planted: tuple[Config, Any, Found], monkeypatch: pytest.MonkeyPatch) -> None:
    config, _, found = planted
    before = {name: (Path(config.output.dir) / name).read_bytes() for name in (DATA_CHECK, DATA_CHECK_PAGE)}
    monkeypatch.setattr(image_index, "examine", None)
    assert checked(config) == found
    assert {name: (Path(config.output.dir) / name).read_bytes() for name in before} == before


class Counted:
    """Counts decoded images."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        real = image_index.examine

        def examine(one: Any) -> Any:
            self.count += 1
            return real(one)

        monkeypatch.setattr(image_index, "examine", examine)


def captions(folder: Path, files: dict[str, list[bytes]]) -> Config:
    """A config of caption rows, one for each image file of each role."""
    for role, contents in files.items():
        lines = []
        for n, data in enumerate(contents):
            (folder / f"{role}{n}.img").write_bytes(data)
            row = {"id": f"{role}-{n}", "image": f"{role}{n}.img", "caption": f"a ball {n} ."}
            lines.append(json.dumps(row) + "\n")
        (folder / f"{role}.jsonl").write_text("".join(lines))
    return load(str(config_file(folder, CAPTIONS % (folder, FILES)))).config


def some(start: int, count: int) -> list[bytes]:
    return [encoded(make_image(96, 64, seed)) for seed in range(start, start + count)]


def test_each_content_is_decoded_once_and_a_stopped_check_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = some(0, 150)
    config = captions(
        tmp_path, {"train": [*contents, *contents[:50]], "validation": some(500, 3), "test": some(600, 3)}
    )
    cache = Path(config.output.dir) / ".vlmtune" / IMAGE_INDEX
    counted = Counted(monkeypatch)
    stop = StopRequest()
    stop.received = 2
    with pytest.raises(Interrupted):
        checked(config, stop)
    kept = len(cache.read_text().splitlines())
    assert 0 < kept < 150
    with cache.open("a") as stream:
        stream.write('{"v": 1, "digest": "00')  # the process died while it wrote this
    counted.count = 0
    found = checked(config)
    assert counted.count == 156 - kept
    assert found["splits"][0]["distinct_images"] == 150
    # One new image, and one decoding.
    (tmp_path / "test0.img").write_bytes(encoded(make_image(96, 64, 999)))
    counted.count = 0
    checked(config)
    assert counted.count == 1


def test_a_split_that_cannot_be_opened_is_one_finding_among_others(tmp_path: Path) -> None:
    config = captions(tmp_path, {"train": [*some(0, 3), b"no image"], "validation": some(10, 2), "test": some(20, 2)})
    (tmp_path / "validation.jsonl").unlink()
    found = checked(config)
    assert [(each["kind"], each["role"], each["row"]) for each in found["findings"]] == [
        ("image", "train", 3),
        ("split", "validation", None),
    ]
    everything = config.model_copy(update={"dataset": config.dataset.model_copy(update={"max_bad_fraction": 1.0})})
    assert checked(everything)["status"] == "errors", "no budget buys a split that is not there"


def test_one_split_in_two_roles_leaks_nothing(tmp_path: Path) -> None:
    config = captions(tmp_path, {"train": some(0, 3), "validation": some(10, 3), "test": some(10, 3)})
    assert {each["kind"] for each in checked(config)["findings"]} == {"validation-overlap"}
    splits = {"train": "train.jsonl", "validation": "test.jsonl", "test": "test.jsonl"}
    dataset = config.dataset.model_copy(update={"splits": type(config.dataset.splits)(**splits)})
    assert checked(config.model_copy(update={"dataset": dataset}))["status"] == "clean"


def test_train_rows_that_are_evaluated_are_one_finding(tmp_path: Path) -> None:
    config = captions(tmp_path, {"train": some(0, 3), "validation": some(10, 3)})
    splits = {"train": "train.jsonl", "validation": "validation.jsonl", "test": "train.jsonl"}
    dataset = config.dataset.model_copy(update={"splits": type(config.dataset.splits)(**splits)})
    found = checked(config.model_copy(update={"dataset": dataset}))
    assert [(each["kind"], each["row"]) for each in found["findings"]] == [("leak", None)]
    assert found["status"] == "errors"


def test_labels_and_boxes(tmp_path: Path) -> None:
    labels, boxes = PLANTING.plant_labels_and_boxes(tmp_path, 70)
    one = f"dataset: {{source: jsonl, path: {tmp_path}, id: id, {FILES}, "
    for task, columns, expected in (
        ("{name: classification, labels: [day, night]}", "references: [label]}\n", labels),
        ("{name: grounding}", "question: phrase, boxes: box}\n", boxes),
    ):
        config = load(str(config_file(tmp_path, f"task: {task}\n{one}{columns}"))).config
        found = rows_by_kind(checked(config))
        # All rows show one image; findings about that are not the subject here.
        ignored = ("duplicate", "contradiction", "leak", "validation-overlap")
        left = {kind: rows for kind, rows in found.items() if kind not in ignored}
        assert left == expected.findings


def test_the_command_exits_with_3_and_names_a_remedy(
    planted: tuple[Config, Any, Found], capsys: pytest.CaptureFixture[str]
) -> None:
    config, _, found = planted
    file = str(Path(config.output.dir).parent / "check.yaml")
    with pytest.raises(
        DataError, match=r"errors; all are listed in .*data_check.json.*max_bad_fraction=0\.\d"
    ) as error:
        app(["data", "check", file, "--json", "--progress", "none"], standalone_mode=False)
    assert error.value.exit_code == 3
    assert json.loads(capsys.readouterr().out) == found == read_json(Path(config.output.dir) / DATA_CHECK)
    assert "Evaluated images in the training data" in (Path(config.output.dir) / DATA_CHECK_PAGE).read_text()
    share = str(error.value).rpartition("=")[2]
    app(
        ["data", "check", file, "--progress", "none", "--set", f"dataset.max_bad_fraction={share}"],
        standalone_mode=False,
    )
    said = capsys.readouterr()
    assert "will be left out" in said.out
    assert f"next: vlmtune run {file} --set dataset.max_bad_fraction={share}" in said.err


def test_one_bad_row_above_the_budget_is_an_error(tmp_path: Path) -> None:
    config = captions(tmp_path, {"train": [*some(0, 8), b"", b"?"], "validation": some(20, 2), "test": some(30, 2)})
    for share, status in ((0.0, "errors"), (0.19, "errors"), (0.2, "left_out")):
        dataset = config.dataset.model_copy(update={"max_bad_fraction": share})
        assert checked(config.model_copy(update={"dataset": dataset}))["status"] == status


def test_nearly_blank_pages_are_not_near_duplicates(tmp_path: Path) -> None:
    """Their dHashes consist of noise."""
    rng = np.random.default_rng(3)
    scans = [encoded(Image.fromarray((250 + rng.integers(0, 3, (120, 90))).astype(np.uint8))) for _ in range(60)]
    config = captions(tmp_path, {"train": scans[:40], "validation": scans[40:50], "test": scans[50:]})
    assert checked(config)["status"] == "clean"


def test_a_task_that_needs_image_sizes_decodes_nothing_twice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Sizes are known from the check of the images."""
    PLANTING.plant_labels_and_boxes(tmp_path, 12)
    block = f"dataset: {{source: jsonl, path: {tmp_path}, id: id, {FILES}, question: phrase, boxes: box}}\n"
    config = load(str(config_file(tmp_path, f"task: {{name: grounding}}\n{block}"))).config
    counted = Counted(monkeypatch)
    checked(config)
    assert counted.count == 1
