"""How a command starts and how it ends."""

import sys
from pathlib import Path

import pytest
import typer
from commands import vlmtune

from vlmtune import registry
from vlmtune.cli.app import run_and_exit
from vlmtune.errors import Exit


def test_ctrl_c_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    """Typer hands it back as a returned number."""
    app = typer.Typer()

    @app.command()
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        run_and_exit(lambda: app([], standalone_mode=False))
    assert end.value.code == Exit.INTERRUPTED
    assert "stopped immediately" in capsys.readouterr().err


def test_a_module_in_the_current_folder_does_not_take_the_place_of_a_library(tmp_path: Path) -> None:
    """A downloaded dataset may have a file named numpy.py beside its images."""
    for library in ("numpy", "yaml", "PIL"):
        (tmp_path / f"{library}.py").write_text("raise SystemExit(42)")
    (tmp_path / "c.yaml").write_text("dataset: {source: scenes}\ntask: {name: captioning}\n")
    ended = vlmtune("data", "stats", "c.yaml", "--set", "dataset.limit.test=2", cwd=tmp_path)
    assert ended.returncode != 42, ended.stderr


def test_a_custom_module_is_found_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After all libraries, and only while it is imported."""
    (tmp_path / "of_a_team.py").write_text("import json\nfrom of_a_friend import here")
    (tmp_path / "of_a_friend.py").write_text("here = True")
    (tmp_path / "json.py").write_text("raise SystemExit(42)")
    (tmp_path / "teams").mkdir()
    (tmp_path / "teams/engine.py").write_text("import of_a_team")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert registry.load("engines", "teams.engine").of_a_team.here
    assert sys.path == before
