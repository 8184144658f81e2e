"""The doctor names what is there, and never shows a credential; whatever it meets, it answers."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from vlmtune import doctor
from vlmtune.doctor import examine, render


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without logins."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("HF_TOKEN", "WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    return tmp_path


def test_credentials_are_named_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    found = examine()
    assert found["credentials"]["HF_TOKEN"] is True
    assert "hf_canary" not in json.dumps(found) + render(found)


def test_logins_are_found_where_the_libraries_look(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / ".netrc").write_text("machine github.com login me password canary-1\n")
    assert examine()["credentials"] == {"HF_TOKEN": False, "WANDB_API_KEY": False}
    (home / "token").write_text("hf_canary")
    (home / ".netrc").write_text("machine api.wandb.ai login user password canary-2\n")
    assert examine()["credentials"] == {"HF_TOKEN": True, "WANDB_API_KEY": True}
    assert "canary" not in json.dumps(examine())
    (home / ".netrc").write_text("machine api.wandb.ai login\nno netrc at all")
    assert examine()["credentials"]["WANDB_API_KEY"] is False
    (home / "other").write_text("machine api.wandb.ai login user password canary-3\n")
    monkeypatch.setenv("NETRC", str(home / "other"))
    assert examine()["credentials"]["WANDB_API_KEY"] is True


def test_the_disk_of_the_model_cache_is_checked(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(home / "far/away"))
    found = examine()
    assert (found["cache"], found["cache_free_gb"] > 0) == (str(home / "far/away"), True)
    shown = render(found | {"disk_free_gb": 20.0, "cache_free_gb": 10.0})
    assert "  disk          20.0 GB free here" in shown
    assert f"! disk          10.0 GB free in {home}/far/away; an 8B model needs about 40 GB" in shown


def test_a_missing_package_says_how_to_get_it() -> None:
    found = examine()
    found["packages"]["peft"] = None
    found["optional"]["wandb"] = None
    shown = render(found)
    assert "! peft          missing: run make install" in shown
    assert "not installed, optional: uv pip install wandb" in shown


def test_a_driver_that_torch_cannot_use_stands_out() -> None:
    found = examine() | {"driver": "570.1", "driver_problem": None}
    found["torch"] |= {"gpus": [], "cuda": "13.2"}
    assert "! gpu           driver 570.1 sees one, but torch (CUDA 13.2) cannot use it" in render(found)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("sleep 30", "nvidia-smi did not answer within 0.2 s: the driver hangs"),
        ("echo 'NVIDIA-SMI has failed: mismatch'; exit 18", "nvidia-smi failed (18): NVIDIA-SMI has failed: mismatch"),
        ("exit 0", "nvidia-smi failed (0): no output"),
    ],
)
def test_a_failing_driver_is_reported(script: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script.replace('sleep', 'exec sleep')}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(doctor, "NVIDIA_SMI_TIMEOUT_S", 0.2)
    found = examine()
    assert found["driver"] is None
    assert f"! driver        {said}" in render(found)


@pytest.mark.parametrize(
    ("capability", "driver", "there", "said"),
    [
        (9.0, "570.1", True, "installed in its own environment"),
        (9.0, "570.1", False, "--torch-backend=auto vllm"),
        (7.0, "570.1", False, "does not run on Old 100: it needs compute capability 7.5"),
        (None, None, False, "optional: make vllm-env"),
    ],
)
def test_the_one_command_for_vllm(capability: float | None, driver: str | None, there: bool, said: str) -> None:
    found = examine() | {"driver": driver, "driver_problem": None, "vllm": there}
    gpu = {"name": "Old 100", "memory_gb": 16, "capability": capability}
    found["torch"] |= {"gpus": [] if capability is None else [gpu], "cuda": "13.0"}
    (line,) = [line for line in render(found).splitlines() if line.startswith("  vllm ")]
    assert said in line


def test_attention_kernels_that_do_not_work_say_why() -> None:
    """Torch's own kernel has none for a CPU, and says so when it is tried."""
    tried = doctor.attention_kernels("cpu")
    assert [set(sizes) for sizes in tried.values()] == [{"72", "128", "256"}] * 2
    assert all(tried["varlen"].values())
    lines = render(examine() | {"attention": tried}).splitlines()
    (line,) = [line for line in lines if line.startswith("! varlen ")]
    assert "attention in one call: " in line
    partly = {"varlen": {"128": None, "72": "differs by 0.3", "256": None}, "flash": {"128": None}}
    shown = render(examine() | {"attention": partly})
    assert "! varlen        attention in one call: works for heads of 128, 256; not for 72: differs by 0.3" in shown
    assert "  flash         attention in one call: works for heads of 128" in shown


def test_a_tool_that_cannot_be_run_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*words: Any, **more: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.shutil, "which", lambda name: name)
    monkeypatch.setattr(subprocess, "run", refuse)
    assert "nvidia-smi cannot be run: Permission denied" in render(examine())
