"""The run folder: nothing torn, nothing overwritten, mock and real kept apart, one process at a time."""

import errno
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from builders import Notes, make_image, ref

from vlmtune import fault_injection
from vlmtune.errors import ConfigError, EnvironmentProblem, FolderLocked, IntegrityError
from vlmtune.files import append_lines, cut_torn_line, read_json, whole_lines, write_atomic, write_json
from vlmtune.inference import Predictor
from vlmtune.progress import Progress, Silent
from vlmtune.run_folder import Provenance, RunFolder, differences, read_controls
from vlmtune.signals import StopRequest
from vlmtune.tasks import captioning
from vlmtune.types import Example


@pytest.fixture(autouse=True)
def hits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test counts its own hits of fault points."""
    monkeypatch.setattr(fault_injection, "_hits", Counter())


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def folder(tmp_path: Path, notes: Notes) -> RunFolder:
    return RunFolder(tmp_path, Progress(notes))


def make(folder: RunFolder, artifact: Path, origin: Provenance, text: str = "result") -> None:
    folder.work(artifact, origin)
    folder.write(artifact, text)
    folder.publish(artifact, origin, {"rows": 3})


def make_folder(folder: RunFolder, artifact: Path, origin: Provenance) -> None:
    built = folder.work(artifact, origin) / "built"
    built.mkdir()
    (built / "weights").write_text("result")
    folder.publish(artifact, origin, {}, built)


def test_finished_work_is_found_again(folder: RunFolder) -> None:
    artifact, origin = folder.root / "a.jsonl", Provenance({"seed": 1})
    assert folder.reconcile(artifact, origin) is None
    make(folder, artifact, origin)
    manifest = folder.reconcile(artifact, origin)
    assert manifest is not None
    assert (manifest["rows"], manifest["mock"]) == (3, False)


def test_other_config_is_refused_with_the_difference(folder: RunFolder) -> None:
    artifact = folder.root / "a.jsonl"
    make(folder, artifact, Provenance({"training": {"seed": 1, "rank": 8}}))
    with pytest.raises(IntegrityError, match=r"training.seed: 1 there, 2 here"):
        folder.reconcile(artifact, Provenance({"training": {"seed": 2, "rank": 8}}))
    assert artifact.read_text() == "result"


def test_results_of_before_the_weights_were_hashed_are_still_finished(folder: RunFolder) -> None:
    artifact, old = folder.root / "a.jsonl", {"name": "m", "commit": None}
    folder.write(artifact, "{}\n")
    folder.publish(artifact, Provenance({"model": old}), {})
    assert folder.finished(artifact, Provenance({"model": {**old, "weights": "1"}})) is not None
    assert differences({"model": old}, {"model": {**old, "weights": "1"}}) == []
    assert differences(old, {**old, "weights": "1"}, "model") == []
    with pytest.raises(IntegrityError, match="model.name"):
        folder.finished(artifact, Provenance({"model": {**old, "name": "n", "weights": "1"}}))
    other = folder.root / "b.jsonl"
    folder.write(other, "{}\n")
    folder.publish(other, Provenance({"model": {**old, "weights": "1"}}), {})
    with pytest.raises(IntegrityError, match="model.weights"):
        folder.finished(other, Provenance({"model": {**old, "weights": "2"}}))


def test_controls_under_old_names_of_keys_are_still_read(tmp_path: Path) -> None:
    delta = {"max_logit_difference": 0.5}
    write_json(tmp_path / "a.controls.json", {"schema_version": 1, "image": None, "effect": delta})
    controls = read_controls(tmp_path / "a.jsonl")
    assert controls is not None
    assert controls["adapter_delta"] == delta
    assert read_controls(tmp_path / "b.jsonl") is None


def test_manifests_under_old_names_of_keys_are_still_read(folder: RunFolder) -> None:
    adapter = folder.root / "lora"
    old = {
        "training": {"select_by": "loss", "rank": 8},
        "dataset": {"train": {}, "select": {"rows": 4}},
        "inference": {"length_key": "max_tokens"},
    }
    make_folder(folder, adapter, Provenance(old))
    written = read_json(adapter / "vlmtune.json")
    write_json(adapter / "vlmtune.json", {**written, "curve": [{"step": 5, "select_loss": 2.5}, "damaged"]})
    new = {
        "training": {"best_metric": "loss", "rank": 8},
        "dataset": {"train": {}, "validation": {"rows": 4}},
        "inference": {},
    }
    found = folder.reconcile(adapter, Provenance(new))
    assert found is not None
    assert found["curve"] == [{"step": 5, "validation_loss": 2.5}]
    with pytest.raises(IntegrityError, match=r"training.best_metric: \"loss\" there, null here"):
        folder.reconcile(adapter, Provenance({**new, "training": {"best_metric": None, "rank": 8}}))


def test_foreign_file_is_refused(folder: RunFolder) -> None:
    artifact = folder.root / "a.jsonl"
    artifact.write_text("mine")
    with pytest.raises(IntegrityError, match="vlmtune did not make it"):
        folder.reconcile(artifact, Provenance({}))
    assert artifact.read_text() == "mine"


def test_what_a_crash_left_without_a_manifest_is_done_again(folder: RunFolder, notes: Notes) -> None:
    artifact, origin = folder.root / "a.jsonl", Provenance({})
    folder.write(artifact, "whole, but its manifest never came")
    again = RunFolder(folder.root, Progress(notes))
    assert again.reconcile(artifact, origin) is None
    make(again, artifact, origin, "other bytes this time")
    assert artifact.read_text() == "other bytes this time"


@pytest.mark.parametrize("step", ["failed", "crashed before", "crashed after"])
def test_a_file_put_there_after_a_failed_step_is_not_ours(folder: RunFolder, step: str) -> None:
    artifact, origin = folder.root / "a.jsonl", Provenance({})
    folder.work(artifact, origin)
    if step != "failed":
        folder.write(artifact, "half a step")
        artifact.unlink()
    if step == "crashed after":
        artifact.write_text("half a step")
        assert folder.reconcile(artifact, origin) is None
    artifact.write_text("mine")
    for attempt in (lambda: folder.reconcile(artifact, origin), lambda: folder.write(artifact, "theirs")):
        with pytest.raises(IntegrityError, match="vlmtune did not make it"):
            attempt()
    assert artifact.read_text() == "mine"


def test_a_folder_is_there_whole_or_not_at_all(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact, origin = folder.root / "adapter", Provenance({})
    built = folder.work(artifact, origin) / "built"
    built.mkdir()
    monkeypatch.setenv(fault_injection.ARMED, "file.written:full")
    with pytest.raises(EnvironmentProblem):
        folder.publish(artifact, origin, {}, built)
    monkeypatch.delenv(fault_injection.ARMED)
    assert not artifact.exists()
    artifact.mkdir()
    (artifact / "mine").write_text("mine")
    with pytest.raises(IntegrityError, match="vlmtune did not make it"):
        folder.publish(artifact, origin, {}, built)
    assert [file.name for file in artifact.iterdir()] == ["mine"]


def test_a_published_result_leaves_no_work_from_which_it_could_come_back(folder: RunFolder) -> None:
    artifact, origin = folder.root / "a.jsonl", Provenance({"seed": 1})
    (folder.work(artifact, origin) / "answers.jsonl").write_text("old answers")
    make(folder, artifact, origin)
    assert list((folder.root / ".vlmtune").iterdir()) == []
    (folder.work(artifact, origin) / "answers.jsonl").write_text("left by a crash right after publishing")
    assert folder.reconcile(artifact, origin) is not None
    assert list((folder.root / ".vlmtune").iterdir()) == []
    artifact.unlink()
    assert folder.reconcile(artifact, origin) is None
    assert list(folder.work(artifact, origin).iterdir()) == []
    make(folder, artifact, origin, "made anew")


@pytest.mark.parametrize(
    "other", [{"model": {"name": "8B"}}, {"model": {"name": "tiny"}}], ids=["other origin", "equal origin"]
)
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_mock_and_real_results_are_kept_apart(
    folder: RunFolder, notes: Notes, kind: str, other: dict[str, Any]
) -> None:
    mock = Provenance({"model": {"name": "tiny"}}, mock=True)
    if kind == "file":
        artifact = folder.root / "a.jsonl"
        make(folder, artifact, mock)
    else:
        artifact = folder.root / "adapter"
        make_folder(folder, artifact, mock)
    for name in ("a.controls.json", "metrics.json", "compare.json", "report.html", "other.json"):
        write_json(folder.root / name, {"schema_version": 1, "mock": True})
    beside = [folder.root / "a.controls.json", folder.root / "metrics.json"] if kind == "file" else []
    above = [folder.root / "compare.json", folder.root / "report.html"]
    assert folder.reconcile(artifact, Provenance(other), beside, above) is None
    left = {file.name for file in folder.root.iterdir()}
    if kind == "file":
        assert left == {
            ".vlmtune", "a.mock.jsonl", "a.mock.manifest.json", "a.mock.controls.json", "metrics.mock.json",
            "compare.mock.json", "report.mock.html", "other.json",
        }  # fmt: skip
    else:
        assert left - {"a.controls.json", "metrics.json", "other.json"} == {
            ".vlmtune", "adapter.mock", "compare.mock.json", "report.mock.html",
        }  # fmt: skip
        assert (folder.root / "adapter.mock/weights").read_text() == "result"
    assert f"{artifact} came from a mock run and is archived" in notes.texts[0]
    assert folder.work(artifact, mock) != folder.work(artifact, Provenance(mock.parts))


def test_the_metrics_of_a_classic_script_are_not_overwritten(folder: RunFolder) -> None:
    artifact, metrics, origin = folder.root / "a.jsonl", folder.root / "metrics.json", Provenance({})
    for foreign in ('{"bleu": 0.1}', "[]", "no JSON"):
        metrics.write_text(foreign)
        with pytest.raises(IntegrityError, match=r"metrics.json is there, but vlmtune did not make it"):
            folder.reconcile(artifact, origin, [metrics])
    write_json(metrics, {"bleu": 0.1, "schema_version": 1, "mock": False})
    assert folder.reconcile(artifact, origin, [metrics]) is None
    make(folder, artifact, origin)
    metrics.write_text("whatever it is, the answers are finished")
    assert folder.reconcile(artifact, origin, [metrics]) is not None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"schema_version": 1', r"a.manifest.json: not JSON \("),
        ("\udcff", "a.manifest.json: not JSON"),
        ("[" * 100_000, "a.manifest.json: not JSON"),
        ("[]", "a.manifest.json: should be a valid dictionary"),
        ('{"schema_version": 2, "origin": {}, "mock": false}', "a manifest of version 2, this vlmtune reads version 1"),
        ("{}", "a manifest of version None"),
        ('{"schema_version": 1, "origin": [], "mock": false}', "no manifest of vlmtune"),
    ],
)
def test_an_unreadable_manifest_is_named(folder: RunFolder, text: str, said: str) -> None:
    artifact = folder.root / "a.jsonl"
    artifact.write_text("answers")
    (folder.root / "a.manifest.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(IntegrityError, match=f"{said}.*move it away"):
        folder.reconcile(artifact, Provenance({}))


def test_a_live_process_keeps_the_folder_and_a_dead_one_does_not(folder: RunFolder, notes: Notes) -> None:
    hold = (
        "import sys, pathlib; from vlmtune.run_folder import RunFolder; from vlmtune.progress import *\n"
        "with RunFolder(pathlib.Path(sys.argv[1]), Progress(Silent())).lock():\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(folder.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(FolderLocked, match=f"in use by process {holder.pid} on "), folder.lock():
        pass
    holder.kill()
    holder.wait()
    with folder.lock():
        assert f"process {holder.pid}" in notes.texts[0]


def test_torn_last_line_is_cut_at_every_byte(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    append_lines(file, ['{"id": 1}', '{"id": "ü"}'])
    whole = file.read_bytes()
    for cut in range(len(whole) + 1):
        file.write_bytes(whole[:cut])
        lines = whole_lines(file)
        assert file.read_bytes() == whole[:cut]
        cut_torn_line(file)
        assert whole_lines(file) == lines
        assert [json.loads(line) for line in lines] == [{"id": 1}, {"id": "ü"}][: len(lines)]
        assert file.read_bytes() == whole[: sum(len(line) + 1 for line in lines)]


def test_a_missing_file_has_no_lines_and_damaged_ones_are_lines(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    assert whole_lines(file) == []
    file.write_bytes(b"{}\n\xff\xfe\n")
    assert whole_lines(file) == [b"{}", b"\xff\xfe"]


def test_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.json"
    write_atomic(file, "old")
    monkeypatch.setenv(fault_injection.ARMED, "file.written:full")
    with pytest.raises(EnvironmentProblem, match=r"no space left for .*a.json \(3 bytes\)"):
        write_atomic(file, "new")
    assert file.read_text() == "old"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (errno.EDQUOT, EnvironmentProblem),
        (errno.EACCES, EnvironmentProblem),
        (errno.EROFS, EnvironmentProblem),
        (errno.EIO, EnvironmentProblem),
        (errno.ENOTDIR, ConfigError),
        (errno.ENAMETOOLONG, ConfigError),
    ],
    ids=lambda value: errno.errorcode[value] if isinstance(value, int) else "",
)
def test_what_the_system_refuses_is_named_with_its_path(
    code: int, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *words: object, **more: object) -> None:
        raise OSError(code, os.strerror(code), str(path))

    folder = RunFolder(tmp_path / "out", Progress(Silent()))
    (tmp_path / "there").write_text("old\n")
    for name in ("open", "read_bytes"):
        monkeypatch.setattr(Path, name, refuse)

    def enter() -> None:
        with folder.lock():
            pass

    for attempt, path in (
        (lambda: write_atomic(tmp_path / "a.json", "new"), "a.json"),
        (lambda: write_atomic(tmp_path / "a.webp", b"new"), "a.webp"),
        (lambda: append_lines(tmp_path / "a.jsonl", ["new"]), "a.jsonl"),
        (lambda: whole_lines(tmp_path / "there"), "there"),
        (lambda: read_json(tmp_path / "there"), "there"),
        (enter, "out/.vlmtune/lock"),
    ):
        with pytest.raises(error, match=re.escape(str(tmp_path / path))):
            attempt()


def test_a_folder_whose_way_is_a_file_or_whose_name_is_too_long(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for name in ("file/out", "n" * 300):
        with (
            pytest.raises(ConfigError, match="--set output.dir=…"),
            RunFolder(tmp_path / name, Progress(Silent())).lock(),
        ):
            pass
        with pytest.raises(ConfigError, match=name[:20]):
            write_atomic(tmp_path / name / "report.html", "page")


def test_a_torn_picture_never_has_the_name_of_a_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answering = Predictor(
        captioning.TASK, captioning.Config(), tmp_path / "pictures", Progress(Silent()), StopRequest()
    )
    image = make_image(40, 40)
    example = Example("1", (ref(image),), None, {"references": ["a"]}, "1")
    monkeypatch.setenv(fault_injection.ARMED, "file.written:full")
    with pytest.raises(EnvironmentProblem, match=r"no space left for .*pictures.*\.webp"):
        answering._image(example)
    assert list((tmp_path / "pictures").glob("*.webp")) == []
    monkeypatch.delenv(fault_injection.ARMED)
    digest = answering._image(example)
    assert [file.name for file in (tmp_path / "pictures").glob("*.webp")] == [f"{digest[:16]}.webp"]


def test_differences_name_dotted_paths() -> None:
    assert differences({"a": {"b": 1, "c": [1]}}, {"a": {"b": 1, "c": [2], "d": None}}) == ["a.c: [1] there, [2] here"]
