"""`vlmtune data check` across splits: roles with one split, rows without images, additional evaluation sets."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import encoded, make_image
from PIL import Image

from vlmtune import run_layout
from vlmtune.cli.app import app
from vlmtune.config import load
from vlmtune.dataset_check import image_index, runner
from vlmtune.errors import DataError
from vlmtune.modeling.loading import find_checkpoint
from vlmtune.pipeline.session import Session
from vlmtune.progress import Progress, Silent
from vlmtune.registry import load as load_plugin
from vlmtune.run_layout import QUARANTINE
from vlmtune.signals import StopRequest

Found = dict[str, Any]
ALLOWED = "dataset.max_bad_fraction=0.5"


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Writes a file of caption rows, one for each image or list of images; None is a missing file."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, *contents: Any, **more: Any) -> None:
        lines = []
        for n, content in enumerate(contents):
            files = []
            for k, data in enumerate(content if isinstance(content, list) else [content]):
                files.append(f"across-{name}-{n}-{k}.img")
                if data is not None:
                    Path(files[-1]).write_bytes(data)
            shown = {f"image{k}": file for k, file in enumerate(files)} if len(files) > 1 else {"image": files[0]}
            lines.append(json.dumps({"id": f"{name}-{n}", **shown, "caption": f"a ball {n} .", **more}) + "\n")
        Path(f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")

    return write


def some(start: int, count: int = 3) -> list[bytes]:
    return [encoded(make_image(96, 64, seed)) for seed in range(start, start + count)]


def check(dataset: str = "", evaluation: str = "{}", *sets: str) -> Found:
    block = f"{{source: jsonl, path: ., references: [caption], id: id, {dataset}}}"
    Path("c.yaml").write_text(
        f"schema_version: 1\nmodel: {{name: tiny, device: cpu}}\ntask: {{name: captioning}}\ndataset: {block}\n"
        f"evaluation: {evaluation}\ntraining: {{precision: fp32, max_tokens: 1000}}\noutput: {{dir: out}}\n"
    )
    config = load("c.yaml", list(sets)).config
    index = Path("out", ".vlmtune", run_layout.IMAGE_INDEX)
    task = load_plugin("tasks", config.task.name).TASK
    progress = Progress(Silent())
    checkpoint = find_checkpoint(config.model)
    return runner.DatasetCheck(config, task, checkpoint, index, progress, StopRequest()).write(Path("out"))


def told(found: Found) -> list[tuple[str, str, int | None, int | None]]:
    return [(each["kind"], each["role"], each["row"], each["image"]) for each in found["findings"]]


def test_splits_without_a_decodable_image_are_findings(rows: Callable[..., None]) -> None:
    for name in ("train", "validation", "test"):
        rows(name, None, None)
    found = check()
    assert {(kind, role, row) for kind, role, row, _ in told(found)} == {
        ("image", role, row) for role in ("train", "validation", "test") for row in (0, 1)
    }
    assert "<title>Data check: errors" in Path("out", run_layout.DATA_CHECK_PAGE).read_text()


def test_text_only_rows_are_clean(rows: Callable[..., None]) -> None:
    for name in ("train", "validation", "test"):
        rows(name, *some(0), question=f"what of {name}?")
    found = check("image: null")
    assert found["status"] == "clean"
    assert [split["images"] for split in found["splits"]] == [0, 0, 0]


ONE = "splits: {train: all.jsonl, validation: all.jsonl, test: all.jsonl}, shares: {train: 1, validation: 1, test: 1}"


def test_shares_of_one_split_have_no_rows_in_common(rows: Callable[..., None]) -> None:
    rows("all", *some(100, 40))
    assert check(ONE)["status"] == "clean"


def test_shares_of_one_split_are_compared(rows: Callable[..., None]) -> None:
    """Two files of the same pixels in different formats: only decoding shows that they are equal."""
    first = some(200, 30)
    again = [encoded(make_image(96, 64, seed), "TIFF") for seed in range(200, 230)]
    rows("all", *first, *again)
    found = check(ONE)
    kinds = {kind for kind, *_ in told(found)}
    assert {"leak", "validation-overlap", "duplicate"} & kinds >= {"leak", "validation-overlap"}
    assert found["status"] == "errors"


def test_the_config_that_init_writes_for_one_file_passes(
    rows: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    contents = some(300, 60)
    for n, data in enumerate(contents):
        Path(f"shelf-{n}.png").write_bytes(data)
    Path("shop.csv").write_text("photo,caption\n" + "".join(f"shelf-{n}.png,A ball {n}.\n" for n in range(60)))
    app(["init", "shop.csv", "--set", "model.name=tiny"], standalone_mode=False)
    app(["data", "check", "shop.yaml", "--progress", "none"], standalone_mode=False)
    assert "All 60 rows can be used" in capsys.readouterr().out


def test_a_quarantine_found_with_other_evaluated_rows_is_refused(rows: Callable[..., None]) -> None:
    train, test = some(400, 6), some(500, 6)
    train[2], train[4] = test[0], test[5]
    rows("train", *train)
    rows("validation", *some(600, 3))
    rows("test", *test)
    check("", "{}", ALLOWED, "dataset.limit.test=3")

    def used(*sets: str) -> list[str]:
        left = Session(load("c.yaml", [ALLOWED, *sets]).config, Progress(Silent())).rows("train")
        return [left.id(n) for n in range(len(left))]

    assert used("dataset.limit.test=3") == [f"train-{n}" for n in (0, 1, 3, 4, 5)]
    for changed in ("dataset.limit.test=6", "evaluation.split=validation"):
        with pytest.raises(DataError, match=r"quarantine.json.*other evaluated rows.*data check") as error:
            used(changed)
        assert error.value.exit_code == 3
    check("", "{}", ALLOWED, "dataset.limit.test=6")
    assert used("dataset.limit.test=6") == [f"train-{n}" for n in (0, 1, 3, 5)]


ALSO = (
    "{additional: [{name: far, task: {name: captioning}, "
    "dataset: {source: jsonl, path: ., references: [caption], id: id, splits: {test: far.jsonl}, %s}}]}"
)


def test_additional_evaluation_sets_are_checked(rows: Callable[..., None]) -> None:
    train = some(700, 4)
    rows("train", *train)
    rows("validation", *some(710))
    rows("test", *some(720))
    rows(
        "far",
        *some(730),
        encoded(make_image(96, 64, 701), "TIFF"),
        b"torn",
        encoded(make_image(96, 64, 702).resize((192, 128))),
    )
    found = check("", ALSO % "limit: {}")
    assert told(found) == [
        ("leak", "train", 1, 0),
        ("image", "far/test", 4, 0),
        ("near-leak", "far/test", 5, 0),
    ]
    assert found["findings"][0]["other"]["role"] == "far/test"
    assert [split["role"] for split in found["splits"]] == ["train", "validation", "test", "far/test"]
    with pytest.raises(DataError, match="max_bad_fraction in the dataset block of train, far/test"):
        app(["data", "check", "c.yaml", "--progress", "none"], standalone_mode=False)
    found = check("", ALSO % "max_bad_fraction: 0.5", ALLOWED)
    assert found["status"] == "left_out"
    assert {role: [one["row"] for one in entry["left_out"]] for role, entry in quarantined().items()} == {
        "train": [1],
        "validation": [],
        "test": [],
        "far/test": [4],
    }
    session = Session(load("c.yaml", [ALLOWED]).config, Progress(Silent()))
    assert len(session.rows("train")) == 3
    assert len(session.additional[0].rows("test")) == 5
    Path("far.jsonl").unlink()
    assert ("split", "far/test", None, None) in told(check("", ALSO % "limit: {}"))


def quarantined() -> Found:
    roles: Found = json.loads(Path("out", QUARANTINE).read_text())["roles"]
    return roles


def test_a_repaired_image_is_decoded_again(rows: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """A file damaged in its middle may have the size, time, start and end of the good one."""
    rng = np.random.default_rng(5)
    good = encoded(Image.fromarray(rng.integers(0, 256, (700, 700, 3)).astype(np.uint8)))
    rows("train", good[: len(good) // 2] + bytes(9000) + good[len(good) // 2 + 9000 :], *some(800))
    rows("validation", *some(810))
    rows("test", *some(820))
    assert told(check()) == [("image", "train", 0, 0)]
    Path("across-train-0-0.img").write_bytes(good)
    assert told(check()) == []
    monkeypatch.setattr(image_index, "in_memory", None)
    assert told(check()) == [], "nothing has changed"


def test_an_image_after_a_missing_one_keeps_its_position(rows: Callable[..., None]) -> None:
    leaked = some(900, 1)[0]
    rows("train", [None, leaked], *([one, two] for one, two in zip(some(910), some(920), strict=True)))
    rows("validation", *([one, two] for one, two in zip(some(930), some(940), strict=True)))
    rows("test", *([one, two] for one, two in zip([leaked, *some(951, 2)], some(960), strict=True)))
    assert told(check("image: [image0, image1]")) == [("leak", "train", 0, 1), ("image", "train", 0, 0)]


def test_a_file_name_that_is_not_utf8_is_reported_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for split, start in (("train", 1000), ("validation", 1010), ("test", 1020)):
        for label in ("fox", "hare"):
            Path(split, label).mkdir(parents=True)
            for n, data in enumerate(some(start + (5 if label == "fox" else 0))):
                Path(split, label, f"{n}.png").write_bytes(data)
    Path(os.fsdecode(b"train/fox/\xff.png")).write_bytes(b"torn")
    config = "{source: imagefolder, path: ., references: [label], ignore: ['out/*'], max_bad_fraction: 0.5}"
    Path("folder.yaml").write_text(
        f"model: {{name: tiny, device: cpu}}\ndataset: {config}\n"
        "task: {name: classification, labels: [fox, hare]}\noutput: {dir: out}\n"
    )
    app(["data", "check", "folder.yaml", "--progress", "none"], standalone_mode=False)
    (left_out,) = quarantined()["train"]["left_out"]
    assert "\\udcff.png" in left_out["reason"]
