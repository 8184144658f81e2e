"""The verbs that look after run folders: what they say is so, and what they delete is what they said."""

import fcntl
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from growth import LINEAR, growth
from run_folders import BASE, MODEL, TRAINED, TUNED, answer, compared, folder, rewrite, stopped, train
from training_leftovers import leave_checkpoint as checkpoint
from typer.testing import CliRunner

from vlmtune.cli.app import app
from vlmtune.config import load
from vlmtune.errors import ConfigError, FolderLocked
from vlmtune.files import lock_file, write_json
from vlmtune.maintenance import garbage, repair, summary
from vlmtune.maintenance.inspect import find_runs, inspect_run
from vlmtune.progress import Progress, Silent
from vlmtune.run_folder import Provenance, hash_adapter


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "outputs" / "demo"


@pytest.fixture
def holder(root: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Another process that works in the folder until the test ends."""
    hold = (
        "import sys, pathlib; from vlmtune.run_folder import RunFolder; from vlmtune.progress import *\n"
        "with RunFolder(pathlib.Path(sys.argv[1]), Progress(Silent())).lock():\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    started: list[subprocess.Popen[str]] = []

    def hold_it() -> subprocess.Popen[str]:
        words = [sys.executable, "-c", hold, str(root)]
        started.append(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert started[0].stdout is not None
        assert started[0].stdout.readline() == "held\n"
        return started[0]

    yield hold_it
    for process in started:
        process.kill()
        process.communicate()


def run(*words: str | Path, error: type[Exception] | None = None) -> str:
    ended = CliRunner().invoke(app, ["runs", *map(str, words)])
    if error is not None:
        assert isinstance(ended.exception, error)
        return str(ended.exception)
    assert ended.exit_code == 0, ended.exception
    return ended.stdout


def test_every_run_folder_below_is_listed_and_nothing_else(root: Path) -> None:
    answer(root, "baseline_predictions.jsonl", BASE)
    train(root)
    stopped(root.parent / "deep" / "er", 30)
    (root.parent / "notes").mkdir()
    (root.parent / "notes" / "compare.json").write_text("{}")
    assert find_runs(root.parent) == [root.parent / "deep" / "er", root]
    with pytest.raises(ConfigError, match="no such folder"):
        find_runs(root / "not there")
    with pytest.raises(ConfigError, match="is no run folder"):
        inspect_run(root.parent / "notes")


def test_the_table_says_state_steps_and_result(root: Path, holder: Callable[[], Any]) -> None:
    assert run("ls", root.parent.parent) == f"{root.parent.parent}: no run folder found\n"
    answer(root, "baseline_predictions.jsonl", BASE)
    assert (inspect_run(root).state, inspect_run(root).steps) == ("partial", ["baseline"])
    stopped(root, 20, 30)
    assert "stopped, resumable: lora at step 30 of 90" in run("ls", root.parent)
    process = holder()
    said = run("ls", root.parent)
    assert f"in progress: train 34/90 (process {process.pid} on {socket.gethostname()})" in said
    process.communicate()
    train(root)
    answer(root, "lora_predictions.jsonl", TUNED)
    assert inspect_run(root).state == "partial"
    compared(root)
    [line] = run("ls", root.parent).splitlines()[1:]
    assert line.split("  ")[:2] == [str(root), "finished"]
    assert "baseline, adapter, tuned, comparison  improved: bleu 0." in line
    [plain] = json.loads(run("ls", root.parent, "--json"))["runs"]
    assert (plain["state"], plain["mock"], plain["owner"]) == ("finished", False, None)
    assert plain["bytes"] == sum(file.stat().st_size for file in root.rglob("*") if file.is_file())


def test_a_mock_run_says_so(root: Path) -> None:
    answer(root, "baseline_predictions.jsonl", BASE, mock=True)
    assert "partly done (mock)" in run("ls", root)
    folder(root).reconcile(root / "baseline_predictions.jsonl", Provenance(BASE))
    answer(root, "baseline_predictions.jsonl", BASE)
    assert not inspect_run(root).mock


def test_show_says_what_made_it_and_what_is_next(root: Path) -> None:
    answer(root, "baseline_predictions.jsonl", BASE)
    write_json(train(root) / "measured.json", {"resumed_at": [5]})
    said = run("show", root)
    for words in (
        "model tiny (qwen3_vl, config 751dc9d8)",
        "rows 30, fingerprint a6618abe5f85",
        "cpu, torch 2.0",
        "curve       loss 4 █▃▁ 1 over 9 steps, step 9 selected, resumed after step 5",
        f"next        vlmtune run CONFIG --set output.dir={root}",
    ):
        assert words in said
    plain = json.loads(run("show", root, "--json"))
    assert [one["kind"] for one in plain["artifacts"]] == ["baseline", "adapter"]
    assert plain["training"]["resumed_at"] == [5]


def test_show_says_which_checkpoint_would_be_resumed_and_the_same_command(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/vlmtune", "train", "a b.yaml"])
    work = stopped(root, 20)
    checkpoint(work, 30, whole=False)
    said = run("show", root)
    assert "lora: checkpoints at step 20, 30; it would resume from step 20" in said
    assert "next        vlmtune train 'a b.yaml'\n" in said


@pytest.mark.parametrize(
    ("words", "mock", "typed"),
    [
        (["/x/vlmtune", "run", "c.yaml"], True, "vlmtune run c.yaml"),
        (["/x/vlmtune/__main__.py", "run", "c.yaml"], False, "python -m vlmtune run c.yaml"),
        (["main.py", "--mode", "train"], True, "USE_MOCK=True python main.py --mode train"),
    ],
)
def test_a_command_is_said_as_it_is_typed(words: list[str], mock: bool, typed: str) -> None:
    assert summary._command(words, mock) == typed


def test_an_unreadable_manifest_makes_a_run_damaged_and_hides_no_other(root: Path) -> None:
    file = answer(root, "baseline_predictions.jsonl", BASE)
    answer(root.with_name("other"), "baseline_predictions.jsonl", BASE)
    file.with_name("baseline_predictions.manifest.json").write_text('{"schema_')
    said = run("ls", root.parent)
    assert "damaged: see runs recover" in said
    assert "partly done" in said


def snapshot(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def test_recover_finds_each_damage_and_mends_it(root: Path) -> None:
    kept = answer(root, "baseline_predictions.jsonl", BASE).read_bytes()
    work = stopped(root, 20)
    torn = checkpoint(work, 30, whole=False)
    (work / ".step-000040.building").mkdir()
    (root / ".metrics.json.building").write_text("half")
    write_json(root / ".vlmtune/gone.jsonl.writing.json", {"sha256": "0"})
    (root / "lost.manifest.json").write_text(json.dumps({"schema_version": 1, "origin": {}, "mock": False}))
    before = snapshot(root)
    wanted = {
        (root / ".vlmtune/lock", "unlock"),
        (root / ".metrics.json.building", "remove"),
        (root / ".vlmtune/gone.jsonl.writing.json", "remove"),
        (root / "lost.manifest.json", "remove"),
        (work / "curve.jsonl", "truncate"),
        (work / ".step-000040.building", "remove"),
        (torn, "remove"),
    }
    assert {(one.path, one.remedy) for one in repair.find_damage(root)} == wanted
    said = run("recover", root, "--dry-run")
    assert f"{torn}: a damaged checkpoint" in said
    assert snapshot(root) == before
    plain = json.loads(run("recover", root, "--json"))
    assert {(Path(one["path"]), one["remedy"]) for one in plain["damage"]} == wanted
    assert run("recover", root) == f"{root}: nothing is damaged\n"
    assert (work / "curve.jsonl").read_text() == '{"step": 1, "loss": 4.0}\n'
    assert sorted(path.name for path in work.iterdir()) == ["curve.jsonl", "step-000020"]
    assert (root / "baseline_predictions.jsonl").read_bytes() == kept
    assert inspect_run(root).state == "stopped"


@pytest.mark.parametrize("how", ["cut", "fewer rows", "manifest", "weights", "no config"])
def test_a_damaged_artifact_is_moved_aside_never_deleted(root: Path, how: str) -> None:
    file, adapter = answer(root, "baseline_predictions.jsonl", BASE), train(root)
    weights = adapter / "adapter_model.safetensors"
    match how:
        case "cut":
            file.write_bytes(file.read_bytes()[:-40])
        case "fewer rows":
            file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-1]))
        case "manifest":
            file.with_name("baseline_predictions.manifest.json").write_text("{")
        case "weights":
            weights.write_bytes(weights.read_bytes()[:-8])
        case "no config":
            (adapter / "adapter_config.json").unlink()
    before = sorted(snapshot(root).values())
    [found] = repair.repair(root, Progress(Silent()))
    assert found.remedy == "archive"
    assert not found.path.exists()
    assert sorted(snapshot(root).values()) == before
    assert repair.find_damage(root) == []


def test_gc_frees_what_it_said_and_keeps_what_is_needed(root: Path) -> None:
    answer(root, "baseline_predictions.jsonl", BASE, mock=True)
    write_json(root / "metrics_baseline.json", {"schema_version": 1, "mock": True, "bleu": 0.1})
    compared(root, mock=True)
    beside = [root / name for name in ("metrics_baseline.json",)]
    above = [root / name for name in ("compare.json", "report.html")]
    folder(root).reconcile(root / "baseline_predictions.jsonl", Provenance(BASE), beside, above)
    answer(root, "baseline_predictions.jsonl", BASE)
    work = stopped(root, 10, 20, 30)
    left = root / f".vlmtune/baseline_predictions-{Provenance(BASE).key}"
    left.mkdir()
    another = root / ".vlmtune/baseline_predictions.jsonl-0123456789ab"
    another.mkdir()
    (another / "answers.jsonl").write_bytes(bytes(5000))
    (left / "answers.jsonl").write_bytes(bytes(5000))
    mine = root / "mine.mock.json"
    mine.write_text("[1, 2]")
    wanted = {
        left,
        work / "step-000010",
        work / "step-000020",
        *(root / f"baseline_predictions.mock{end}" for end in (".jsonl", ".manifest.json")),
        *(root / name for name in ("metrics_baseline.mock.json", "compare.mock.json", "report.mock.html")),
    }
    before = snapshot(root)
    found = garbage.find_garbage(root)
    assert {one.path for one in found} == wanted
    assert "would be freed; --yes deletes it" in run("gc", root)
    assert snapshot(root) == before
    gone = sum(len(data) for data in before.values())
    assert json.loads(run("gc", root, "--yes", "--json"))["bytes"] == sum(one.size for one in found)
    after = snapshot(root)
    lock = len(before[".vlmtune/lock"]) - len(after[".vlmtune/lock"])
    assert gone - sum(len(data) for data in after.values()) == sum(one.size for one in found) + lock
    assert not any(path.exists() for path in wanted)
    assert mine.exists()
    assert another.is_dir(), "made from something else: only its maker knows what it is worth"
    assert f"{another}: work on another baseline_predictions.jsonl than the finished one" in run("show", root)
    assert (work / "step-000030").is_dir()
    assert run("gc", root, "--yes") == "nothing to delete\n"


def test_what_a_real_run_made_is_never_surplus(root: Path) -> None:
    answer(root, "baseline_predictions.jsonl", BASE)
    train(root)
    folder(root).reconcile(root / "lora", Provenance(TRAINED, mock=True))
    assert (root / "lora.real").is_dir()
    assert garbage.find_garbage(root) == []


def test_a_live_run_is_neither_judged_nor_freed(root: Path, holder: Callable[[], Any]) -> None:
    free = root.with_name("free")
    (stopped(free, 10, 20) / ".step-000030.building").mkdir()
    stopped(root, 10, 20)
    before = snapshot(root.parent) | {"demo/.vlmtune/lock": b""}
    holder()
    for words in (["recover"], ["recover", "--dry-run"], ["gc"], ["gc", free, "--yes"]):
        assert "is in use by process" in run(*words, root, error=FolderLocked)
    assert snapshot(root.parent) | {"demo/.vlmtune/lock": b""} == before
    assert FolderLocked.exit_code == 8


def test_a_process_of_another_machine_is_named_and_only_the_lock_decides(root: Path) -> None:
    stopped(root, 20)
    (root / ".vlmtune/lock").write_text("process 7 on elsewhere\n")
    assert "in progress: train 34/90 (process 7 on elsewhere)" in run("ls", root)
    repair.repair(root, Progress(Silent()))
    assert inspect_run(root).state == "stopped"


def test_the_lock_decides_and_not_a_number_that_the_next_process_has_too(root: Path) -> None:
    stopped(root, 20)
    (root / ".vlmtune/lock").write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
    assert inspect_run(root).state == "stopped"
    assert [one.remedy for one in repair.repair(root, Progress(Silent()))] == ["unlock", "truncate"]
    with folder(root).lock():
        assert inspect_run(root).live
        (root / ".vlmtune/lock").write_text("")  # about to be written
        with pytest.raises(FolderLocked, match="in use by another process"):
            garbage.find_garbage(root)


def test_a_look_at_the_lock_stops_no_run(root: Path) -> None:
    stopped(root, 20)
    with (root / ".vlmtune/lock").open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.01, fcntl.flock, (looking, fcntl.LOCK_UN)).start()
        with folder(root).lock():
            assert inspect_run(root).live


def seed(number: int) -> Provenance:
    return Provenance({**MODEL, "training": {"seed": number}})


@pytest.mark.parametrize("older", [False, True])
def test_the_work_of_one_seed_outlives_that_of_another(root: Path, older: bool) -> None:
    made = folder(root)
    with made.lock():
        built = made.work(root / "lora.seed1", seed(1)) / "adapter"
        built.mkdir()
        made.publish(root / "lora.seed1", seed(1), {}, built)
        work = made.work(root / "lora.seed2", seed(2))
    if older:  # a version that named both folders alike
        work = work.rename(work.with_name(f"lora-{seed(2).key}"))
    newest = checkpoint(work, 500)
    assert "stopped, resumable: lora" in run("ls", root.parent)
    assert garbage.collect(root, Progress(Silent())) == []
    assert newest.is_dir()
    found = made.work(root / "lora.seed2", seed(2))
    assert (found / "step-000500").is_dir(), "the same command goes on from it"
    assert found.name == f"lora.seed2-{seed(2).key}"
    assert "lora.seed2 at step 500" in run("ls", root.parent)


def test_what_was_moved_aside_finishes_no_work(root: Path) -> None:
    train(root, mock=True)
    folder(root).reconcile(root / "lora", Provenance(TRAINED))
    assert (root / "lora.mock").is_dir()
    work = folder(root).work(root / "lora", Provenance(TRAINED, mock=True))
    checkpoint(work, 20)
    assert inspect_run(root).state == "stopped"
    assert [one.path for one in garbage.find_garbage(root)] == [root / "lora.mock"]


def test_only_what_says_so_itself_is_a_mock_result(root: Path) -> None:
    """Its name may be that of a further set."""
    answer(root, "baseline_predictions.jsonl", BASE)
    compared(root)
    rewrite(root / "compare.json", "compare.mock-2023.json", evaluation_set="mock-2023")
    (root / "report.mock-2023.html").write_bytes((root / "report.html").read_bytes())
    write_json(root / "metrics_lora.mock.json", {"schema_version": 1, "mock": False, "bleu": 0.5})
    assert garbage.find_garbage(root) == []


def test_a_set_named_damaged_is_listed(root: Path) -> None:
    answer(root, "baseline_predictions.damaged.jsonl", BASE)
    assert [one.path.name for one in inspect_run(root).artifacts] == ["baseline_predictions.damaged.jsonl"]


def test_recover_stays_in_its_own_folder(root: Path) -> None:
    (root / ".vlmtune").mkdir(parents=True)
    inner = folder(root / "demo")
    with inner.lock():
        file = inner.root / ".lora_predictions.jsonl.building"
        file.write_text("half")
        assert repair.repair(root, Progress(Silent())) == []
        assert file.exists()


def test_another_program_s_manifests_make_no_run_folder_and_are_left_alone(root: Path) -> None:
    (root / "sub").mkdir(parents=True)
    (root / "webpack.manifest.json").write_text('{"entry": "a.js"}')
    (root / "sub/.house.building").write_text("notes")
    before = snapshot(root)
    for verb in ("recover", "gc", "show"):
        assert "is no run folder" in run(verb, root, error=ConfigError)
    answer(root, "baseline_predictions.jsonl", BASE)
    assert inspect_run(root).problems == []
    assert repair.repair(root, Progress(Silent())) == []
    assert before.items() <= snapshot(root).items()


def test_gc_frees_a_merged_model_that_nothing_serves(root: Path) -> None:
    made = folder(root)
    whole, half = made.merged(Provenance(TUNED))[0], made.merged(Provenance(BASE))[0]
    half = half.with_name(f".{half.name}.building")
    old = made.work(root.parent / "dora", Provenance(TUNED)) / "merged"
    for place in (whole, half, old):
        place.mkdir(parents=True)
        (place / "model.safetensors").write_bytes(bytes(1000))
    assert inspect_run(root).state == "partial", "no command goes on from it"
    assert {one.path: one.remedy for one in repair.find_damage(root)} == {half: "remove"}
    with (
        lock_file(whole.with_name(f"{whole.name}.lock"), shared=True),
        lock_file(half.with_name(f"{half.name[1:13]}.lock")),
    ):
        assert repair.find_damage(root) == []
        assert [one.path for one in garbage.collect(root, Progress(Silent()))] == [old]
    assert {one.path for one in garbage.collect(root, Progress(Silent()))} == {whole, half}
    assert not any(place.exists() for place in (whole, half, old))


def finished(root: Path) -> Path:
    """A run whose comparison is about its adapter."""
    adapter = train(root)
    known = hash_adapter(adapter)
    answer(root, "baseline_predictions.jsonl", BASE)
    answer(root, "tuned.jsonl", {**BASE, "adapter": known})
    compared(root, adapter=known)
    assert (inspect_run(root).state, inspect_run(root).stale) == ("finished", None)
    return adapter


def test_a_comparison_of_another_adapter_is_stale(root: Path) -> None:
    adapter = finished(root)
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert "stale (lora is another adapter): improved" in run("ls", root.parent)
    assert "partly done" in run("ls", root.parent)
    assert "stale       lora is another adapter; compare again" in run("show", root)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    assert inspect_run(root).stale is None
    for file in root.glob("tuned.*"):
        file.unlink()
    answer(root, "tuned.jsonl", TUNED)
    assert json.loads(run("ls", root, "--json"))["runs"][0]["stale"] == "tuned.jsonl was made with another adapter"


def test_a_further_set_is_no_headline_and_one_the_config_lost_is_named(root: Path) -> None:
    finished(root)
    rewrite(root / "compare.json", additional=[{"name": "more"}], evaluation_set=None)
    for name in ("more", "old"):
        rewrite(root / "compare.json", f"c.{name}.json", evaluation_set=name, additional=[])
    assert inspect_run(root).notes == ["c.old.json is about the set old, which compare.json does not name"]
    assert "! c.old.json is about the set old" in run("show", root)
    (root / "compare.json").unlink()
    assert (inspect_run(root).state, inspect_run(root).comparison) == ("partial", None)


def test_a_file_that_only_looks_like_a_comparison_is_none(root: Path) -> None:
    answer(root, "baseline_predictions.jsonl", BASE)
    (root / "a.json").write_text('{"verdict": "guilty"}')
    (root / "x.json").symlink_to(root / "nowhere.json")
    assert "partly done" in run("ls", root.parent)
    assert inspect_run(root).comparison is None


@pytest.mark.parametrize("name", ["mock", "mock-2", "Real-2023", "damaged", "damaged-1"])
@pytest.mark.parametrize("key", ["additional", "baselines"])
def test_no_set_and_no_column_has_the_name_of_what_is_moved_aside(tmp_path: Path, name: str, key: str) -> None:
    rows = "{source: scenes, references: [caption_0], id: id}"
    entry = {"additional": f"dataset: {rows}, task: {{name: captioning}}", "baselines": "length_instruction: true"}[key]
    file = tmp_path / "c.yaml"
    text = f"model: {{name: tiny}}\ndataset: {rows}\ntask: {{name: captioning}}\n"
    text += f"evaluation: {{{key}: [{{name: NAME, {entry}}}]}}\n"
    file.write_text(text.replace("NAME", name))
    with pytest.raises(ConfigError, match="is reserved for other files"):
        load(file)
    file.write_text(text.replace("NAME", f"{name}s"))
    load(file)


def test_many_files_are_listed_in_linear_time(root: Path) -> None:
    """Looking for the file of every manifest in the whole folder would be quadratic."""

    def look(text: str) -> None:
        here = root.with_name(f"run{len(text)}")
        if not here.exists():
            one = answer(here, "a.jsonl", BASE)
            for n, made in itertools.product(range(len(text)), (one, one.with_name("a.manifest.json"))):
                os.link(made, made.with_name(made.name.replace("a", f"b{n}", 1)))
        assert len(inspect_run(here).artifacts) == len(text) + 1

    assert growth(look, "x", 100) < LINEAR
