"""What this machine has for the job: Python, torch and driver, GPU, disk, credentials, optional parts.

Credentials are named, never shown.
"""

import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

NEEDED = ("torch", "transformers", "peft", "tokenizers", "datasets", "safetensors", "sacrebleu")
OPTIONAL = {"wandb": "uv pip install wandb", "torchvision": "uv pip install torchvision"}
CREDENTIALS = {"HF_TOKEN": "gated models and datasets", "WANDB_API_KEY": "tracking to Weights & Biases"}
LOGINS = {"HF_TOKEN": Path("~/.cache/huggingface/token"), "WANDB_API_KEY": Path("~/.netrc")}


def examine() -> dict[str, Any]:
    """Everything found, as plain values. Imports torch, because only torch knows which GPU it can use."""
    return {
        "schema_version": 1,
        "python": platform.python_version(),
        "executable": sys.executable,
        "packages": {name: _version(name) for name in NEEDED},
        "optional": {name: _version(name) for name in OPTIONAL},
        "torch": _torch(),
        "driver": _driver(),
        "disk_free_gb": round(shutil.disk_usage(Path.cwd()).free / 1e9, 1),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "credentials": {
            name: bool(os.environ.get(name)) or LOGINS[name].expanduser().is_file() for name in CREDENTIALS
        },
    }


def render(found: dict[str, Any]) -> str:
    """The findings as text; a line that needs attention begins with "!" and says what to do."""
    torch = found["torch"]
    lines = [f"  python        {found['python']}  ({found['executable']})"]
    for name, version in found["packages"].items():
        build = f" (CUDA {torch['cuda'] or 'none'})" if version and name == "torch" else ""
        lines.append(f"{' ' if version else '!'} {name:<13} {version or 'missing: run make install'}{build}")
    if torch["gpus"]:
        lines += [f"  gpu           {gpu['name']}, {gpu['memory_gb']} GB" for gpu in torch["gpus"]]
    elif found["driver"]:
        lines.append(
            f"! gpu           driver {found['driver']} sees one, but torch (CUDA {torch['cuda']}) cannot use it"
        )
    else:
        lines.append("  gpu           none: `vlmtune demo` and USE_MOCK=True run on the CPU; an 8B model wants a GPU")
    lines.append(f"  memory        {found['memory_gb']} GB")
    lines.append(f"{' ' if found['disk_free_gb'] > 40 else '!'} disk          {found['disk_free_gb']} GB free here"
                 + ("" if found["disk_free_gb"] > 40 else "; an 8B model needs about 40 GB"))  # fmt: skip
    for name, there in found["credentials"].items():
        lines.append(f"  {name:<13} {'present' if there else 'absent'}  (for {CREDENTIALS[name]})")
    for name, version in found["optional"].items():
        lines.append(f"  {name:<13} {version or 'not installed, optional: ' + OPTIONAL[name]}")
    return "\n".join(lines)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _torch() -> dict[str, Any]:
    try:
        import torch
    except ImportError as error:
        return {"version": None, "cuda": None, "gpus": [], "problem": str(error)}
    gpus = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
    named = [{"name": gpu.name, "memory_gb": round(gpu.total_memory / 1e9)} for gpu in gpus]
    return {"version": torch.__version__, "cuda": torch.version.cuda, "gpus": named, "problem": None}


def _driver() -> str | None:
    """Version of the NVIDIA driver, None where there is none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    query = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    return answer.stdout.splitlines()[0].strip() if answer.returncode == 0 and answer.stdout.strip() else None
