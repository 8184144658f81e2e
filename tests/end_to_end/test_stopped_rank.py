"""A signal to one of two ranks: all end, none waits for the other, and the same command ends in the same adapter."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import Ended, warm_ranks
from process_signals import signalled_when

STEPS = 12
CONFIG = f"""\
model: {{name: tiny, device: cpu}}
dataset: {{source: scenes, references: [caption_0], id: id, limit: {{train: {4 * STEPS}, validation: 4, test: 4}}}}
task: {{name: captioning}}
training: {{precision: fp32, batch_size: 4, epochs: 1, save_every_steps: 1, log_every_steps: 1, workers: 0}}
output: {{dir: out}}
"""
TRAIN = ["train", "c.yaml"]
ADAPTER = "out/lora/adapter_model.safetensors"
SAVED = "out/.vlmtune/*/step-*"


def train(folder: Path, *before: Callable[[], None] | None) -> list[Ended]:
    (folder / "c.yaml").write_text(CONFIG, encoding="utf-8")
    return warm_ranks(TRAIN, folder, before or (None, None))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("undisturbed ranks")
    ended = train(folder)
    assert [one.returncode for one in ended] == [0, 0], ended[0].stderr
    return (folder / ADAPTER).read_bytes()


def goes_on(folder: Path, undisturbed: bytes) -> None:
    assert not (folder / ADAPTER).exists()
    ended = train(folder)
    assert [one.returncode for one in ended] == [0, 0], ended[0].stderr
    assert "resuming after step" in ended[0].stderr
    assert (folder / ADAPTER).read_bytes() == undisturbed
    assert json.loads((folder / "out/lora/vlmtune.json").read_text())["steps"] == STEPS


@pytest.mark.parametrize(
    ("rank", "number", "codes"),
    [
        (0, signal.SIGTERM, [75, 75]),
        (1, signal.SIGTERM, [75, 75]),
        (0, signal.SIGKILL, [-9, 4]),
        (1, signal.SIGKILL, [4, -9]),
    ],
)
def test_one_rank_is_stopped(
    rank: int, number: signal.Signals, codes: list[int], undisturbed: bytes, tmp_path: Path
) -> None:
    """No torchrun watches here: the other rank notices by itself."""
    stopping = signalled_when(SAVED, number, tmp_path / "at")
    ended = train(tmp_path, *(stopping if n == rank else None for n in (0, 1)))
    took = time.time() - float((tmp_path / "at").read_text())
    print(f"{number.name} to rank {rank}: both had ended after {took:.1f} s")
    said = "".join(one.stderr for one in ended)
    assert [one.returncode for one in ended] == codes, said
    assert "un the same command again" in said
    assert "Traceback" not in said
    goes_on(tmp_path, undisturbed)


def test_torchrun_ends_all_where_one_was_killed(undisturbed: bytes, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = ["--master-addr", "127.0.0.1", "--master-port", str(free.getsockname()[1])]
    (tmp_path / "c.yaml").write_text(CONFIG, encoding="utf-8")
    (tmp_path / "killed.py").write_text(
        "import os, signal, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from pathlib import Path\n"
        "from process_signals import signalled_when\n"
        "from vlmtune.cli.app import main\n"
        "if os.environ['RANK'] == '1':\n"
        f"    signalled_when({SAVED!r}, signal.SIGKILL, Path('at'))()\n"
        "main()\n",
        encoding="utf-8",
    )
    starting = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *place, "killed.py", *TRAIN]
    ended = subprocess.run(starting, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    took = time.time() - float((tmp_path / "at").read_text())
    print(f"torchrun had ended {took:.1f} s after SIGKILL to rank 1")
    assert ended.returncode == 1, ended.stderr
    goes_on(tmp_path, undisturbed)
