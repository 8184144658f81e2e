"""Run folders as commands leave them: finished steps, stopped trainings, a process that works there now."""

import json
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from builders import judged, lines
from training_leftovers import leave_checkpoint as checkpoint

from vlmtune.compare_files import write_comparison
from vlmtune.files import append_lines, write_json
from vlmtune.progress import Progress, Silent, StatusFile
from vlmtune.run_folder import Provenance, RunFolder

MODEL = {"model": {"name": "tiny", "family": "qwen3_vl", "config_hash": "751dc9d8"}}
BASE = {**MODEL, "adapter": None, "inference": {}, "dataset": {"rows": 30, "fingerprint": "a6618abe5f85aebc"}}
TUNED = {**BASE, "adapter": "56e7f764"}
TRAINED = {**MODEL, "training": {"epochs": 1}}
DEAD = 2**22 + 1
"""A process that cannot be: Linux counts to 2**22."""


def folder(root: Path) -> RunFolder:
    return RunFolder(root, Progress(Silent()))


def answer(root: Path, name: str, origin: dict[str, Any], mock: bool = False) -> Path:
    file, made = root / name, folder(root)
    with made.lock():
        made.work(file, Provenance(origin, mock))
        made.write(file, "".join(line.to_json() + "\n" for line in lines(30, 0.4)))
        made.publish(file, Provenance(origin, mock), {"device": "cpu", "versions": {"torch": "2.0"}})
    return file


def train(root: Path, mock: bool = False, **facts: Any) -> Path:
    import numpy as np
    from safetensors.numpy import save_file

    adapter, made = root / "lora", folder(root)
    with made.lock():
        built = made.work(adapter, Provenance(TRAINED, mock)) / "adapter"
        built.mkdir()
        write_json(built / "adapter_config.json", {"r": 8})
        save_file({"a": np.zeros(64, np.float32)}, built / "adapter_model.safetensors")
        curve = [{"step": 1, "loss": 4.0}, {"step": 5, "loss": 2.0}, {"step": 9, "loss": 1.0}]
        made.publish(adapter, Provenance(TRAINED, mock), {"curve": curve, "chosen_step": 9, **facts}, built)
    return adapter


def stopped(root: Path, *steps: int) -> Path:
    """What a training that was killed left."""
    made = folder(root)
    with made.lock():
        work = made.work(root / "lora", Provenance(TRAINED))
    (work / "curve.jsonl").write_text('{"step": 1, "loss": 4.0}\n{"step": 10, "lo')
    for step in steps:
        checkpoint(work, step)
    shown = StatusFile(Silent(), root / ".vlmtune/status.json")
    shown.update("train", 0, 90, {})
    shown.update("train", 34, 90, {"loss": 2.5})
    shown.end("train")
    (root / ".vlmtune/lock").write_text(f"process {DEAD} on {socket.gethostname()}\n")
    return work


def compared(root: Path, mock: bool = False, adapter: str | None = None, **more: Any) -> None:
    """What a compare step writes; `more` goes into the JSON file of it."""
    made = {"manifest_a": {"mock": mock, "origin": BASE}, "manifest_b": {"mock": mock, "origin": TUNED}}
    if adapter is not None:
        made["manifest_b"]["origin"] = {**BASE, "adapter": adapter}
    sides = judged(lines(30, 0.6), lines(30, 0.2), **made)
    for name in ("compare.json", "report.html"):
        write_comparison(sides, root / name, [])
    if more:
        rewrite(root / "compare.json", **more)


def rewrite(file: Path, to: str | None = None, **more: Any) -> None:
    write_json(file.with_name(to or file.name), json.loads(file.read_text(encoding="utf-8")) | more)


WORK = ".vlmtune/lora-0123456789ab"
ANSWERING = ".vlmtune/lora_predictions-0123456789ab"


class Worker:
    """What a run leaves on disk as it goes; this process holds the lock."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / WORK).mkdir(parents=True)
        self.held = ExitStack()
        self.held.enter_context(RunFolder(root, Progress(Silent())).lock())
        self.listener = StatusFile(Silent(), root / ".vlmtune/status.json")

    def at(self, done: int, **facts: float) -> None:
        self.listener._written = 0.0
        self.listener.update("train", done, 90, facts)

    def point(self, step: int, **values: float) -> None:
        append_lines(self.root / WORK / "curve.jsonl", [json.dumps({"step": step, **values})])

    def answer(self, count: int) -> None:
        (self.root / ANSWERING).mkdir()
        append_lines(self.root / ANSWERING / "answers.jsonl", [line.to_json() for line in lines(count, 0.2)])

    def end(self) -> None:
        self.held.close()
