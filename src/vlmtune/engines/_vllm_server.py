"""A vLLM server as a process of ours: its environment, its command, start, health and end.

vLLM is never imported here: it pins its own torch and transformers, lives in an environment of its own, and is reached
over HTTP alone.

What a server must know about an adapter before it loads it: rank, whether it reaches the vision tower, its name.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from vlmtune.engines import _http as http
from vlmtune.engines._http import SERVER_KEY, with_environment
from vlmtune.errors import EnvironmentProblem, RemoteError

if TYPE_CHECKING:
    from vlmtune.processing.encoder import Encoder
import hashlib
from dataclasses import dataclass

from vlmtune.errors import AdapterRefused
from vlmtune.files import read_json

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Largest ranks that a vLLM server can be started for."""


@dataclass(frozen=True, slots=True)
class Served:
    """An adapter as a server takes it. `max_rank` is one of `RANKS`; `vision` says that it changes the vision tower."""

    folder: Path
    name: str
    max_rank: int
    vision: bool


def served(folder: Path) -> Served:
    """Read an adapter's files; its name is a hash of them, so that a server with an older one is noticed.

    Raises:
        AdapterRefused: vLLM cannot put this adapter on a model.
    """
    from safetensors import safe_open

    config = read_json(folder / "adapter_config.json")
    rank = max([config["r"], *(config.get("rank_pattern") or {}).values()])
    odd = {
        "DoRA": config.get("use_dora"),
        "modules_to_save (whole trained layers)": config.get("modules_to_save"),
        "trained biases": config.get("bias", "none") != "none" or config.get("lora_bias"),
        f"rank {rank}, more than {RANKS[-1]}": rank > RANKS[-1],
    }
    found = [name for name, there in odd.items() if there]
    if found:
        raise refusal(folder, f"the adapter has {' and '.join(found)}")
    file = folder / "adapter_model.safetensors"
    with safe_open(file, "np") as weights:
        vision = any(".visual." in name for name in weights.keys())  # noqa: SIM118
    both = (folder / "adapter_config.json").read_bytes() + file.read_bytes()
    digest = hashlib.sha256(both).hexdigest()[:12]
    return Served(folder.resolve(), f"adapter-{digest}", next(known for known in RANKS if known >= rank), vision)


def refusal(folder: Path, why: str) -> AdapterRefused:
    """The error for an adapter that vLLM does not take, with the way out."""
    return AdapterRefused(
        f"vLLM cannot serve {folder}: {why}. Merge it into the model and serve that (vlmtune export --merge), or "
        "answer with --set inference.engine=hf"
    )


PYTHON = Path(".venv-vllm/bin/python")
"""Where `make vllm-env` and the command of `install_command` put vLLM's environment, seen from the project's folder."""

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
LAST_LINES = 12
TICK_S = 0.25
ASK_S = 5.0
LOAD_S = 300.0
STOP_S = 20.0


def find_python(configured: str | None) -> Path:
    """The Python of vLLM's environment.

    Raises:
        EnvironmentProblem: vLLM is not installed there; says how to install it.
    """
    # Not resolved: a virtual environment's python is a link, and its own folder says whose packages it sees.
    python = Path(configured or PYTHON).absolute()
    if not python.exists():
        raise EnvironmentProblem(f"{python} is not there: vLLM lives in an environment of its own. Run: {_install()}")
    if not has_vllm(python):
        raise EnvironmentProblem(f"{python} has no vLLM. Run: {_install()}")
    return python


def has_vllm(python: Path = PYTHON) -> bool:
    """Whether vLLM is installed for a Python, seen without starting it."""
    return any(python.absolute().parent.parent.glob("lib/python*/site-packages/vllm/__init__.py"))


def install_command(gpu: bool) -> str:
    """The one command that makes vLLM's environment: with a GPU the build for its driver, without one the CPU's."""
    if not gpu:
        return "make vllm-env"
    return "uv venv --python 3.12 .venv-vllm && uv pip install --python .venv-vllm --torch-backend=auto vllm"


