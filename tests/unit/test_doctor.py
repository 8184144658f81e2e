"""The doctor names what is there, and never shows a credential."""

import json

import pytest

from vlmtune.checks.doctor import examine, render


def test_credentials_are_named_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    found = examine()
    assert found["credentials"]["HF_TOKEN"] is True
    assert "hf_canary" not in json.dumps(found) + render(found)


def test_a_missing_package_says_how_to_get_it() -> None:
    found = examine()
    found["packages"]["peft"] = None
    found["optional"]["wandb"] = None
    shown = render(found)
    assert "! peft          missing: run make install" in shown
    assert "not installed, optional: uv pip install wandb" in shown


def test_a_driver_that_torch_cannot_use_stands_out() -> None:
    found = examine() | {"driver": "570.1"}
    found["torch"] |= {"gpus": [], "cuda": "13.2"}
    assert "! gpu           driver 570.1 sees one, but torch (CUDA 13.2) cannot use it" in render(found)
