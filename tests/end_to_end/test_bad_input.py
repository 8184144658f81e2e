"""Bad input ends in one named error: what, where, what to do, and its exit code; nothing is overwritten."""

import fcntl
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import encoded, make_image
from commands import Ended, warm_vlmtune

CONFIG = """\
model: {name: tiny, device: cpu}
dataset:
  source: jsonl
  path: rows
  references: [caption]
task: {name: captioning}
training: {precision: fp32, batch_size: 4}
output: {dir: out}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A config and a small dataset of four pictures per split that works as it is."""
    (tmp_path / "c.yaml").write_text(CONFIG, encoding="utf-8")
    (tmp_path / "answers.jsonl").write_text('{"prediction": "a", "references": ["a"]}\n', encoding="utf-8")
    (tmp_path / "rows").mkdir()
    for split in ("train", "validation", "test"):
        for n in range(4):
            (tmp_path / f"rows/{split}{n}.png").write_bytes(encoded(make_image(96, 80, seed=n)))
        write(tmp_path, split, [{"image": f"{split}{n}.png", "caption": f"a red ball {n} ."} for n in range(4)])
    return tmp_path


def write(folder: Path, split: str, rows: list[dict[str, str]]) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / f"rows/{split}.jsonl").write_text(text, encoding="utf-8")


def refused(ended: Ended, code: int, *said: str) -> None:
    assert ended.returncode == code, ended.stderr
    (message,) = (ended.stderr[found.start() :] for found in re.finditer(r"^error: ", ended.stderr, re.MULTILINE))
    assert "Traceback" not in ended.stderr
    for words in said:
        assert words in message


def no_column(folder: Path) -> None:
    write(folder, "train", [{"image": "train0.png", "text": "a ball"}])


def no_rows(folder: Path) -> None:
    (folder / "rows/train.jsonl").write_text("\n", encoding="utf-8")


def no_file(folder: Path) -> None:
    (folder / "rows/train.jsonl").unlink()


def broken_image(folder: Path) -> None:
    (folder / "rows/train2.png").write_bytes(encoded(make_image(96, 80))[:200])


def empty_caption(folder: Path) -> None:
    write(folder, "train", [{"image": "train0.png", "caption": "a"}, {"image": "train1.png", "caption": "  "}])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (no_column, ["rows/train.jsonl: dataset.references names column 'caption'; there are: image, text"]),
        (no_rows, ["rows/train.jsonl: no rows; check dataset.splits and dataset.limit"]),
        (no_file, ["rows/train.jsonl: no such file; rows has test.jsonl, validation.jsonl"]),
        (broken_image, ["rows/train.jsonl, row 2", "train2.png", "cannot be decoded"]),
        (empty_caption, ["rows/train.jsonl, row 1: column 'caption' is empty; repair or remove the row"]),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_bad_data_stops_training_before_the_first_step(
    spoil: Callable[[Path], None], said: list[str], folder: Path
) -> None:
    spoil(folder)
    refused(warm_vlmtune("train", "c.yaml", cwd=folder), 3, *said)
    assert not (folder / "out/lora").exists()