def command(
    python: Path,
    encoder: "Encoder",
    precision: str,
    adapter: Served | None,
    limits: Mapping[str, int | None],
    more: Sequence[str] = (),
) -> list[str]:
    """The command of a server for a checkpoint, able to take an adapter.

    Args:
        python: of vLLM's environment.
        encoder: of the checkpoint; its image limits become the server's.
        precision: bf16, fp16 or fp32. "auto" would turn an fp32 checkpoint into bf16.
        adapter: what must fit; None makes a server without adapters.
        limits: further options with a number, by name; None leaves one out.
        more: further words, last, so that they win.
    """
    checkpoint, sizes = encoder.checkpoint, encoder.image_processor.limits
    words = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", checkpoint.source]
    if checkpoint.commit is not None:
        words += ["--revision", checkpoint.commit, "--tokenizer-revision", checkpoint.commit]
    words += ["--served-model-name", checkpoint.name, "--dtype", DTYPES[precision]]
    # The checkpoint's generation_config would otherwise sample and penalise unasked.
    words += ["--generation-config", "vllm", "--limit-mm-per-prompt", json.dumps({"video": 0})]
    size = {"shortest_edge": sizes.min_pixels, "longest_edge": sizes.max_pixels}
    words += ["--mm-processor-kwargs", json.dumps({"size": size})]
    words += [word for name, number in limits.items() if number is not None for word in (f"--{name}", str(number))]
    if adapter is not None:
        # One more place than there are adapters: otherwise rows of the untouched model that share a batch with tuned
        # ones get the adapter, too (seen on CPUs).
        words += ["--enable-lora", "--max-loras", "2", "--max-lora-rank", str(adapter.max_rank)]
        # Without it the vision part of an adapter is dropped in silence.
        words += ["--enable-tower-connector-lora"] if adapter.vision else []
    return [*words, *more]


class Server:
    """A running server. `base_url` ends in /v1."""

    def __init__(self, words: Sequence[str], port: int, key: str | None, log: IO[bytes] | None) -> None:
        self.base_url = f"http://127.0.0.1:{port}/v1"
        self._root = f"http://127.0.0.1:{port}"
        self._key = key
        self._log = log
        # The key goes by the environment: everybody on the machine may read a command line.
        more = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"} | ({SERVER_KEY: key} if key else {})
        watcher = [sys.executable, "-I", str(Path(__file__).with_name("_supervisor.py"))]
        self._process = subprocess.Popen(
            [*watcher, *words, "--host", "127.0.0.1", "--port", str(port)],
            stdin=subprocess.PIPE,
            stdout=log or sys.stderr,
            stderr=subprocess.STDOUT,
            env=with_environment(more),
            start_new_session=True,
        )

    def wait(self, start_s: float, stop: Callable[[], None] = lambda: None) -> None:
        """Wait until it answers; `stop` is called meanwhile and may raise.

        Raises:
            EnvironmentProblem: it ended, or needs longer than `start_s` seconds.
        """
        until = time.monotonic() + start_s
        while True:
            stop()
            if self._process.poll() is not None:
                raise EnvironmentProblem(f"vLLM's server did not start{self.last_lines()}")
            reply = http.send(f"{self._root}/health", None, ASK_S)
            if isinstance(reply, http.Reply) and reply.status == 200:
                return
            if time.monotonic() > until:
                raise EnvironmentProblem(
                    f"vLLM's server was not ready after {start_s:g} s (inference.start_s){self.last_lines()}"
                )
            time.sleep(TICK_S)

    def load(self, adapter: Served) -> None:
        """Put an adapter under its name. Loaded first and not with a request: refused there, it ends the engine.

        Raises:
            AdapterRefused: the server refuses it.
            RemoteError: the server ended.
        """
        body = {"lora_name": adapter.name, "lora_path": str(adapter.folder)}
        reply = http.send(f"{self._root}/v1/load_lora_adapter", self._key, LOAD_S, body)
        if isinstance(reply, http.NoReply):
            raise RemoteError(f"vLLM's server {reply.said} while it loaded {adapter.folder}{self.last_lines()}")
        if reply.status != 200:
            raise refusal(adapter.folder, http.message(reply.body))

    def version(self) -> str | None:
        """Version of vLLM; None where the server does not say."""
        reply = http.send(f"{self._root}/version", self._key, ASK_S)
        found = json.loads(reply.body) if isinstance(reply, http.Reply) and reply.status == 200 else {}
        version: str | None = found.get("version")
        return version

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def look(self) -> None:
        """Nothing while it runs.

        Raises:
            RemoteError: it has ended.
        """
        if not self.running:
            raise RemoteError(
                "vLLM's server ended by itself; what was answered is kept: run the same command again"
                f"{self.last_lines()}"
            )

    def last_lines(self) -> str:
        """The end of its log, for a message; nothing where it goes to the terminal."""
        if self._log is None:
            return ""
        text = Path(self._log.name).read_text(encoding="utf-8", errors="replace")
        shown = "\n".join(f"  {line}" for line in text.replace(self._key or "\0", "…").splitlines()[-LAST_LINES:])
        return f"; the end of its log:\n{shown}"

    def stop(self) -> None:
        """End it and all that it started."""
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        if self._log is not None:
            self._log.close()


def open_log() -> IO[bytes]:
    """A log of its own for a server; gone when it is closed."""
    return tempfile.NamedTemporaryFile(prefix="vlmtune-vllm-", suffix=".log")


def _install() -> str:
    return install_command(gpu=shutil.which("nvidia-smi") is not None)
