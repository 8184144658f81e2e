"""Runs a vLLM server as a child process: finds its environment, builds the command line, starts and stops it.

vLLM pins its own torch and transformers. It is therefore installed in a separate environment, never imported, and only
reached over HTTP.
"""

import atexit
import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from vlmtune import environments
from vlmtune.engines import _http as http
from vlmtune.engines._http import SERVER_KEY, with_environment
from vlmtune.errors import AdapterRefused, EnvironmentProblem, RemoteError
from vlmtune.json_values import mismatch, parse_json
from vlmtune.modeling.adapter_names import current_name
from vlmtune.run_folder import largest_rank, read_adapter_config
from vlmtune.run_layout import ADAPTER_CONFIG, ADAPTER_WEIGHTS

if TYPE_CHECKING:
    from vlmtune.processing.encoder import Encoder

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values that vLLM accepts for `--max-lora-rank`."""


@dataclass(frozen=True, slots=True)
class ServedAdapter:
    """An adapter to serve. `max_rank` is one of `LORA_RANKS`; `vision` says whether it changes the vision tower."""

    folder: Path
    name: str
    max_rank: int
    vision: bool


def served(folder: Path) -> ServedAdapter:
    """Read an adapter's files. Its name is a hash of them, so that a server with another version is detected.

    Raises:
        AdapterRefused: vLLM does not support this adapter.
    """
    from safetensors import safe_open

    config = read_adapter_config(folder)
    rank = largest_rank(config)
    unsupported = {
        "DoRA": config.get("use_dora"),
        "modules_to_save (whole trained layers)": config.get("modules_to_save"),
        "adapters on stacked experts": config.get("target_parameters"),
        "trained biases": config.get("bias", "none") != "none" or config.get("lora_bias"),
        f"rank {rank}, more than {LORA_RANKS[-1]}": rank > LORA_RANKS[-1],
    }
    present = [name for name, is_present in unsupported.items() if is_present]
    if present:
        raise refusal(folder, f"the adapter has {' and '.join(present)}")
    file = folder / ADAPTER_WEIGHTS
    with safe_open(file, "np") as weights:
        names = list(weights.keys())
    if any(name != current_name(name) for name in names):
        raise refusal(folder, "its weights have names of another tool or an older version")
    vision = any(".visual." in name for name in names)
    content = (folder / ADAPTER_CONFIG).read_bytes() + file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()[:12]
    max_rank = next(known for known in LORA_RANKS if known >= rank)
    return ServedAdapter(folder.resolve(), f"adapter-{digest}", max_rank, vision)


def refusal(folder: Path, reason: str) -> AdapterRefused:
    """The error for an adapter that vLLM does not accept, with the alternatives."""
    return AdapterRefused(
        f"vLLM cannot serve {folder}: {reason}. Merge it into the model and serve that (vlmtune export --merge), or "
        "use --set inference.engine=hf"
    )


PYTHON = Path(".venv-vllm/bin/python")
"""Where `make vllm-env` and `install_command` put vLLM's environment, relative to the project's folder."""

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
LOG_LINES = 12
"""Lines of the server's log shown in an error."""
POLL_S = 0.25
QUERY_TIMEOUT_S = 5.0
LOAD_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 20.0


def find_python(configured: str | None) -> Path:
    """The Python of vLLM's environment.

    Raises:
        EnvironmentProblem: vLLM is not installed there; says how to install it.
    """
    return environments.find_python(Path(configured or PYTHON), "vLLM", "vllm", _install())


def has_vllm(python: Path = PYTHON) -> bool:
    """Whether vLLM is installed for a Python interpreter, without starting it."""
    return environments.has_package(python, "vllm")


def install_command(gpu: bool) -> str:
    """The command that creates vLLM's environment: the build for the GPU's driver, or the CPU build."""
    if not gpu:
        return "make vllm-env"
    return "uv venv --python 3.12 .venv-vllm && uv pip install --python .venv-vllm --torch-backend=auto vllm"


def command(
    python: Path,
    encoder: "Encoder",
    precision: str,
    adapters: Sequence[ServedAdapter],
    limits: Mapping[str, int | None],
    extra: Sequence[str] = (),
) -> list[str]:
    """The command line of a server for a checkpoint and adapters.

    Args:
        python: of vLLM's environment.
        encoder: of the checkpoint; its image limits become the server's.
        precision: bf16, fp16 or fp32. "auto" would turn an fp32 checkpoint into bf16.
        adapters: to be loaded later; without one, the server has no LoRA support.
        limits: further numeric options by name; those that are None are omitted.
        extra: further arguments; they come last, so that they take precedence.
    """
    checkpoint, sizes = encoder.checkpoint, encoder.image_processor.limits
    command_line = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", checkpoint.source]
    if checkpoint.commit is not None:
        command_line += ["--revision", checkpoint.commit, "--tokenizer-revision", checkpoint.commit]
    command_line += ["--served-model-name", checkpoint.name, "--dtype", DTYPES[precision]]
    if (template := template_file(encoder)) is not None:
        command_line += ["--chat-template", str(template)]
    # Otherwise sampling and penalties of the checkpoint's generation_config would apply.
    command_line += ["--generation-config", "vllm", "--limit-mm-per-prompt", json.dumps({"video": 0})]
    size = {"shortest_edge": sizes.min_pixels, "longest_edge": sizes.max_pixels}
    command_line += ["--mm-processor-kwargs", json.dumps({"size": size})]
    command_line += [part for name, value in limits.items() if value is not None for part in (f"--{name}", str(value))]
    if adapters:
        # One slot more than there are adapters: otherwise requests to the base model get the adapter, too, if they
        # share a batch with tuned ones (seen on CPUs).
        rank = max(adapter.max_rank for adapter in adapters)
        command_line += ["--enable-lora", "--max-loras", str(len(adapters) + 1), "--max-lora-rank", str(rank)]
        # Without this option, the vision part of an adapter is silently dropped.
        command_line += ["--enable-tower-connector-lora"] if any(one.vision for one in adapters) else []
    return [*command_line, *extra]