def test_an_unreadable_image_at_prediction_fails_alone(folder: Path) -> None:
    (folder / "rows/test1.png").write_bytes(b"no image")
    ended = warm_vlmtune("predict", "c.yaml", "--set", "inference.max_new_tokens=4", "--json", cwd=folder)
    assert ended.returncode == 0, ended.stderr
    assert (
        json.loads(ended.stdout)["rows"] | {"asked": 4, "answered": 3, "failed": 1} == json.loads(ended.stdout)["rows"]
    )
    lines = [json.loads(line) for line in (folder / "out/baseline_predictions.jsonl").read_text().splitlines()]
    assert lines[1]["failure"]["stage"] == "image"
    assert "test1.png" in lines[1]["failure"]["reason"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["train", "c.yaml", "--set", "training.lorra.rank=4"], 2, "did you mean 'lora'?"),
        (["train", "c.yaml", "--set", "training.epochs=many"], 2, "--set training.epochs=many"),
        (["train", "none.yaml"], 2, "none.yaml"),
        (["predict", "c.yaml", "--adapter", "nowhere"], 9, "nowhere: no such folder"),
        (
            ["predict", "c.yaml", "--split", "tset"],
            2,
            "'tset' is not one of 'train', 'validation', 'test'.",
        ),
        (["compare", "a.jsonl", "b.jsonl"], 3, "a.jsonl: no such prediction file"),
        (["score", "answers.jsonl", "--task", "captoning"], 2, "did you mean 'captioning'?"),
        (["train", "c.yaml", "--set", "model.device=cuda"], 4, "no GPU is visible"),
        (["train", "c.yaml", "--set", "training.lora.target_modules=[q_porj]"], 2, "did you mean 'q_proj'?"),
        (["train", "c.yaml", "--set", "training.lora.parts=[merger]"], 2, "'q_proj' matches no linear layer of the m"),
        (["train", "c.yaml", "--set", "training.checkpoint_layers=9"], 2, "this model has 4 layers"),
        (["train", "c.yaml", "--set", "training.attention=flash"], 4, "needs a GPU and half precision"),
        (["train", "c.yaml", "--set", "training.continue_from=none"], 9, "none: no such folder"),
        (["trian"], 2, "See: vlmtune --help"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_words(words: list[str], code: int, said: str, folder: Path) -> None:
    refused(warm_vlmtune(*words, cwd=folder), code, said)


def test_an_adapter_of_another_base_and_another_config_in_the_folder(folder: Path) -> None:
    trained = warm_vlmtune("train", "c.yaml", cwd=folder)
    assert trained.returncode == 0, trained.stderr
    weights = (folder / "out/lora/adapter_model.safetensors").read_bytes()
    other = warm_vlmtune("train", "c.yaml", "--set", "training.learning_rate=1e-3", cwd=folder)
    refused(
        other,
        9,
        "made from another configuration; nothing was overwritten",
        "training.learning_rate: 0.0002 there, 0.001 here",
    )
    assert (folder / "out/lora/adapter_model.safetensors").read_bytes() == weights
    longer = warm_vlmtune("train", "c.yaml", "--set", "training.epochs=3", cwd=folder)
    refused(longer, 9, "--set training.continue_from=out/lora --set output.dir=")
    resized = warm_vlmtune("predict", "c.yaml", "--adapter", "out/lora", "--set", "model.max_pixels=8192", cwd=folder)
    refused(resized, 9, "trained on another model or with other preprocessing", "max_pixels: 16384 there, 8192 here")
    foreign = folder / "foreign"
    shutil.copytree(folder / "out/lora", foreign)
    (foreign / "vlmtune.json").unlink()
    settings = json.loads((foreign / "adapter_config.json").read_text())
    settings["target_modules"] = ["k_proj"]
    (foreign / "adapter_config.json").write_text(json.dumps(settings))
    refused(warm_vlmtune("predict", "c.yaml", "--adapter", "foreign", cwd=folder), 9, "belongs to another model")
    assert not (folder / "out/lora_predictions.jsonl").exists()


def test_a_folder_in_use(folder: Path) -> None:
    lock = folder / "out/.vlmtune/lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        held.write("process 1 on elsewhere\n")
        held.flush()
        refused(warm_vlmtune("train", "c.yaml", cwd=folder), 8, "out is in use by process 1 on elsewhere")


def test_python_and_command_line_make_the_same_files(folder: Path) -> None:
    import vlmtune

    assert warm_vlmtune("run", "c.yaml", "--set", "inference.max_new_tokens=4", cwd=folder).returncode == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        sets = ["inference.max_new_tokens=4", "output.dir=again"]
        comparison = vlmtune.run(vlmtune.load_config("c.yaml", sets))
    assert comparison.status == "inconclusive"
    for name in ("lora/adapter_model.safetensors", "lora_predictions.jsonl", "compare.json", "report.html"):
        assert (folder / "out" / name).read_bytes() == (folder / "again" / name).read_bytes(), name


@pytest.mark.parametrize(
    ("report", "code", "said"),
    [
        ("/dev/null/x.html", 2, "/dev/null/x.html: Not a directory"),
        ("/proc/nowhere/x.html", 2, "/proc/nowhere/x.html: No such file or directory"),
        ("n" * 300 + ".json", 2, "File name too long"),
    ],
)
def test_a_report_that_cannot_be_written(report: str, code: int, said: str, folder: Path) -> None:
    predictions(folder, "a.jsonl")
    refused(warm_vlmtune("compare", "a.jsonl", "a.jsonl", "-o", report, cwd=folder), code, said)


def predictions(folder: Path, name: str, task: str | None = None) -> None:
    lines = [{"id": str(n), "prediction": f"a red ball {n}", "references": [f"a red ball {n}"]} for n in range(4)]
    (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    if task is not None:
        manifest = {"schema_version": 1, "mock": False, "origin": {"task": {"name": task}}}
        (folder / name).with_suffix(".manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def test_a_manifest_never_chooses_which_code_runs(folder: Path) -> None:
    (folder / "planted.py").write_text(
        "from pathlib import Path\nPath('it_ran').touch()\nfrom vlmtune.tasks.captioning import *\n", encoding="utf-8"
    )
    (folder / "planted").mkdir()
    (folder / "planted.py").rename(folder / "planted/task.py")
    predictions(folder, "a.jsonl", "planted.task")
    refused(warm_vlmtune("compare", "a.jsonl", "a.jsonl", cwd=folder), 2, "pass it with --task to run its code")
    assert not (folder / "it_ran").exists()
    asked = warm_vlmtune("compare", "a.jsonl", "a.jsonl", "--task", "planted.task", cwd=folder)
    assert asked.returncode == 0, asked.stderr
    assert (folder / "it_ran").exists()


@pytest.mark.parametrize("name", ["a.manifest.json", "a.controls.json"])
def test_a_damaged_file_beside_the_answers(name: str, folder: Path) -> None:
    predictions(folder, "a.jsonl", "captioning")
    (folder / name).write_text('{"schema_version": 1, ')
    refused(warm_vlmtune("compare", "a.jsonl", "a.jsonl", cwd=folder), 9, f"{name}: not JSON", "restore it")
