"""The run folder: nothing torn, nothing overwritten, mock and real kept apart, one process at a time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pieces import Notes

from vlmtune import faults
from vlmtune.errors import EnvironmentProblem, FolderLocked, IntegrityError
from vlmtune.files import append_lines, read_whole_lines, write_atomic
from vlmtune.progress import Progress
from vlmtune.runs import Origin, RunFolder, differences


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def folder(tmp_path: Path, notes: Notes) -> RunFolder:
    return RunFolder(tmp_path, Progress(notes))


def make(folder: RunFolder, artifact: Path, origin: Origin, text: str = "result") -> None:
    folder.start(artifact, origin)
    write_atomic(artifact, text)
    folder.publish(artifact, origin, {"rows": 3})


def test_finished_work_is_found_again(folder: RunFolder) -> None:
    artifact, origin = folder.root / "a.jsonl", Origin({"seed": 1})
    assert folder.finished(artifact, origin) is None
    make(folder, artifact, origin)
    manifest = folder.finished(artifact, origin)
    assert manifest is not None
    assert (manifest["rows"], manifest["mock"]) == (3, False)


def test_other_config_is_refused_with_the_difference(folder: RunFolder) -> None:
    artifact = folder.root / "a.jsonl"
    make(folder, artifact, Origin({"training": {"seed": 1, "rank": 8}}))
    with pytest.raises(IntegrityError, match=r"training.seed: 1 there, 2 here"):
        folder.finished(artifact, Origin({"training": {"seed": 2, "rank": 8}}))
    assert artifact.read_text() == "result"


def test_foreign_file_is_refused(folder: RunFolder) -> None:
    artifact = folder.root / "a.jsonl"
    artifact.write_text("mine")
    with pytest.raises(IntegrityError, match="vlmtune did not make it"):
        folder.finished(artifact, Origin({}))
    assert artifact.read_text() == "mine"


def test_crash_between_artifact_and_manifest_is_done_again(folder: RunFolder) -> None:
    artifact, origin = folder.root / "a.jsonl", Origin({})
    folder.start(artifact, origin)
    write_atomic(artifact, "whole, but its manifest never came")
    assert folder.finished(artifact, origin) is None


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_mock_and_real_results_are_kept_apart(folder: RunFolder, notes: Notes, kind: str) -> None:
    artifact, mock = folder.root / ("a.jsonl" if kind == "file" else "adapter"), Origin({"model": "tiny"}, mock=True)
    folder.start(artifact, mock)
    if kind == "folder":
        artifact.mkdir()
    target = artifact if kind == "file" else artifact / "weights"
    write_atomic(target, "mock")
    folder.publish(artifact, mock, {})
    assert folder.finished(artifact, Origin({"model": "8B"})) is None
    aside = folder.root / ("a.mock.jsonl" if kind == "file" else "adapter.mock")
    assert not artifact.exists()
    assert (aside if kind == "file" else aside / "weights").read_text() == "mock"
    assert aside.name in notes.texts[0]


def test_a_live_process_keeps_the_folder_and_a_dead_one_does_not(folder: RunFolder, notes: Notes) -> None:
    hold = (
        "import sys, pathlib; from vlmtune.runs import RunFolder; from vlmtune.progress import *\n"
        "with RunFolder(pathlib.Path(sys.argv[1]), Progress(Silent())).locked():\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(folder.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(FolderLocked, match=f"in use by process {holder.pid} on "), folder.locked():
        pass
    holder.kill()
    holder.wait()
    with folder.locked():
        assert f"process {holder.pid}" in notes.texts[0]


def test_torn_last_line_is_cut_at_every_byte(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    append_lines(file, ['{"id": 1}', '{"id": "ü"}'])
    whole = file.read_bytes()
    for cut in range(len(whole) + 1):
        file.write_bytes(whole[:cut])
        lines = read_whole_lines(file)
        assert lines == [json.dumps(value, ensure_ascii=False) for value in ({"id": 1}, {"id": "ü"})][: len(lines)]
        assert file.read_bytes() == whole[: sum(len(line.encode()) + 1 for line in lines)]


def test_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.json"
    write_atomic(file, "old")
    monkeypatch.setenv(faults.ARMED, "file.written:full")
    with pytest.raises(EnvironmentProblem, match=r"no space left for .*a.json \(3 bytes\)"):
        write_atomic(file, "new")
    assert file.read_text() == "old"


def test_differences_name_dotted_paths() -> None:
    assert differences({"a": {"b": 1, "c": [1]}}, {"a": {"b": 1, "c": [2], "d": None}}) == ["a.c: [1] there, [2] here"]
