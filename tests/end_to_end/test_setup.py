"""setup_gpu_env.sh keeps the torch a machine brings along. Here the machine's Python is the one that runs the tests."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import ROOT, Ended

WHERE = "import torch, vlmtune; print(torch.__version__, torch.__file__, vlmtune.__file__, sep='\\n')"
LEFT_BEHIND = shutil.ignore_patterns(
    ".venv*", ".bootstrap", ".git", "outputs", "uv.lock", "*.whl", ".*_cache", "__pycache__"
)


@pytest.fixture(scope="module")
def uv() -> Path:
    found = shutil.which("uv") or shutil.which("uv", path=str(ROOT / ".bootstrap" / "bin"))
    if found is None:
        pytest.skip("there is no uv: pip install uv")
    return Path(found)


@pytest.fixture
def clone(tmp_path: Path, uv: Path) -> Path:
    """A copy of the repository on a machine without a network, with everything in uv's cache."""
    folder = tmp_path / "a clone"
    shutil.copytree(ROOT, folder, ignore=LEFT_BEHIND)
    tried = run(folder, uv, str(uv), "sync", "--dry-run")
    if tried.returncode != 0:
        pytest.skip(f"uv's cache does not hold every package: {tried.stderr.strip().splitlines()[-1]}")
    (folder / "uv.lock").unlink(missing_ok=True)
    return folder


def run(folder: Path, uv: Path, *words: str) -> Ended:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("UV_", "VIRTUAL_ENV"))}
    if cache := os.environ.get("UV_CACHE_DIR"):
        environment["UV_CACHE_DIR"] = cache
    path = os.pathsep.join([str(Path(sys.executable).parent), str(uv.parent), os.environ["PATH"]])
    environment |= {"PATH": path, "UV_OFFLINE": "1", "UV_LINK_MODE": "symlink"}
    return subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )  # fmt: skip


def test_the_installed_torch_is_kept_and_uv_run_leaves_it_alone(clone: Path, uv: Path) -> None:
    ended = run(clone, uv, "bash", "setup_gpu_env.sh")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.startswith(f"keeping torch {torch.__version__} ({sys.executable})")
    for _ in range(2):
        ended = run(clone, uv, "uv", "run", "python", "-c", WHERE)
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.splitlines() == [
            torch.__version__,
            torch.__file__,
            str(clone / "src" / "vlmtune" / "__init__.py"),
        ]
    assert not list((clone / ".venv").glob("lib/python*/site-packages/torch"))


@pytest.mark.parametrize(
    ("found", "gpu", "reason"),
    [
        ("torch= version= cuda=", True, "no torch is installed here"),
        ("torch=2.9.0 version=3.10 cuda=12.8", True, "torch 2.9.0 belongs to Python 3.10"),
        ("torch=2.9.0+cpu version=3.12 cuda=cpu", True, "torch 2.9.0+cpu (/bin/python) was built without CUDA"),
        ("torch=2.9.0+cpu version=3.12 cuda=cpu", False, ""),
        ("torch=2.9.0+cu128 version=3.12 cuda=12.8", True, ""),
    ],
)
def test_a_torch_is_kept_unless_there_is_a_reason(found: str, gpu: bool, reason: str) -> None:
    script = f"source setup_gpu_env.sh; gpu_here() {{ {str(gpu).lower()}; }}; python=/bin/python {found}; objection"
    ended = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.startswith(reason)
    assert bool(ended.stdout) == bool(reason)
