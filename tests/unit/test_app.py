"""How a command starts and how it ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from commands import command, vlmtune

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


def test_what_the_system_refuses_is_no_bug(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another user's run folder, for example."""

    def refused() -> None:
        raise PermissionError(13, "Permission denied", "/shared/of-others/run")

    with pytest.raises(SystemExit) as end:
        run_and_exit(refused)
    assert end.value.code == Exit.ENVIRONMENT
    assert "/shared/of-others/run: Permission denied. Allow vlmtune to use it" in capsys.readouterr().err

    def broken() -> None:
        raise OSError("no file, and no reason")

    with pytest.raises(OSError, match="no reason"):
        run_and_exit(broken)


def test_output_that_cannot_be_written_and_a_folder_that_is_gone(tmp_path: Path) -> None:
    """Four endings of one short command: a full disk, a closed pipe, no output at all, a deleted current folder."""
    words = f"{sys.executable} -m vlmtune config schema"
    gone = tmp_path / "gone"
    script = f"""
{words} > /dev/full; echo full $?
{words} | true; echo pipe ${{PIPESTATUS[0]}}
{words} >&-; echo closed $?
mkdir {gone}; cd {gone}; rmdir {gone}; {words.replace("schema", "show demo")} > /dev/null; echo gone $?
"""
    ended = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert ended.stdout.split("\n")[:4] == ["full 4", "pipe 0", "closed 0", "gone 4"]
    assert ended.stderr == (
        "error: the output cannot be written: no space left\n"
        "error: the current folder no longer exists; change to another one\n"
    )


def test_plain_ascii_and_no_home_are_enough(tmp_path: Path) -> None:
    file = tmp_path / "ä.jsonl"
    file.write_text('{"id": "é", "prediction": "ein Käfer", "references": ["ein Käfer"]}\n', encoding="utf-8")
    bare = {name: value for name, value in os.environ.items() if name != "HOME" and not name.startswith("LC_")}
    words = [sys.executable, "-m", "vlmtune", "score", file.name, "--metrics", "bleu"]
    plain = {**bare, "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    ended = subprocess.run(words, capture_output=True, cwd=tmp_path, env=plain, check=False)
    assert ended.returncode == 0, ended.stderr
    assert b"bleu" in ended.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["vlmtune", "dat"], "data"),
        (["vlmtune", "data", "label"], "label-errors"),
        (["vlmtune", "run", "demo_gr"], "demo_grounding.yaml"),
        (["vlmtune", "run", "demo", "--accept"], "--accept-failures"),
    ],
)
def test_bash_completes_commands_configs_and_options(words: list[str], expected: str, tmp_path: Path) -> None:
    """In a real shell, which sources what `vlmtune completion bash` prints."""
    shell = (
        'eval "$(vlmtune completion bash)"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _vlmtune_completion vlmtune; '
        'echo "${COMPREPLY[@]}"'
    )
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    ended = command("bash", "-c", shell, "bash", *words, cwd=tmp_path, PATH=path)
    assert ended.stdout.split() == [expected], ended.stderr