def template_file(encoder: "Encoder") -> Path | None:
    """A file with the chat template in effect, deleted when this process ends; None if it is the checkpoint's own."""
    if not encoder.renderer.custom:
        return None
    handle, name = tempfile.mkstemp(prefix="vlmtune-template-", suffix=".jinja")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(encoder.renderer.template_text)
    atexit.register(Path(name).unlink, missing_ok=True)
    return Path(name)


class Server:
    """A running server. `base_url` ends in /v1."""

    def __init__(self, command_line: Sequence[str], port: int, key: str | None, log: IO[bytes] | None) -> None:
        self.base_url = f"http://127.0.0.1:{port}/v1"
        self._root = f"http://127.0.0.1:{port}"
        self.key = key
        self._log = log
        # The key is passed in the environment: any user of the machine can read command lines.
        variables = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"} | ({SERVER_KEY: key} if key else {})
        supervisor = [sys.executable, "-I", str(Path(__file__).with_name("_supervisor.py"))]
        self._process = subprocess.Popen(
            [*supervisor, *command_line, "--host", "127.0.0.1", "--port", str(port)],
            stdin=subprocess.PIPE,
            stdout=log or sys.stderr,
            stderr=subprocess.STDOUT,
            env=with_environment(variables),
            start_new_session=True,
        )

    def wait(self, start_s: float, stop: Callable[[], None] = lambda: None) -> None:
        """Wait until the server is ready, calling `stop` meanwhile, which may raise.

        Raises:
            EnvironmentProblem: the server ended, or was not ready after `start_s` seconds.
        """
        deadline = time.monotonic() + start_s
        while True:
            stop()
            if self._process.poll() is not None:
                raise EnvironmentProblem(f"vLLM's server did not start{self.log_tail()}")
            reply = http.send(f"{self._root}/health", None, QUERY_TIMEOUT_S)
            if isinstance(reply, http.Reply) and reply.status == 200:
                return
            if time.monotonic() > deadline:
                raise EnvironmentProblem(
                    f"vLLM's server was not ready after {start_s:g} s (inference.start_s){self.log_tail()}"
                )
            time.sleep(POLL_S)

    def load(self, adapter: ServedAdapter) -> None:
        """Load an adapter under its name. Before any request: an adapter refused during one would end the server.

        Raises:
            AdapterRefused: the server refuses it.
            RemoteError: the server ended.
        """
        body = {"lora_name": adapter.name, "lora_path": str(adapter.folder)}
        reply = http.send(f"{self._root}/v1/load_lora_adapter", self.key, LOAD_TIMEOUT_S, body)
        if isinstance(reply, http.NoReply):
            raise RemoteError(f"vLLM's server {reply.reason} while it loaded {adapter.folder}{self.log_tail()}")
        if reply.status != 200:
            raise refusal(adapter.folder, http.message(reply.body))

    def version(self) -> str | None:
        """Version of vLLM; None if the server does not report it."""
        reply = http.send(f"{self._root}/version", self.key, QUERY_TIMEOUT_S)
        body = reply.body if isinstance(reply, http.Reply) and reply.status == 200 else b"null"
        with contextlib.suppress(ValueError):
            version = (value := parse_json(body)) and mismatch(value, dict[str, str]) is None and value.get("version")
            return str(version)[:100] if version else None
        return None

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self._process.poll() is None

    def check_alive(self) -> None:
        """Raise if the server has ended.

        Raises:
            RemoteError: it has.
        """
        if not self.running:
            self._kill_group()
            raise RemoteError(
                "vLLM's server ended unexpectedly; the answers so far are saved: run the same command again"
                f"{self.log_tail()}"
            )

    def log_tail(self) -> str:
        """The end of the server's log, for a message; empty if the log goes to the terminal."""
        if self._log is None:
            return ""
        text = Path(self._log.name).read_text(encoding="utf-8", errors="replace")
        shown = "\n".join(f"  {line}" for line in text.replace(self.key or "\0", "…").splitlines()[-LOG_LINES:])
        return f"; the end of its log:\n{shown}"

    def stop(self) -> None:
        """End the server and everything it started."""
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_TIMEOUT_S)
        self._kill_group()
        self._process.wait()
        if self._log is not None:
            self._log.close()

    def _kill_group(self) -> None:
        """Kill what is left of the supervisor and of all that it started; a killed supervisor could not."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


def open_log() -> IO[bytes]:
    """A temporary log file for a server; deleted when it is closed."""
    return tempfile.NamedTemporaryFile(prefix="vlmtune-vllm-", suffix=".log")


def _install() -> str:
    return install_command(gpu=shutil.which("nvidia-smi") is not None)
