"""The environment on this machine: Python, packages, driver, GPU, disk, memory, credentials.

Credentials are looked up where the libraries look, and only reported as present or absent.
"""

import netrc
import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from vlmtune.engines import has_vllm, install_command

REQUIRED = ("torch", "transformers", "peft", "tokenizers", "datasets", "safetensors", "sacrebleu")
OPTIONAL = {"wandb": "uv pip install wandb", "torchvision": "uv pip install torchvision"}
CREDENTIALS = {"HF_TOKEN": "gated models and datasets", "WANDB_API_KEY": "tracking to Weights & Biases"}
WANDB_HOST = "api.wandb.ai"
MODEL_GB = 40
"""Free disk space below which an 8B model may not fit."""

VLLM_CAPABILITY = 7.5
"""Lowest compute capability that vLLM supports (Turing)."""

NVIDIA_SMI_TIMEOUT_S = 20.0


def examine() -> dict[str, Any]:
    """The environment as JSON values. Imports torch, because only torch knows which GPUs it can use."""
    return {
        "schema_version": 1,
        "python": platform.python_version(),
        "executable": sys.executable,
        "packages": {name: _version(name) for name in REQUIRED},
        "optional": {name: _version(name) for name in OPTIONAL},
        "torch": (torch := _torch()),
        "attention": attention_kernels("cuda") if torch["gpus"] else {},
        **_driver(),
        "vllm": has_vllm(),
        "disk_free_gb": _free_gb(Path.cwd()),
        **_cache(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "credentials": {"HF_TOKEN": _hub_token(), "WANDB_API_KEY": _wandb_key()},
    }


def render(environment: dict[str, Any]) -> str:
    """The environment as text. A line that needs attention starts with "!" and says what to do."""
    torch = environment["torch"]
    lines = [f"  python        {environment['python']}  ({environment['executable']})"]
    for name, version in environment["packages"].items():
        build = f" (CUDA {torch['cuda'] or 'none'})" if version and name == "torch" else ""
        lines.append(f"{' ' if version else '!'} {name:<13} {version or 'missing: run make install'}{build}")
    if torch["problem"]:
        lines.append(f"! torch         {torch['problem']}")
    if environment["driver_problem"]:
        lines.append(f"! driver        {environment['driver_problem']}")
    if torch["gpus"]:
        lines += [f"  gpu           {gpu['name']}, {gpu['memory_gb']} GB" for gpu in torch["gpus"]]
    elif environment["driver"]:
        lines.append(
            f"! gpu           driver {environment['driver']} sees one, but torch (CUDA {torch['cuda']}) cannot use it"
        )
    elif not environment["driver_problem"]:
        lines.append("  gpu           none: `vlmtune demo` and USE_MOCK=True run on the CPU; an 8B model needs a GPU")
    lines += [_kernel(name, problems) for name, problems in environment["attention"].items()]
    lines.append(f"  memory        {environment['memory_gb']} GB")
    need = f"an 8B model needs about {MODEL_GB} GB"
    lines += [
        _disk(environment["disk_free_gb"], "here, where results go", 1, "checkpoints need some"),
        _disk(environment["cache_free_gb"], f"in {environment['cache']}", MODEL_GB, need),
    ]
    for name, present in environment["credentials"].items():
        lines.append(f"  {name:<13} {'present' if present else 'absent'}  (for {CREDENTIALS[name]})")
    for name, version in environment["optional"].items():
        lines.append(f"  {name:<13} {version or 'not installed, optional: ' + OPTIONAL[name]}")
    lines.append(f"  vllm          {_vllm(environment)}")
    return "\n".join(lines)


def attention_kernels(device: str) -> dict[str, dict[str, str | None]]:
    """For every attention kernel and head size, why the kernel cannot be used in bf16; None where it can."""
    import torch

    from vlmtune.modeling import varlen

    return {
        kernel: {
            str(size): varlen.problem(kernel, size, torch.bfloat16, torch.device(device), causal="language" in part)
            for size, part in varlen.HEAD_SIZES.items()
        }
        for kernel in varlen.MODULES
    }


def _kernel(name: str, problems: dict[str, str | None]) -> str:
    """One line; attention is slower where torch's own kernel does not work, and flash-attn is optional."""
    works = [size for size, problem in problems.items() if problem is None]
    why = {problem: size for size, problem in problems.items() if problem is not None}
    said = [f"works for heads of {', '.join(works)}"] if works else []
    said += [f"not for {size}: {problem}" if works else problem for problem, size in why.items()]
    return f"{'!' if why and name == 'varlen' else ' '} {name:<13} attention in one call: {'; '.join(said)}"


def _vllm(environment: dict[str, Any]) -> str:
    """Whether vLLM is installed; if not, the command that installs it for this GPU, or why there is none."""
    if environment["vllm"]:
        return "installed in its own environment"
    gpus = environment["torch"]["gpus"]
    old = [gpu["name"] for gpu in gpus if gpu["capability"] < VLLM_CAPABILITY]
    if old:
        return f"not installed, and it does not run on {old[0]}: it needs compute capability 7.5 or higher"
    return f"not installed, optional: {install_command(gpu=bool(gpus or environment['driver']))}"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _disk(free_gb: float | None, where: str, needed_gb: float, why: str) -> str:
    if free_gb is None:
        return f"! disk          the free space {where} is unknown"
    short = free_gb < needed_gb
    return f"{'!' if short else ' '} disk          {free_gb} GB free {where}" + (f"; {why}" if short else "")


def _torch() -> dict[str, Any]:
    absent: dict[str, Any] = {"version": None, "cuda": None, "gpus": []}
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a library that torch links to is missing
        return {**absent, "problem": str(error)}
    versions = {"version": torch.__version__, "cuda": torch.version.cuda}
    try:
        gpus = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
    except (RuntimeError, AssertionError) as error:
        return {**versions, "gpus": [], "problem": f"the GPU cannot be queried: {str(error).splitlines()[0]}"}
    described = [
        {"name": gpu.name, "memory_gb": round(gpu.total_memory / 1e9), "capability": gpu.major + gpu.minor / 10}
        for gpu in gpus
    ]
    return {**versions, "gpus": described, "problem": None}


def _driver() -> dict[str, str | None]:
    """Version of the NVIDIA driver, None if there is none, and what is wrong with it."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return {"driver": None, "driver_problem": None}
    query = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        result = subprocess.run(
            query, capture_output=True, text=True, timeout=NVIDIA_SMI_TIMEOUT_S, check=False, errors="replace"
        )
    except subprocess.TimeoutExpired:
        problem = f"nvidia-smi did not answer within {NVIDIA_SMI_TIMEOUT_S:g} s: the driver hangs; restart the machine"
        return {"driver": None, "driver_problem": problem}
    except OSError as error:
        return {"driver": None, "driver_problem": f"nvidia-smi cannot be run: {error.strerror}"}
    lines = (result.stdout + result.stderr).strip().splitlines()
    if result.returncode != 0 or not lines:
        why = lines[0].strip() if lines else "no output"
        return {"driver": None, "driver_problem": f"nvidia-smi failed ({result.returncode}): {why}"}
    return {"driver": lines[0].strip(), "driver_problem": None}


def _cache() -> dict[str, Any]:
    """Where models and datasets from the Hub are cached, and the free space there."""
    from huggingface_hub import constants

    return {"cache": constants.HF_HUB_CACHE, "cache_free_gb": _free_gb(Path(constants.HF_HUB_CACHE))}


def _free_gb(folder: Path) -> float | None:
    """Free space on the disk of a folder that may not exist yet; None where it may not be read."""
    try:
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        return round(shutil.disk_usage(existing).free / 1e9, 1)
    except OSError:
        return None


def _hub_token() -> bool:
    from huggingface_hub import get_token
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return bool(get_token())
    except (HfHubHTTPError, OSError, ValueError):  # a login that no longer works does not count
        return False


def _wandb_key() -> bool:
    """Whether the environment has a key, or the file that wandb reads has a login."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    named = os.environ.get("NETRC")
    files = [Path(named)] if named else [Path("~/.netrc"), Path("~/_netrc")]
    try:
        file = next((file.expanduser() for file in files if file.expanduser().exists()), None)
        return file is not None and WANDB_HOST in netrc.netrc(file).hosts
    except (netrc.NetrcParseError, OSError, ValueError):
        return False
